"""
Every operator with every element type that its schema allows, held against ONNX Runtime.

    python -m tests.conformance.element_types                  what ONNX Runtime takes and stepwell refuses
    python -m tests.conformance.element_types -k '^(Add|Mod)$' --run    compile, run and compare these operators

The models are ONNX's own node tests: one of each operator, whose operands and results of one type variable are cast.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from tests.conformance.cases import all_cases

OPSET, IR_VERSION = 26, 10
"""The newest that ONNX Runtime reads."""

_RANDOM = {
    "Bernoulli",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
}
_UNDEFINED = {"Cast", "CastLike"}
"""Their tests have numbers that do not fit the type, of which ONNX says nothing."""
_TYPES = {
    "float": TensorProto.FLOAT, "double": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16, "bool": TensorProto.BOOL,
    **{f"{u}int{n}": getattr(TensorProto, f"{u}int{n}".upper()) for u in ("", "u") for n in (8, 16, 32, 64)},
}  # fmt: skip
_RTOL = {"float16": 2e-3, "bfloat16": 2e-2}


def one_node_tests() -> dict[str, list[Any]]:
    """The node tests of each operator that are one node of tensors."""
    found: dict[str, list[Any]] = {}
    for case in all_cases().values():
        if not case.name.startswith("node/"):
            continue
        model = case.model()
        graph = model.graph
        if len(graph.node) != 1 or graph.node[0].domain or graph.initializer:
            continue
        values = [*graph.input, *graph.output]
        if all(value.type.HasField("tensor_type") for value in values):
            found.setdefault(graph.node[0].op_type, []).append(case)
    return found


def variants(case: Any) -> Iterator[tuple[str, onnx.ModelProto, list[np.ndarray]]]:
    """The model of a test and its operands, for each type of each type variable of the operator."""
    model = case.model()
    (node,) = model.graph.node
    schema = onnx.defs.get_schema(node.op_type, OPSET, "")
    inputs = next(iter(case.data_sets()))[0]
    for variable in schema.type_constraints:
        formals = [schema.inputs[min(i, len(schema.inputs) - 1)] for i in range(len(node.input))]
        places = [
            i
            for i, (f, name) in enumerate(zip(formals, node.input, strict=True))
            if name and f.type_str == variable.type_param_str
        ]
        if not places:
            continue
        for text in variable.allowed_type_strs:
            name = text.removeprefix("tensor(").removesuffix(")")
            if name not in _TYPES:
                continue
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            copy.ir_version = IR_VERSION
            for entry in copy.opset_import:
                entry.version = min(entry.version, OPSET)
            dtype = helper.tensor_dtype_to_np_dtype(_TYPES[name])
            given: list[np.ndarray] = []
            names = [n for n in node.input if n]
            cast = {node.input[i] for i in places}
            for value, array, place in zip(copy.graph.input, inputs, names, strict=True):
                array = np.asarray(array)
                if place in cast and array.dtype.kind in "fiub":
                    with np.errstate(all="ignore"):
                        array = np.nan_to_num(array).clip(0 if "u" in name else -100, 100).astype(dtype)
                    value.type.tensor_type.elem_type = _TYPES[name]
                given.append(array)
            for i, value in enumerate(copy.graph.output):
                formal = schema.outputs[min(i, len(schema.outputs) - 1)]
                if formal.type_str == variable.type_param_str:
                    value.type.tensor_type.elem_type = _TYPES[name]
            yield f"{node.op_type}<{variable.type_param_str}={name}>", copy, given


def by_onnxruntime(model: onnx.ModelProto, inputs: list[np.ndarray]) -> list[Any] | None:
    """What ONNX Runtime makes of the model; None where it refuses it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        feeds = {}
        for info, array in zip(session.get_inputs(), inputs, strict=True):
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            feeds[info.name] = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, kind)
        outputs = session.run_with_ort_values(None, feeds)
        return [numpy_of(value) for value in outputs]
    except Exception:
        return None


def numpy_of(value: Any) -> np.ndarray:
    if value.element_type() == TensorProto.BFLOAT16:
        return np.zeros(
            value.shape(), helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
        )  # not to be read
    return value.numpy()


def refusal(model: onnx.ModelProto) -> str | None:
    """Why stepwell refuses the model on its way to the tensor level; None where it does not."""
    from stepwell.compat import new_context
    from stepwell.frontends.onnx import import_onnx
    from stepwell.pipelines import PIPELINES, resolve_pipeline, run_pipeline
    from stepwell.registry import DIALECTS

    ctx = new_context(DIALECTS)
    try:
        module = import_onnx(model, ctx)
        text = f"set-target, {PIPELINES['graph-O3']}, graph-to-linalg"
        run_pipeline(ctx, module, resolve_pipeline(text))
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
    return None


def difference(model: onnx.ModelProto, inputs: list[np.ndarray], want: list[Any], rtol: float) -> str | None:
    """Where the compiled model and ONNX Runtime differ."""
    import stepwell

    try:
        compiled = stepwell.compile(model, cache=False)
        got = compiled(*inputs)
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:150]}"
    for g, w in zip(got if isinstance(got, tuple) else (got,), want, strict=False):
        if g.shape != w.shape or g.dtype != w.dtype:
            return f"{g.dtype}{list(g.shape)}, ONNX Runtime has {w.dtype}{list(w.shape)}"
        if g.dtype.name == "bfloat16":
            continue
        a, b = g.astype(np.float64), w.astype(np.float64)
        close = np.isclose(
            a, b, rtol=rtol, atol=max(1e-5, rtol * np.abs(b[np.isfinite(b)]).max(initial=0)), equal_nan=True
        )
        if not close.all():
            at = np.unravel_index(np.argmin(close), close.shape)
            return f"{g[at]} at {list(map(int, at))}, ONNX Runtime has {w[at]}"
    return None


def compare(match: str = "", run: bool = False) -> tuple[int, list[str]]:
    """How many variants ONNX Runtime takes, and what is wrong with those that stepwell refuses or computes otherwise."""
    taken, wrong = 0, []
    for name, cases in sorted(one_node_tests().items()):
        if not re.search(match, name) or name in _RANDOM or not onnx.defs.has(name, OPSET, ""):
            continue
        if run and name in _UNDEFINED:
            continue
        for variant, model, inputs in variants(cases[0]):
            want = by_onnxruntime(model, inputs)
            if want is None:
                continue
            taken += 1
            kind = variant.partition("=")[2].rstrip(">")
            found = difference(model, inputs, want, _RTOL.get(kind, 1e-4)) if run else refusal(model)
            if found is not None:
                wrong.append(f"{variant}: {found}")
                print(wrong[-1], flush=True)
    return taken, wrong


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "-k", "--match", default="", help="only operators whose name matches this regular expression"
    )
    parser.add_argument("--run", action="store_true", help="compile, run and compare")
    arguments = parser.parse_args()
    taken, wrong = compare(arguments.match, arguments.run)
    print(f"{taken} variants that ONNX Runtime takes, {len(wrong)} of these not by stepwell")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
