"""
Each operator of the graph has a test of its name: the smallest node test of the standard that has it is read, verified,
printed, parsed back and interpreted. One that the standard does not test is named by a test of ours.
"""

import re
from functools import cache
from inspect import cleandoc
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from xdsl.dialects.builtin import FunctionType, ModuleOp, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Region

from stepwell.compat import StepwellContext, new_context, parse_module, print_module
from stepwell.dialects.graph import ONNX_NAMES, SequenceType, element_of, tensor_type
from stepwell.errors import UnsupportedError
from stepwell.frontends.onnx import building, import_onnx
from stepwell.interpreter.graph import can_evaluate, interpret
from stepwell.registry import DIALECTS
from stepwell.verification import verify_module
from tests.conformance.cases import Case, all_cases

TESTS = Path(__file__).resolve().parents[2]
DRAWN = {"Bernoulli", "RandomUniformLike"}
"""Operators whose results are drawn: only their types are compared."""


@cache
def cases_of() -> dict[str, list[Case]]:
    """The node tests of each operator, the smallest first."""
    found: dict[str, list[tuple[int, str, Case]]] = {}
    for case in all_cases().values():
        if case.name.startswith("node/"):
            nodes = case.model().graph.node
            for node in {node.op_type: node for node in nodes}.values():
                found.setdefault(node.op_type, []).append((len(nodes), case.name, case))
    return {
        name: [case for _, _, case in sorted(entries, key=lambda e: e[:2])] for name, entries in found.items()
    }


@cache
def texts() -> str:
    """All that our other tests say."""
    files = [path for path in TESTS.rglob("*") if path.suffix in (".py", ".ir") and path != Path(__file__)]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


@pytest.mark.parametrize("name", ONNX_NAMES, ids=lambda name: ONNX_NAMES[name].name.removeprefix("graph."))
def test_operator(name: str) -> None:
    cls = ONNX_NAMES[name]
    document = cleandoc(vars(cls).get("__doc__") or "")
    assert document, f"{cls.__name__} has no docstring of its own"
    cases = cases_of().get(name, [])
    if not cases:
        word = re.escape(cls.name)
        named = re.search(rf"{word}\b|[\"']{name}[\"']|\b{cls.__name__}\b", texts())
        assert named, f"neither the standard nor a test of ours tests {name}"
        return
    for case in cases[:8]:
        ctx = new_context(DIALECTS)
        module = _imported(case, ctx, name)
        if module is None:
            continue
        verify_module(module)
        assert cls in {type(op) for op in module.walk()}
        text = print_module(module)
        assert print_module(parse_module(ctx, text)) == text
        ops = [op for op in module.walk() if op.name == cls.name]
        if name not in DRAWN and all(can_evaluate(op) or op.regions for op in ops):
            _compare(case, module, ctx)
        return
    pytest.fail(f"none of the tests of {name} has an op of its class: {[case.name for case in cases[:8]]}")


def _imported(case: Case, ctx: StepwellContext, name: str) -> ModuleOp | None:
    """The module of a test if it has the operator as one op."""
    try:
        module = import_onnx(case.model(), ctx)
    except UnsupportedError:
        return None
    if any(isinstance(op, ONNX_NAMES[name]) for op in module.walk()):
        return module
    (inputs, _), *_ = case.data_sets()
    nodes = case.model().graph.node
    return _built(nodes[0], case.model().graph, inputs, name) if len(nodes) == 1 else None


def _built(node: onnx.NodeProto, graph: onnx.GraphProto, inputs: list[Any], name: str) -> ModuleOp:
    """A module with the one op of a node, for operators that are imported as their body."""
    types = dict(zip([value.name for value in graph.input], map(_type_of, inputs), strict=True))
    block = Block(arg_types=list(types.values()))
    values = dict(zip(types, block.args, strict=True))
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    operands = [values.get(operand) for operand in node.input]
    cls = ONNX_NAMES[name]
    op = building.build(
        cls, operands, _with_defaults(name, attributes), [bool(output) for output in node.output]
    )
    block.add_op(op)
    kept = [r for r, output in zip(op.result_list(), node.output, strict=False) if r is not None and output]
    block.add_op(ReturnOp(*kept))
    type = FunctionType.from_lists(list(types.values()), [value.type for value in kept])
    return ModuleOp([FuncOp("main", type, Region(block))])


def _with_defaults(name: str, attributes: dict[str, Any]) -> dict[str, Any]:
    schema = onnx.defs.get_schema(name)
    defaults = {
        key: onnx.helper.get_attribute_value(attribute.default_value)
        for key, attribute in schema.attributes.items()
        if attribute.default_value.name
    }
    return defaults | attributes


def _type_of(value: Any) -> Attribute:
    if isinstance(value, list):
        return SequenceType(_type_of(value[0]))
    array = np.asarray(value)
    return tensor_type(array.shape, element_of(array.dtype))


def _compare(case: Case, module: ModuleOp, ctx: StepwellContext) -> None:
    (inputs, expected), *_ = case.data_sets()
    main = next(op for op in module.body.block.ops if isinstance(op, FuncOp))
    assert len(main.body.block.args) == len(inputs)
    found = interpret(module, inputs, resources=ctx.resources)
    for got, wanted, value in zip(found, expected, main.get_return_op().operands, strict=False):  # pyright: ignore
        if isinstance(got, list) or not isinstance(value.type, TensorType):
            continue
        if np.asarray(wanted).dtype.kind in "OUS":
            assert [_plain(v) for v in np.ravel(got)] == [_plain(v) for v in np.ravel(wanted)]
        else:
            wide = [
                np.asarray(a).astype(np.float64 if np.asarray(a).dtype.kind not in "c" else np.complex128)
                for a in (got, wanted)
            ]
            np.testing.assert_allclose(
                *wide, rtol=max(case.rtol, 1e-3), atol=max(case.atol, 1e-5), err_msg=case.name
            )


def _plain(text: Any) -> str:
    return text.decode() if isinstance(text, bytes) else str(text)
