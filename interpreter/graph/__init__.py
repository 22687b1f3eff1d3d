"""
The graph level on numpy: `evaluate` one op (also for constant folding), `interpret` a function or module.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from xdsl.dialects.builtin import DenseResourceAttr, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp
from xdsl.ir import Operation, Region, SSAValue

from stepwell.diagnostics import compile_error, unsupported
from stepwell.dialects.graph import ConstantOp, GraphOp, IfOp, LoopOp, ScanOp, SequenceMapOp
from stepwell.interpreter.graph import chance, contraction, elementwise, image, layers, movement, text, trees
from stepwell.interpreter.graph.evaluation import EVALUATE, can_evaluate, evaluate, narrow

__all__ = [
    "EVALUATE", "can_evaluate", "chance", "contraction", "elementwise", "evaluate", "image", "interpret", "layers",
    "movement", "run_graph_op", "text", "trees",
]  # fmt: skip


class _Runner:
    """Runs graph ops over one store of values; the same interface as the machine of the lower levels."""

    def __init__(self, resources: Any = None):
        self.values: dict[SSAValue, Any] = {}
        self.resources = resources

    def run_region(self, region: Region, arguments: Sequence[Any]) -> list[Any]:
        block = region.block
        self.values.update(zip(block.args, arguments, strict=True))
        for op in block.ops:
            if op.name in ("graph.yield", "func.return"):
                return [self.values[v] for v in op.operands]
            self.values.update(zip(op.results, run_graph_op(self, op), strict=True))
        return []


def run_graph_op(machine: Any, op: Operation) -> Sequence[Any]:
    """The results of a graph op whose operands are in `machine.values`; runs the regions of control flow."""
    if not isinstance(op, GraphOp):
        raise unsupported(op, "the interpreter of graphs does not run this op", "lower the module first")
    if isinstance(op, ConstantOp) and isinstance(op.value, DenseResourceAttr):
        store = getattr(machine, "resources", None) or getattr(
            getattr(machine, "ctx", None), "resources", None
        )
        key = op.value.resource_handle.data
        if store is None:
            raise compile_error(
                op, f"the bytes of resource {key!r} are not at hand", "give the interpreter the resources"
            )
        return [store.array(key, op.value.get_type())]
    operands = [None if v is None else machine.values[v] for v in op.operand_list()]
    if isinstance(op, IfOp):
        chosen = op.then_branch if bool(np.asarray(operands[0]).reshape(())) else op.else_branch
        return machine.run_region(chosen, [])
    if isinstance(op, LoopOp):
        return _run_loop(machine, op)
    if isinstance(op, ScanOp):
        return _run_scan(machine, op, operands)
    if isinstance(op, SequenceMapOp):
        lists: list[list[Any]] = []
        assert operands[0] is not None, "the sequence is required"
        for i, _ in enumerate(operands[0]):
            arguments = [x[i] if isinstance(x, list) else x for x in operands]
            lists.append(machine.run_region(op.body, arguments))
        return [[row[i] for row in lists] for i in range(len(op.results))]
    return evaluate(op, operands)


def _stack(values: list[Any], result: Any, axis: int = 0) -> np.ndarray:
    """Values along a new axis; without any, zeros of the extents that the type knows."""
    if values:
        return np.stack(values, axis=axis)
    shape = [max(d, 0) for d in result.type.get_shape()]
    shape[axis] = 0
    return narrow(np.zeros(shape), result.type)


def _run_loop(machine: Any, op: LoopOp) -> list[Any]:
    limit = None if op.m is None else int(np.asarray(machine.values[op.m]).reshape(()))
    going = op.cond is None or bool(np.asarray(machine.values[op.cond]).reshape(()))
    carried = [machine.values[v] for v in op.v_initial]
    rows: list[list[Any]] = []
    count = 0
    while going and (limit is None or count < limit):
        out = machine.run_region(op.body, [np.array(count, np.int64), np.array(going), *carried])
        going = bool(np.asarray(out[0]).reshape(()))
        carried = out[1 : 1 + len(carried)]
        rows.append(out[1 + len(carried) :])
        count += 1
    stacked = [
        _stack([row[i] for row in rows], result) for i, result in enumerate(op.results[len(carried) :])
    ]
    return [*carried, *stacked]


def _run_scan(machine: Any, op: ScanOp, operands: list[Any]) -> list[Any]:
    count = op.get("num_scan_inputs")
    states, inputs = operands[: len(operands) - count], operands[len(operands) - count :]
    axes = op.get("scan_input_axes") or (0,) * count
    back = op.get("scan_input_directions") or (0,) * count
    inputs = [np.moveaxis(x, a, 0)[:: -1 if b else 1] for x, a, b in zip(inputs, axes, back, strict=True)]
    rows: list[list[Any]] = []
    for i in range(len(inputs[0])):
        out = machine.run_region(op.body, [*states, *(x[i] for x in inputs)])
        states = out[: len(states)]
        rows.append(out[len(states) :])
    results = op.results[len(states) :]
    axes = op.get("scan_output_axes") or (0,) * len(results)
    back = op.get("scan_output_directions") or (0,) * len(results)
    stacked = [
        _stack([row[i] for row in (rows[::-1] if b else rows)], result, a)
        for i, (result, a, b) in enumerate(zip(results, axes, back, strict=True))
    ]
    return [*states, *stacked]


def interpret(
    target: Operation,
    inputs: Sequence[Any] | Mapping[str, Any],
    *,
    resources: Any = None,
    function: str = "main",
) -> list[Any] | dict[str, Any]:
    """
    Run a function at graph level (or `@main` of a module) on numpy arrays; lists stand for sequences.
    Inputs by position give a list of results, inputs by name (`graph.name`) a dict.
    Errors: a missing function or input; an op that the interpreter does not compute.
    """
    main = target
    if isinstance(target, ModuleOp):
        named = [
            op for op in target.body.block.ops if isinstance(op, FuncOp) and op.sym_name.data == function
        ]
        if not named:
            raise compile_error(target, f"there is no function @{function} to run", "define it")
        main = named[0]
    if not isinstance(main, FuncOp):
        raise compile_error(main, "only a function or a module can be run", "wrap the ops in func.func")
    arguments = main.body.block.args
    if isinstance(inputs, Mapping):
        names = _names(main.arg_attrs, len(arguments), "input")
        if missing := [n for n in names if n not in inputs]:
            raise compile_error(main, f"no value for input {missing[0]!r}", f"give {', '.join(names)}")
        given = [inputs[n] for n in names]
    else:
        given = list(inputs)
    if len(given) != len(arguments):
        raise compile_error(
            main, f"takes {len(arguments)} inputs and {len(given)} were given", "give one each"
        )
    runner = _Runner(resources)
    values = [narrow(v, a.type) for v, a in zip(given, arguments, strict=True)]
    results = runner.run_region(main.body, values)
    if isinstance(inputs, Mapping):
        return dict(zip(_names(main.res_attrs, len(results), "output"), results, strict=True))
    return results


def _names(attributes: Any, count: int, fallback: str) -> list[str]:
    names = [f"{fallback}{i}" for i in range(count)]
    for i, entry in enumerate(attributes or ()):
        if isinstance(name := entry.data.get("graph.name"), StringAttr):
            names[i] = name.data
    return names
