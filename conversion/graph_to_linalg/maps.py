"""Maps: a `!value.any` of keys and values, two 1-D tensors; what reads one by key finds all its keys in a table at once."""

from typing import Any

import numpy as np
from xdsl.dialects import arith, cf, tensor
from xdsl.dialects.builtin import AnyFloat, TensorType, f32, i64
from xdsl.ir import Attribute, SSAValue

from stepwell.conversion.graph_to_linalg.elementwise import converted
from stepwell.conversion.graph_to_linalg.indexing import loop
from stepwell.conversion.graph_to_linalg.lowering import Lowering, dims, lowers, signless
from stepwell.conversion.graph_to_linalg.scalar import Body, Scalar
from stepwell.conversion.graph_to_linalg.sequences import unwrapped, wrapped
from stepwell.conversion.graph_to_linalg.sorting import Rows, stable_order
from stepwell.conversion.graph_to_linalg.text import (
    apply,
    find_number,
    fixed,
    sorted_words,
    spread,
    string_constant,
    words,
)
from stepwell.dialects import value
from stepwell.dialects.graph import STRING, MapType, tensor_type
from stepwell.dialects.graph.shape import Dim, unknown
from stepwell.dialects.text import FindOp

_NO_STRING = "0.f"
"""What ONNX Runtime's CastMap writes where a map has no such key."""


def _parts(low: Lowering, op: Any) -> tuple[SSAValue, SSAValue, Attribute]:
    """Keys and values of the map that `op` reads, and the element type of the values in the graph."""
    map, type = low[op.operands[0]], op.operands[0].type
    assert isinstance(type, MapType) and isinstance(type.element, TensorType), "the op's own rule"
    keys = unwrapped(low, low.value(value.KeysOp(map)), tensor_type([unknown()], type.key))
    held = type.element.element_type
    values = unwrapped(low, low.value(value.ValuesOp(map)), tensor_type([unknown()], held))
    return keys, low.reshaped(values, low.shape(keys)), held


def _filled(low: Lowering, count: Dim, element: Attribute, text: str) -> SSAValue:
    """Zeros, or the string `text`, of the graph's type `element`."""
    if element == STRING:
        return spread(low, string_constant(low, [text], ()), (count,))
    return low.fill(0.0 if isinstance(element, AnyFloat) else 0, (count,), signless(element))


def _read(low: Lowering, source: SSAValue, at: SSAValue) -> SSAValue:
    return low.value(tensor.ExtractOp(source, [at], low.element(source)))


def _scattered(low: Lowering, places: SSAValue, values: SSAValue, into: SSAValue) -> SSAValue:
    """`into` with each of `values` at its place; where that is none of them, in the last element, which is to be thrown away."""
    (count,) = low.shape(into)
    last = low.value(arith.SubiOp(low.index(count), low.constant(1)))

    def step(i: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
        build = Body(low.block, low, low.op)
        place, rest = build.wrap(_read(low, places, i)).as_index(), build.wrap(last)
        place = build.select(place.below(0) | place.above(rest), rest, place).value
        element = _read(low, values, i)
        return [
            low.value(
                tensor.InsertOp.build(operands=[element, carried[0], [place]], result_types=[into.type])
            )
        ]

    return loop(low, low.shape(places)[0], [into], step)[0]


# for each row: sequence += map(labels, row)
@lowers("zip_map")
def _zip_map(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    numbers, texts = low.attr(op, "classlabels_int64s"), low.attr(op, "classlabels_strings")
    count = len(numbers or texts)
    labels = low.tensor_constant(np.array(numbers)) if numbers else string_constant(low, texts, (count,))
    keys = wrapped(low, labels, tensor_type([count], i64 if numbers else STRING))
    shape = low.shape(x)
    rows = shape[0] if len(shape) == 2 else 1
    row = low.reshape(x, (1, count)) if len(shape) == 1 else x

    def pushed(i: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
        line = low.reshape(low.slice(row, [low.dim_of(i), 0], [1, count]), (count,))
        made = low.value(value.MapOp(keys, wrapped(low, line, tensor_type([count], f32))))
        return [low.value(value.InsertOp(made, carried[0], i))]

    return loop(low, rows, [low.value(value.EmptyOp())], pushed)[0]


# found[word] = the value of the key `word`;  y[c] = found[vocabulary[c]]
@lowers("dict_vectorizer")
def _dict_vectorizer(low: Lowering, op: Any) -> SSAValue:
    keys, values, held = _parts(low, op)
    numbers, texts = low.attr(op, "int64_vocabulary"), low.attr(op, "string_vocabulary")
    if numbers:
        order: list[Any] = sorted(set(numbers))
        places = find_number(low, keys, np.array(order))
    else:
        order = sorted_words(texts)
        places = apply(low, FindOp, [keys, *words(low, order)], low.shape(keys))
    found = _scattered(low, places, values, _filled(low, len(order) + 1, held, ""))
    number_of = {word: number for number, word in enumerate(order)}
    columns = np.array([number_of[word] for word in numbers or texts])

    def picked(column: Scalar) -> Scalar:
        return column.body.extract(found, [column.as_index()])

    shape = (1, len(columns))
    table = low.tensor_constant(columns)
    return low.map(picked, [table], shape, low.element(found), at=[dims(2)[1:]], widen=False)


@lowers("cast_map")
def _cast_map(low: Lowering, op: Any) -> SSAValue:
    keys, values, held = _parts(low, op)
    target = op.results[0].type.element_type
    values = fixed(low, values) if (held, target) == (f32, STRING) else converted(low, values, held, target)
    (count,) = low.shape(keys)
    if low.attr(op, "map_form") == "DENSE":
        order = stable_order(low, count, Rows(low, low.reshape(keys, (count, 1)), False).precedes)

        def picked(place: Scalar) -> Scalar:
            return place.body.extract(values, [place])

        row = low.map(picked, [order], (count,), low.element(values), widen=False)
        return low.reshape(row, (1, count))

    def checked(i: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
        positive = low.value(arith.CmpiOp(_read(low, keys, i), low.constant(0, i64), "sge"))
        low.add(cf.AssertOp(positive, f"{op.name}: a key is negative; pass keys from 0 to max_map - 1"))
        return []

    loop(low, count, [], checked)
    columns = low.attr(op, "max_map")
    row = _scattered(low, keys, values, _filled(low, columns + 1, target, _NO_STRING))
    return low.reshape(low.slice(row, [0], [columns]), (1, columns))
