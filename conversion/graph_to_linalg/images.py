"""`image_decoder`: the C runtime reads the bytes, what remains is the order of the colours."""

from typing import Any

from xdsl.dialects import arith
from xdsl.dialects.builtin import i8, i32, i64
from xdsl.ir import SSAValue

from stepwell.conversion.graph_to_linalg.lowering import Lowering, dims, lowers
from stepwell.conversion.graph_to_linalg.runtime_axes import check
from stepwell.conversion.graph_to_linalg.scalar import Scalar
from stepwell.diagnostics import unsupported

IMAGE_SIZE, IMAGE_DECODE = "stepwell_rt_image_size", "stepwell_rt_image_decode"
"""The kernels of the runtime: the status and the extents of an image; its pixels and the status."""

_FORMATS = "PNG, baseline JPEG, BMP, PNM and TIFF without compression are"
_STATUSES = (
    (1, "the stream is no image"),
    (2, f"its format is not supported: {_FORMATS}"),
    (3, "the stream is damaged"),
    (4, "out of memory"),
)


def _check_status(low: Lowering, status: SSAValue) -> None:
    """End the run with the message of a status that is not 0."""
    for number, why in _STATUSES:
        good = low.value(arith.CmpiOp(status, low.constant(number, i64), "ne"))
        check(low, good, f"graph.image_decoder: {why}")


@lowers("image_decoder")
def _image_decoder(low: Lowering, op: Any) -> SSAValue:
    (stream,) = low.operands(op)
    order = low.attr(op, "pixel_format")
    if order not in ("RGB", "BGR", "Grayscale"):
        raise unsupported(op, f"pixel_format {order!r}", "use RGB, BGR or Grayscale")
    (found,) = low.call_runtime(IMAGE_SIZE, [stream], [low.empty((3,), i64)])
    _check_status(low, low.extract(found, [0]))
    height, width = (low.dim_of(low.scalar_index(found, k)) for k in (1, 2))
    outputs = [low.empty((height, width, 3), i8), low.empty((1,), i64)]
    pixels, status = low.call_runtime(IMAGE_DECODE, [stream], outputs)
    _check_status(low, low.extract(status, [0]))
    if order == "RGB":
        return pixels
    d = dims(3)
    if order == "BGR":
        return low.map(
            lambda v: v, [pixels], (height, width, 3), i8, at=[[d[0], d[1], d[2] * -1 + 2]], widen=False
        )

    # ITU-R BT.601 in 16 bits, as libjpeg and its users round it
    def luminance(r: Scalar, g: Scalar, b: Scalar) -> Scalar:
        r, g, b = (v.as_integer(i32, True) for v in (r, g, b))
        return (r * 19595 + g * 38470 + b * 7471 + 32768).shifted(16, left=False).as_integer(i8, True)

    at: list[Any] = [[d[0], d[1], k] for k in range(3)]
    return low.map(luminance, [pixels] * 3, (height, width, 1), i8, at=at, unsigned=[True] * 3, widen=False)
