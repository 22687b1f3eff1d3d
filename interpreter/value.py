"""
Meaning of `value`: a tensor is a read-only array, a sequence a list that nobody changes, a map a dict of Python's numbers
and strings, absent is None.
"""

from typing import Any

import numpy as np
from xdsl.dialects.builtin import DYNAMIC_INDEX
from xdsl.ir import Operation

from stepwell.dialects.graph.types import numpy_dtype
from stepwell.errors import RunError
from stepwell.interpreter.machine import Machine, Results, meaning
from stepwell.resources import dtype_of


@meaning("value.wrap")
def _wrap(machine: Machine, op: Any) -> Results:
    array = np.array(machine[op.input], order="C")
    # A cast where a byte below graph stands for less, else the same bits.
    array = array.view(numpy_dtype(op.element))
    array.flags.writeable = False
    return (array,)


@meaning("value.unwrap")
def _unwrap(machine: Machine, op: Any) -> Results:
    value, type = machine[op.input], op.output.type
    if not isinstance(value, np.ndarray):
        raise RunError(f"{_kind(value)} where the model reads a tensor")
    if value.ndim != type.get_num_dims():
        raise RunError(f"an element of rank {value.ndim} where the model reads rank {type.get_num_dims()}")
    for axis, (extent, want) in enumerate(zip(value.shape, type.get_shape(), strict=True)):
        if want not in (extent, DYNAMIC_INDEX):
            raise RunError(f"an element with the extent {extent} on axis {axis} where the model reads {want}")
    array = np.asarray(value, numpy_dtype(op.element)).view(dtype_of(type.element_type))
    array.flags.writeable = False
    return (array,)


def _kind(value: Any) -> str:
    if value is None:
        return "an absent value"
    if isinstance(value, dict):
        return "a map"
    return "a sequence" if isinstance(value, list) else "a tensor"


def _sequence(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise RunError(f"{_kind(value)} where the model reads a sequence")
    return value


def _place(sequence: list[Any], position: int, end: int = 0) -> int:
    place = position + len(sequence) if position < 0 else position
    if not 0 <= place < len(sequence) + end:
        raise RunError(f"position {position} of a sequence of {len(sequence)} elements")
    return place


@meaning("value.absent")
def _absent(machine: Machine, op: Operation) -> Results:
    return (None,)


@meaning("value.present")
def _present(machine: Machine, op: Operation) -> Results:
    return (np.bool_(machine[op.operands[0]] is not None),)


@meaning("value.empty")
def _empty(machine: Machine, op: Operation) -> Results:
    return ([],)


@meaning("value.length")
def _length(machine: Machine, op: Operation) -> Results:
    return (np.int64(len(_sequence(machine[op.operands[0]]))),)


@meaning("value.at")
def _at(machine: Machine, op: Any) -> Results:
    sequence = _sequence(machine[op.sequence])
    return (sequence[_place(sequence, machine.integer(op.position))],)


@meaning("value.insert")
def _insert(machine: Machine, op: Any) -> Results:
    sequence = _sequence(machine[op.sequence])
    place = _place(sequence, machine.integer(op.position), 1)
    return ([*sequence[:place], machine[op.element], *sequence[place:]],)


@meaning("value.erase")
def _erase(machine: Machine, op: Any) -> Results:
    sequence = _sequence(machine[op.sequence])
    place = _place(sequence, machine.integer(op.position))
    return (sequence[:place] + sequence[place + 1 :],)


def _part(value: Any) -> np.ndarray:
    """A part of a map that is made."""
    if not isinstance(value, np.ndarray) or value.ndim != 1:
        what = f"a tensor of rank {value.ndim}" if isinstance(value, np.ndarray) else _kind(value)
        raise RunError(f"{what} where the model makes a map; give keys and values of rank 1")
    return value


@meaning("value.map")
def _map(machine: Machine, op: Any) -> Results:
    keys, values = _part(machine[op.keys]), _part(machine[op.values])
    if len(keys) != len(values):
        raise RunError(f"{len(keys)} keys for {len(values)} values of a map")
    return (dict(zip(keys.tolist(), values.tolist(), strict=True)),)


def _map_of(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise RunError(f"{_kind(value)} where the model reads a map")
    return value


def _list(items: Any) -> np.ndarray:
    """Keys or values of a map; who unwraps them says their type."""
    items = list(items)
    return np.array(items, object if items and isinstance(items[0], str) else None)


@meaning("value.keys")
def _keys(machine: Machine, op: Any) -> Results:
    return (_list(_map_of(machine[op.input])),)


@meaning("value.values")
def _values(machine: Machine, op: Any) -> Results:
    return (_list(_map_of(machine[op.input]).values()),)
