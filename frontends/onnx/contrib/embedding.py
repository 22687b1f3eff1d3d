"""Embeddings of words and positions."""

from collections.abc import Callable, Sequence

import numpy as np
from xdsl.ir import SSAValue

from stepwell.frontends.onnx.contrib.rules import add, contrib
from stepwell.frontends.onnx.upgrades import Call, Emitter
from stepwell.frontends.onnx.writing import cast, counting, extent, given, ints, one, operand, squeeze


# layer_norm(words[id] + positions[place] + segments[segment]); the second result counts the mask of each row
@contrib("EmbedLayerNormalization")
def _embed_layer_norm(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    def row(place: int, ids: SSAValue) -> SSAValue:
        return one(emitter, "Gather", operand(call, place), ids, axis=0)

    return _embedded(call, emitter, row, given(call, 5), given(call, 6), given(call, 8))


# The same of tables of 8 bits: their scales stand from operand 8 on, their zero points from 13 on.
@contrib("QEmbedLayerNormalization")
def _quantised_embed_layer_norm(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    def real(place: int, value: SSAValue) -> SSAValue:
        return one(emitter, "DequantizeLinear", value, given(call, place + 6), given(call, place + 11))

    def row(place: int, ids: SSAValue) -> SSAValue:
        return real(place, one(emitter, "Gather", operand(call, place), ids, axis=0))

    scale, bias = (real(place, operand(call, place)) for place in (5, 6))
    return _embedded(call, emitter, row, scale, bias, None)


def _embedded(
    call: Call,
    emitter: Emitter,
    row: Callable[[int, SSAValue], SSAValue],
    scale: SSAValue | None,
    bias: SSAValue | None,
    places: SSAValue | None,
) -> Sequence[SSAValue]:
    """`row(operand, ids)` gives the rows of a table."""
    ids, segments, mask = operand(call), given(call, 1), given(call, 7)
    given(call, 4)  # a table of segments that no position names
    if places is None:
        places = counting(emitter, squeeze(emitter, extent(emitter, ids, 1), 0))
    total = add(emitter, row(2, ids), row(3, places))
    if segments is not None:
        total = add(emitter, total, row(4, segments))
    epsilon = call.attributes.get("epsilon", 1e-12)
    result = one(emitter, "LayerNormalization", total, scale, bias, axis=-1, epsilon=epsilon, stash_type=1)
    if mask is None:
        counts = one(emitter, "Expand", emitter.constant(np.array(0, np.int32)), extent(emitter, ids, 0))
    else:
        counts = one(emitter, "ReduceSum", cast(emitter, mask, np.int32), ints(emitter, 1), keepdims=0)
    return [result, counts, total][: len(call.used)]
