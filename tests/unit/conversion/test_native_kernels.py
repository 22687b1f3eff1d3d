"""The programs of other levels' tests, compiled: native code gives what the interpreter gives for the tensors.

The tiling tests' kernels go through one module and one call of clang, and so do the buffer tests' programs.
STEPWELL_TEST_ALL=1 takes every kernel instead of a sample.
"""

import importlib.util
import itertools
import os
from pathlib import Path

import numpy as np
from native import build_models, llvm_ir, needs_clang, run_model
from xdsl.dialects.builtin import ModuleOp, StringAttr, TensorType

from stepwell.compat import new_context, parse_module
from stepwell.diagnostics import UnsupportedOperation
from stepwell.interpreter import interpret
from stepwell.pipelines import resolve_pipeline, run_pipeline
from stepwell.registry import DIALECTS

_UNIT = Path(__file__).parents[1]
_TO_LLVM = (
    "lift-parallel, promote-scratch, plan-memory, unroll-vectors, expand-math, kernels-to-llvm, host-to-llvm"
)
_VECTORS = (
    f"assign-schedules, tile-and-fuse, vectorise, loop-over-rows, linalg-to-loops, bufferize, {_TO_LLVM}"
)
_LOOPS = f"linalg-to-loops, bufferize, {_TO_LLVM}"
_SAMPLE = 1 if os.environ.get("STEPWELL_TEST_ALL") else 9


def _load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Reached(Exception):
    pass


def _tiling_cases():
    """Every (name, text, inputs) that the tiling tests would check."""
    cases = _load(_UNIT / "transforms" / "test_tiling_and_vectors.py")
    found = []

    def check(kernel, *results, target="x86-64-v4", **_):
        rng = np.random.default_rng(len(found))
        inputs = [rng.integers(-3, 4, s).astype(cases.DTYPES[e]) for _, s, e in kernel.arguments]
        found.append((f"{name} {kernel.arguments}", _with_main(kernel, results), inputs))
        raise _Reached

    cases.check = check
    for name, function in list(vars(cases).items()):
        marks = [mark for mark in getattr(function, "pytestmark", []) if mark.name == "parametrize"]
        if not name.startswith("test_"):
            continue
        for values in itertools.product(*(mark.args[1] for mark in marks)):
            try:
                function(**{mark.args[0]: value for mark, value in zip(marks, values, strict=True)})
            except _Reached:
                continue
    return found


def _with_main(kernel, results) -> str:
    text = kernel.text(*results).replace("func.func @main", "func.func private @kernel")
    arguments = ", ".join(f"{n}: {kernel.type(s, e)}" for n, s, e in kernel.arguments)
    names = ", ".join(n for n, _, _ in kernel.arguments)
    types = ", ".join(kernel.type(s, e) for _, s, e in kernel.arguments)
    outs = ", ".join(kernel.type(r[1], r[2]) for r in results)
    given = ", ".join(f"%r#{i}" for i in range(len(results))) if len(results) > 1 else "%r"
    count = f":{len(results)}" if len(results) > 1 else ""
    return f"""{text}
func.func @main({arguments}) -> ({outs}) {{
  %r{count} = func.call @kernel({names}) : ({types}) -> ({outs})
  func.return {given} : {outs}
}}"""


def _check_all(cases, passes: str, tmp_path) -> None:
    whole, expected, unsupported = ModuleOp([]), [], []
    for name, text, inputs in cases:
        ctx = new_context(DIALECTS)
        module = parse_module(ctx, text)
        main = next(op for op in module.ops if op.properties["sym_name"].data == "main")
        types = main.properties["function_type"].inputs.data
        if any(not isinstance(type, TensorType) for type in types):
            continue  # a host function takes tensors only
        dims = [e for t, x in zip(types, inputs, strict=True)
                for e, known in zip(x.shape, t.get_shape(), strict=True) if known < 0]  # fmt: skip
        want = interpret(module, [x.copy() for x in inputs], ctx)
        run_pipeline(ctx, module, resolve_pipeline("set-target{target=x86-64-v4}"))
        try:
            run_pipeline(ctx, module, resolve_pipeline(passes))
        except UnsupportedOperation as error:
            unsupported.append(f"{name}: {error}")
            continue
        except Exception as error:
            raise AssertionError(f"{name}: {error}") from error
        _merge(whole, module, len(expected))
        expected.append((name, inputs, dims, want))
    assert len(unsupported) <= len(cases) // 20, unsupported
    library = build_models(llvm_ir(whole), tmp_path)
    wrong = []
    for number, (name, inputs, dims, want) in enumerate(expected):
        got = run_model(library, [x.copy() for x in inputs], dims, want, f"main_{number}")
        for a, b in zip(want, got, strict=True):
            if a.shape != b.shape or not np.array_equal(a, b, equal_nan=a.dtype.kind == "f"):
                wrong.append(f"{number} {name}: {b} is not {a}")
    assert not wrong, "\n".join(wrong)


def _merge(whole: ModuleOp, module: ModuleOp, number: int) -> None:
    """Put the functions of `module` into `whole` under names of their own."""
    have = {op.properties["sym_name"].data for op in whole.ops}
    renamed = {}
    for op in list(module.ops):
        name = op.properties["sym_name"].data
        if op.name == "llvm.func" and not op.body.blocks:
            new = name
        else:
            new = f"main_{number}" if name == "stepwell_main" else f"{name}_{number}"
        renamed[name] = new
        op.detach()
        if new not in have:
            op.properties["sym_name"] = StringAttr(new)
            whole.body.block.add_op(op)
            for inner in op.walk():
                for key in ("callee", "global_name"):
                    if key in inner.properties:
                        inner.properties[key] = _Later(inner.properties[key])
    for op in whole.walk():
        for key in ("callee", "global_name"):
            if isinstance(later := op.properties.get(key), _Later):
                name = later.symbol.root_reference.data
                op.properties[key] = type(later.symbol)(renamed[name])


class _Later:
    """A symbol of the module being merged, not renamed yet."""

    def __init__(self, symbol):
        self.symbol = symbol


@needs_clang
def test_tiled_and_vectorised_kernels(tmp_path):
    found = _tiling_cases()
    assert len(found) > 200
    _check_all(found[::_SAMPLE], _VECTORS, tmp_path)


@needs_clang
def test_scalar_loops_buffers_and_control_flow(tmp_path):
    cases = _load(_UNIT / "conversion" / "test_buffer_semantics.py").CASES
    _check_all([(case.id, case.values[0], case.values[1]) for case in cases], _LOOPS, tmp_path)
