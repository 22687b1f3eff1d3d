"""Every older form of an ONNX operator, rewritten to its newest form.

A rule is listed under its operator with the opset version that ended the old form; it sees a `Call` whose attributes
hold the defaults of its own opset. It either changes the call in place (and returns None) or returns the results.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import onnx
from xdsl.ir import Attribute, SSAValue


@dataclass
class Call:
    """One node on its way into the IR."""

    op: str
    domain: str
    version: int
    operands: list[SSAValue | None]
    attributes: dict[str, Any]
    used: list[bool]
    """One entry a listed output: whether it has a name."""
    where: str


class Emitter(Protocol):
    """What a rule may do besides changing its call."""

    def constant(self, value: np.ndarray) -> SSAValue: ...
    def emit(
        self, op: str, *operands: SSAValue | None, results: int = 1, **attributes: Any
    ) -> list[SSAValue]: ...
    def inline(self, function: onnx.FunctionProto, *operands: SSAValue) -> list[SSAValue]: ...
    def named(self, name: str) -> SSAValue: ...
    def shape(self, value: SSAValue) -> list[int | str]: ...
    def element_type(self, value: SSAValue) -> Attribute: ...
    def dtype(self, value: SSAValue) -> np.dtype: ...
    def value(self, value: SSAValue) -> np.ndarray | None: ...
    def error(self, call: Call, why: str, fix: str) -> Exception: ...
    def missing(self, call: Call, why: str, fix: str) -> Exception: ...


Rule = Callable[[Call, Emitter], Sequence[SSAValue] | None]

UPGRADES: dict[str, list[tuple[int, Rule]]] = {}
"""Operator of the default domain to its rules, each with the version from which it no longer applies."""


def _before(version: int, *ops: str) -> Callable[[Rule], Rule]:
    def enter(rule: Rule) -> Rule:
        for op in ops:
            rules = UPGRADES.setdefault(op, [])
            rules.append((version, rule))
            rules.sort(key=lambda entry: entry[0])
        return rule

    return enter


def upgrade(call: Call, emitter: Emitter) -> Sequence[SSAValue] | None:
    """Bring `call` to the newest form of its operator; the results, if a rule has made them."""
    call.attributes.pop("consumed_inputs", None)
    for end, rule in UPGRADES.get(call.op, ()):
        if call.version < end and (results := rule(call, emitter)) is not None:
            return results
    return None


def _ints(values: Sequence[int]) -> np.ndarray:
    return np.array(list(values), dtype=np.int64)


def _to_input(call: Call, emitter: Emitter, name: str, place: int) -> None:
    """Move a list or number attribute to the operand at `place`; an absent one is an absent operand."""
    value = call.attributes.pop(name, None)
    if len(call.operands) > place and call.operands[place] is not None:
        return
    if value is not None:
        call.operands += [None] * (place + 1 - len(call.operands))
        call.operands[place] = emitter.constant(np.asarray(value, dtype=np.int64))


# Element-wise operators before opset 7: `broadcast = 1, axis = a` aligns B with the axes of A from `a` on.
@_before(7, "Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor")
def _legacy_broadcast(call: Call, emitter: Emitter) -> None:
    axis, broadcast = call.attributes.pop("axis", None), call.attributes.pop("broadcast", 0)
    left, right = call.operands
    assert left is not None and right is not None
    left_rank, right_rank = len(emitter.shape(left)), len(emitter.shape(right))
    if not broadcast or axis is None:
        return
    axis += left_rank if axis < 0 else 0
    behind = left_rank - axis - right_rank
    if axis < 0 or behind < 0:
        raise emitter.error(call, f"axis {axis} for ranks {left_rank} and {right_rank}", "align B inside A")
    if behind:
        axes = emitter.constant(_ints(range(right_rank, right_rank + behind)))
        (call.operands[1],) = emitter.emit("Unsqueeze", right, axes)


@_before(7, "PRelu")
def _channel_slope(call: Call, emitter: Emitter) -> None:
    data, slope = call.operands
    assert data is not None and slope is not None
    rank, slope_shape = len(emitter.shape(data)), emitter.shape(slope)
    if len(slope_shape) == 1 and slope_shape != [1] and rank > 2:
        (call.operands[1],) = emitter.emit("Unsqueeze", slope, emitter.constant(_ints(range(1, rank - 1))))


@_before(7, "Gemm")
def _gemm_broadcast(call: Call, emitter: Emitter) -> None:
    call.attributes.pop("broadcast", None)


@_before(13, "Squeeze", "Unsqueeze", "ReduceSum")
@_before(
    18, "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"
)
@_before(18, "ReduceProd", "ReduceSumSquare")
def _axes_to_input(call: Call, emitter: Emitter) -> None:
    _to_input(call, emitter, "axes", 1)


# softmax before 13 == reshape . softmax(axis = -1) . flatten(axis)
@_before(13, "Softmax", "LogSoftmax", "Hardmax")
def _two_dimensional(call: Call, emitter: Emitter) -> Sequence[SSAValue] | None:
    axis, (data,) = call.attributes["axis"], call.operands
    assert data is not None
    shape = emitter.shape(data)
    axis += len(shape) if axis < 0 else 0
    if not 0 <= axis <= max(len(shape) - 1, 0):
        raise emitter.error(call, f"axis {axis} for rank {len(shape)}", "use an axis of the input")
    if all(extent == 1 for extent in shape[axis + 1 :]):
        call.attributes["axis"] = axis
        return None
    (flat,) = emitter.emit("Flatten", data, axis=axis)
    (result,) = emitter.emit(call.op, flat, axis=-1)
    (extents,) = emitter.emit("Shape", data)
    return emitter.emit("Reshape", result, extents)


@_before(9, "BatchNormalization")
def _spatial(call: Call, emitter: Emitter) -> Sequence[SSAValue] | None:
    call.attributes.pop("is_test", None)
    if call.attributes.pop("spatial", 1):
        return None
    data, scale, bias, mean, variance = call.operands
    _no_training_outputs(call, emitter)
    assert data is not None
    dtype = emitter.dtype(data)
    epsilon = emitter.constant(np.array(call.attributes.get("epsilon", 1e-5), dtype))
    (deviation,) = emitter.emit("Sqrt", *emitter.emit("Add", variance, epsilon))
    (centred,) = emitter.emit("Sub", data, mean)
    (normal,) = emitter.emit("Div", centred, deviation)
    return emitter.emit("Add", *emitter.emit("Mul", normal, scale), bias)


@_before(14, "BatchNormalization")
def _no_training_outputs(call: Call, emitter: Emitter) -> None:
    if any(call.used[1:]):
        raise emitter.missing(
            call, "its statistics of training are outputs", "export the model for inference"
        )
    del call.used[1:]


@_before(6, "Cast")
def _type_by_name(call: Call, emitter: Emitter) -> None:
    name = call.attributes["to"]
    if name not in onnx.TensorProto.DataType.keys():
        raise emitter.error(call, f"the type name {name!r}", "use a name such as FLOAT")
    call.attributes["to"] = onnx.TensorProto.DataType.Value(name)


@_before(11, "Clip")
def _bounds_to_inputs(call: Call, emitter: Emitter) -> None:
    (data,) = call.operands
    assert data is not None
    for name in ("min", "max"):
        bound = call.attributes.pop(name, None)
        call.operands.append(None if bound is None else emitter.constant(_bound(bound, emitter.dtype(data))))


def _bound(value: float, dtype: np.dtype) -> np.ndarray:
    """A float attribute in the type of the data; beyond the type's range it is the type's own extreme."""
    largest = float(np.finfo(dtype).max) if dtype.kind == "f" else None
    return np.array(value if largest is None else min(max(value, -largest), largest), dtype)


@_before(4, "Concat")
def _concat_axis(call: Call, emitter: Emitter) -> None:
    call.attributes.setdefault("axis", 1)


@_before(20, "DFT")
def _axis_to_input(call: Call, emitter: Emitter) -> None:
    _to_input(call, emitter, "axis", 2)


@_before(7, "Dropout")
def _drop_is_test(call: Call, emitter: Emitter) -> None:
    call.attributes.pop("is_test", None)


@_before(12, "Dropout")
def _ratio_to_input(call: Call, emitter: Emitter) -> Sequence[SSAValue] | None:
    ratio, (data,) = call.attributes.pop("ratio", 0.5), call.operands
    if call.version < 10 and any(call.used[1:]):
        # The mask of an inference is all ones, and was of the data's type before opset 10.
        assert data is not None
        (extents,) = emitter.emit("Shape", data)
        (mask,) = emitter.emit("Expand", emitter.constant(np.ones((), emitter.dtype(data))), extents)
        return [*emitter.emit("Identity", data), mask]
    call.operands = [data, emitter.constant(np.array(ratio, np.float32))]
    return None


@_before(2, "GlobalLpPool", "LpPool")
def _integral_order(call: Call, emitter: Emitter) -> None:
    order = call.attributes.get("p", 2.0)
    if order != int(order):
        raise emitter.missing(call, f"norm of order {order}", "use an integer p")
    call.attributes["p"] = int(order)


@_before(20, "GridSample")
def _mode_names(call: Call, emitter: Emitter) -> None:
    modes = {"bilinear": "linear", "bicubic": "cubic"}
    call.attributes["mode"] = modes.get(call.attributes["mode"], call.attributes["mode"])


# GroupNormalization before 21 scales by group; one value a channel is each group's value, repeated.
@_before(21, "GroupNormalization")
def _scale_by_channel(call: Call, emitter: Emitter) -> None:
    data, groups = call.operands[0], call.attributes["num_groups"]
    assert data is not None
    channels = emitter.shape(data)[1] if len(emitter.shape(data)) > 1 else 0
    if not isinstance(channels, int) or groups < 1 or channels % groups:
        raise emitter.error(call, f"{channels} channels in {groups} groups", "use static, divisible channels")
    for place in (1, 2):
        (column,) = emitter.emit("Reshape", call.operands[place], emitter.constant(_ints([groups, 1])))
        (repeated,) = emitter.emit("Expand", column, emitter.constant(_ints([groups, channels // groups])))
        (call.operands[place],) = emitter.emit("Reshape", repeated, emitter.constant(_ints([channels])))


@_before(7, "GRU", "LSTM", "RNN")
def _recurrent_outputs(call: Call, emitter: Emitter) -> None:
    call.attributes.pop("output_sequence", None)
    if call.attributes.get("direction") == "foward":  # the default of GRU-1, misspelt in the standard
        call.attributes["direction"] = "forward"


@_before(2, "Pad")
def _paddings(call: Call, emitter: Emitter) -> None:
    call.attributes["pads"] = call.attributes.pop("paddings")


@_before(11, "Pad")
def _pads_to_inputs(call: Call, emitter: Emitter) -> None:
    (data,) = call.operands
    assert data is not None
    value = call.attributes.pop("value", 0.0)
    pads = emitter.constant(_ints(call.attributes.pop("pads")))
    call.operands = [data, pads, emitter.constant(np.array(value, emitter.dtype(data)))]


@_before(5, "Reshape")
def _shape_to_input(call: Call, emitter: Emitter) -> None:
    call.attributes.setdefault("shape", [])
    _to_input(call, emitter, "shape", 1)


@_before(11, "Resize")
def _resize_10(call: Call, emitter: Emitter) -> None:
    data, scales = call.operands
    call.operands = [data, None, scales]
    call.attributes.update(coordinate_transformation_mode="asymmetric", nearest_mode="floor")


@_before(18, "Resize")
def _empty_inputs_are_absent(call: Call, emitter: Emitter) -> None:
    for place in range(1, len(call.operands)):
        operand = call.operands[place]
        if operand is not None and emitter.shape(operand) == [0]:
            call.operands[place] = None
    if len(call.operands) == 4 and call.operands[3] is not None:
        call.operands[2] = None


@_before(16, "RoiAlign")
def _no_half_pixel(call: Call, emitter: Emitter) -> None:
    call.attributes["coordinate_transformation_mode"] = "output_half_pixel"


_ONE_ELEMENT = "_one_element"
"""On a Scan: it is the body of the scan over a batch."""


@_before(9, "Scan")
def _batched_scan(call: Call, emitter: Emitter) -> None:
    """It scans each element of a batch: a scan over the batch, whose body is the scan of one element."""
    lengths, *operands = call.operands
    if lengths is not None:
        raise emitter.missing(call, "sequence_lens", "export with opset 9 or newer")
    body, inputs = call.attributes["body"], call.attributes["num_scan_inputs"]
    directions = call.attributes.pop("directions", None) or [0] * inputs
    call.operands = operands
    if call.attributes.pop(_ONE_ELEMENT, False):
        call.attributes["scan_input_directions"] = directions
        return
    names = [f"{value.name}.batch" for value in body.graph.input]
    outputs = [f"{value.name}.batch" for value in body.graph.output]
    one = onnx.helper.make_node(
        "Scan", ["", *names], outputs, body=body.graph, num_scan_inputs=inputs, directions=directions
    )  # fmt: skip
    one.attribute.append(onnx.helper.make_attribute(_ONE_ELEMENT, 1))
    graph = onnx.GraphProto(name="batch", node=[one])
    graph.input.extend(onnx.ValueInfoProto(name=name) for name in names)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    call.attributes |= {"body": replace(body, graph=graph), "num_scan_inputs": len(operands)}


@_before(1 << 30, "IsInf", "IsNaN")
def _of_wider_floats(call: Call, emitter: Emitter) -> None:
    (data,) = call.operands
    assert data is not None
    if emitter.dtype(data).itemsize == 1:
        (call.operands[0],) = emitter.emit("Cast", data, to=onnx.TensorProto.FLOAT)


@_before(1 << 30, "RandomNormalLike", "RandomUniformLike")
def _like_numbers(call: Call, emitter: Emitter) -> None:
    """Only the shape counts, so what is like strings is like numbers."""
    (data,) = call.operands
    assert data is not None
    if emitter.dtype(data).kind == "O":
        call.operands = list(emitter.emit("ConstantOfShape", *emitter.emit("Shape", data)))


@_before(1 << 30, "Scatter")
def _scatter(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    return emitter.emit("ScatterElements", *call.operands, **call.attributes)


@_before(10, "Slice")
def _slice_to_inputs(call: Call, emitter: Emitter) -> None:
    starts, ends = call.attributes.pop("starts"), call.attributes.pop("ends")
    axes = call.attributes.pop("axes", None) or list(range(len(starts)))
    call.operands += [emitter.constant(_ints(values)) for values in (starts, ends, axes)]


@_before(2, "Split")
def _split_1(call: Call, emitter: Emitter) -> None:
    call.attributes.setdefault("axis", 0)


@_before(13, "Split")
def _split_to_input(call: Call, emitter: Emitter) -> None:
    _to_input(call, emitter, "split", 1)


# Split without sizes before 18 cuts into equal parts, one an output.
@_before(18, "Split")
def _count_outputs(call: Call, emitter: Emitter) -> None:
    if len(call.operands) < 2 or call.operands[1] is None:
        call.attributes["num_outputs"] = len(call.used)


@_before(6, "Tile")
def _tile_one_axis(call: Call, emitter: Emitter) -> None:
    data, tiles, axis = call.operands
    assert data is not None and tiles is not None and axis is not None
    count, where = emitter.value(tiles), emitter.value(axis)
    if count is None or where is None:
        raise emitter.missing(call, "tiles or axis known only when run", "export with opset 6 or newer")
    repeats = np.ones(len(emitter.shape(data)), np.int64)
    repeats[int(where.item())] = int(count.item())
    call.operands = [data, emitter.constant(repeats)]


@_before(10, "TopK")
def _count_to_input(call: Call, emitter: Emitter) -> None:
    call.operands.append(emitter.constant(_ints([call.attributes.pop("k")])))


@_before(1 << 30, "Upsample")
def _upsample(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    data, attributes = call.operands[0], call.attributes
    if call.version < 7:
        factors = [1.0, 1.0, attributes["height_scale"], attributes["width_scale"]]
        scales: SSAValue | None = emitter.constant(np.array(factors, np.float32))
    elif call.version < 9:
        scales = emitter.constant(np.array(attributes["scales"], np.float32))
    else:
        scales = call.operands[1]
    mode = {"bilinear": "linear"}.get(attributes.get("mode", "nearest"), attributes.get("mode", "nearest"))
    how = {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return emitter.emit("Resize", data, None, scales, **how)
