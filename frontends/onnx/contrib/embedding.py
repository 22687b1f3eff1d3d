"""Embeddings of words and positions."""

from collections.abc import Sequence

import numpy as np
from xdsl.ir import SSAValue

from stepwell.frontends.onnx.contrib.rules import add, contrib
from stepwell.frontends.onnx.upgrades import Call, Emitter
from stepwell.frontends.onnx.writing import cast, extent, given, ints, one, operand, squeeze


# layer_norm(words[id] + positions[place] + segments[segment]); the second result counts the mask of each row
@contrib("EmbedLayerNormalization")
def _embed_layer_norm(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    ids, segments, mask = operand(call), given(call, 1), given(call, 7)
    positions, places = operand(call, 3), given(call, 8)
    words = one(emitter, "Gather", operand(call, 2), ids, axis=0)
    if places is None:
        zero, length = emitter.constant(np.array(0)), squeeze(emitter, extent(emitter, ids, 1), 0)
        places = one(emitter, "Range", zero, length, emitter.constant(np.array(1)))
    total = add(emitter, words, one(emitter, "Gather", positions, places, axis=0))
    if segments is not None:
        total = add(emitter, total, one(emitter, "Gather", operand(call, 4), segments, axis=0))
    epsilon = call.attributes.get("epsilon", 1e-12)
    result = one(
        emitter,
        "LayerNormalization",
        total,
        given(call, 5),
        given(call, 6),
        axis=-1,
        epsilon=epsilon,
        stash_type=1,
    )
    if mask is None:
        counts = one(emitter, "Expand", emitter.constant(np.array(0, np.int32)), extent(emitter, ids, 0))
    else:
        counts = one(emitter, "ReduceSum", cast(emitter, mask, np.int32), ints(emitter, 1), keepdims=0)
    return [result, counts, total][: len(call.used)]
