"""Maps: what makes one of scores, and what makes a row of one. Each has an op of its own."""

from collections.abc import Sequence

from xdsl.ir import SSAValue

from stepwell.frontends.onnx.classical.rules import classical
from stepwell.frontends.onnx.upgrades import Call, Emitter


@classical("ZipMap", "DictVectorizer")
def _with_keys(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    # ONNX Runtime's exporters leave a list that is not used empty.
    return emitter.emit(
        call.op, *call.operands, **{name: keys for name, keys in call.attributes.items() if keys}
    )


@classical("CastMap")
def _cast_map(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    return emitter.emit("CastMap", *call.operands, **call.attributes)
