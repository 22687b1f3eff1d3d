"""Meaning of `func`, `scf` and `cf.assert`."""

from typing import Any

import numpy as np
from xdsl.dialects.builtin import StringAttr, SymbolRefAttr
from xdsl.ir import Operation, SSAValue

from stepwell.errors import RunError
from stepwell.interpreter.machine import Machine, Results, meaning
from stepwell.interpreter.tensor import mixed, slices_of


@meaning("func.call")
def _call(machine: Machine, op: Operation) -> Results:
    callee = op.properties["callee"]
    assert isinstance(callee, SymbolRefAttr)
    for value in op.operands:
        machine.share(value)
    return machine.call(callee.root_reference.data, machine.get(op.operands), op)


def _fresh(machine: Machine, values: list[Any]) -> list[Any]:
    """Copies of the tensors among `values`, so that a loop may change them in place."""
    return [machine.own(v.copy()) if isinstance(v, np.ndarray) and v.ndim else v for v in values]


@meaning("cf.assert")
def _assert(machine: Machine, op: Operation) -> None:
    if not machine[op.operands[0]]:
        message = op.properties["msg"]
        assert isinstance(message, StringAttr)
        raise RunError(message.data)


@meaning("scf.for")
def _for(machine: Machine, op: Operation) -> Results:
    if np.ndim(machine[op.operands[1]]):
        return _for_each_point(machine, op)
    lower, upper, step = (machine.integer(v) for v in op.operands[:3])
    carried = _fresh(machine, machine.get(op.operands[3:]))
    for i in range(lower, upper, step):
        carried = machine.run_region(op.regions[0], [np.int64(i), *carried])
    return carried


def _for_each_point(machine: Machine, op: Operation) -> Results:
    """Over many points at once, each with a count of its own: all run as long as one does."""
    lower, step = (machine.integer(op.operands[k]) for k in (0, 2))
    upper, carried = machine[op.operands[1]], machine.get(op.operands[3:])
    machine.masked += 1
    for i in range(lower, int(np.max(upper, initial=lower)), step):
        following = machine.run_region(op.regions[0], [np.int64(i), *carried])
        carried = [np.where(i < upper, new, old) for new, old in zip(following, carried, strict=True)]
    machine.masked -= 1
    return carried


@meaning("scf.while")
def _while(machine: Machine, op: Operation) -> Results:
    carried = machine.get(op.operands)
    while True:
        go, *passed = machine.run_region(op.regions[0], carried)
        if not go:
            return passed
        carried = machine.run_region(op.regions[1], passed)


# Over many points at once both sides are computed and the condition picks; a side may then meet indices that
# its own points would never have given it.
@meaning("scf.if")
def _if(machine: Machine, op: Operation) -> Results:
    condition = machine[op.operands[0]]
    then, otherwise = op.regions
    if np.ndim(condition) == 0:
        taken = then if condition else otherwise
        return machine.run_region(taken, []) if taken.blocks else []
    machine.masked += 1
    sides = machine.run_region(then, []), machine.run_region(otherwise, [])
    machine.masked -= 1
    return [np.where(condition, a, b) for a, b in zip(*sides, strict=True)]


@meaning("scf.execute_region", "memref.alloca_scope")
def _execute_region(machine: Machine, op: Operation) -> Results:
    return machine.run_region(op.regions[0], [])


@meaning("scf.index_switch")
def _index_switch(machine: Machine, op: Operation) -> Results:
    cases = list(op.properties["cases"].get_values())  # pyright: ignore
    value = machine.integer(op.operands[0])
    return machine.run_region(op.regions[1 + cases.index(value)] if value in cases else op.regions[0], [])


def _bounds(machine: Machine, op: Any, dynamic: str, static: str) -> list[int]:
    return mixed(machine, op.properties[static], getattr(op, dynamic))


# The threads of a forall may run in any order; running the last first shows a wrong dependence.
@meaning("scf.forall")
def _forall(machine: Machine, op: Any) -> Results:
    lower = _bounds(machine, op, "dynamic_lower_bound", "staticLowerBound")
    upper = _bounds(machine, op, "dynamic_upper_bound", "staticUpperBound")
    step = _bounds(machine, op, "dynamic_step", "staticStep")
    outs: list[SSAValue] = list(op.outputs)
    shared = [machine.own(machine[v].copy()) for v in outs]
    block = op.regions[0].block
    counts = [len(range(a, b, s)) for a, b, s in zip(lower, upper, step, strict=True)]
    for point in machine.iterations(list(np.ndindex(*counts))[::-1]):
        indices = [np.int64(a + i * s) for a, i, s in zip(lower, point, step, strict=True)]
        machine.run_block(block, [*indices, *shared])
    return shared


@meaning("scf.forall.in_parallel")
def _in_parallel(machine: Machine, op: Operation) -> Results:
    for inner in op.regions[0].block.ops:
        machine.run(inner)
    return []


@meaning("tensor.parallel_insert_slice")
def _parallel_insert_slice(machine: Machine, op: Any) -> Results:
    source, dest = machine[op.source], machine[op.dest]
    place = dest[slices_of(machine, op, dest)]
    place[...] = np.asarray(source).reshape(place.shape)
    return []


@meaning("scf.parallel")
def _parallel(machine: Machine, op: Any) -> Results:
    lower, upper, step = (machine.get(v) for v in (op.lowerBound, op.upperBound, op.step))
    ranges = [range(int(a), int(b), int(s)) for a, b, s in zip(lower, upper, step, strict=True)]
    for point in reversed(list(np.ndindex(*(len(r) for r in ranges)))):
        machine.run_block(op.regions[0].block, [np.int64(r[i]) for r, i in zip(ranges, point, strict=True)])
    return []


@meaning("scf.reduce")
def _reduce(machine: Machine, op: Operation) -> Results:
    assert not op.operands, "scf.parallel with reductions is not used below this compiler's graphs"
    return []
