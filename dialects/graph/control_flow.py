"""Control flow: regions read values from outside directly, and end in `graph.yield`."""

from collections.abc import Sequence

from xdsl.dialects.builtin import TensorType
from xdsl.ir import Attribute, Operation, Region, SSAValue
from xdsl.irdl import operand_def, opt_operand_def, region_def, var_operand_def, var_result_def
from xdsl.traits import IsTerminator
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph.core import (
    OPERATORS,
    TENSOR,
    VALUE,
    GraphOp,
    axis_of,
    integer,
    integers,
    operator,
    same_dim,
)
from stepwell.dialects.graph.shape import Dim, dims_of, symbols_of, tensor_type
from stepwell.dialects.graph.types import SequenceType, held, joined


@operator
class YieldOp(GraphOp):
    """
    The end of a region of `graph.if`, `graph.loop`, `graph.scan` or `graph.sequence_map`: what it hands out.
    """

    values = var_operand_def(VALUE)

    def output_types(self) -> Sequence[Attribute]:
        return []


# No ONNX operator has this name.
OPERATORS.pop("Yield")
YieldOp.get_irdl_definition().traits.add_trait(IsTerminator())


def yielded(op: Operation, region: Region) -> list[SSAValue]:
    """What a region hands out; an error if it does not end in `graph.yield`."""
    last = region.block.last_op if len(region.blocks) == 1 else None
    if not isinstance(last, YieldOp):
        raise VerifyException(f"{op.name}: a region must be one block that ends in graph.yield")
    return list(last.operands)


def _symbols(type_: Attribute) -> set[str]:
    if not isinstance(type_, TensorType) or type_.has_static_shape():
        return set()
    return set().union(*(symbols_of(d) for d in dims_of(type_)))


def _outer_symbols(op: GraphOp) -> set[str]:
    """The symbols that mean something outside the regions: those in the types of the values that come in."""
    found: set[str] = set()
    for operand in op.operands:
        found |= _symbols(operand.type)
    inside = {id(block) for region in op.regions for block in region.blocks}
    for region in op.regions:
        for inner in region.walk():
            inside |= {id(inner)} | {id(b) for r in inner.regions for b in r.blocks}
            for operand in inner.operands:
                if id(operand.owner) not in inside:
                    found |= _symbols(operand.type)
    return found


def join(op: GraphOp, index: int, types: Sequence[Attribute], outer: set[str]) -> Attribute:
    """
    The one type for result `index` that may hold a value of any of `types`; extents that differ become fresh.
    """
    first = types[0]
    if not all(isinstance(t, TensorType) for t in types):
        for type_ in types[1:]:
            if (both := joined(first, type_)) is None:
                texts = " and ".join(str(t) for t in types)
                raise VerifyException(f"{op.name}: result {index} would be {texts}: no value can be either")
            first = both
        return first
    assert isinstance(first, TensorType), "all are tensors"
    shapes = [dims_of(t) for t in types if isinstance(t, TensorType) and t.element_type == first.element_type]
    if len(shapes) != len(types) or len({len(s) for s in shapes}) != 1:
        texts = " and ".join(str(t) for t in types)
        raise VerifyException(
            f"{op.name}: result {index} would be {texts}: element type and rank must be the same"
        )
    result: list[Dim] = []
    for axis, extents in enumerate(zip(*shapes, strict=True)):
        same = all(e == extents[0] for e in extents) and symbols_of(extents[0]) <= outer
        result.append(extents[0] if same else op.fresh(index, axis))
    return tensor_type(result, first.element_type)


@operator
class IfOp(GraphOp):
    """What `then_branch` hands out if the condition holds, else what `else_branch` does."""

    cond = operand_def(TENSOR)
    outputs = var_result_def(VALUE)
    then_branch = region_def("single_block")
    else_branch = region_def("single_block")

    def output_types(self) -> Sequence[Attribute]:
        pairs = [yielded(self, r) for r in self.regions]
        if len(pairs) != 2 or len(pairs[0]) != len(pairs[1]):
            counts = " and ".join(str(len(p)) for p in pairs)
            raise VerifyException(f"{self.name}: the branches hand out {counts} values; must be the same")
        outer = _outer_symbols(self)
        return [join(self, i, [a.type, b.type], outer) for i, (a, b) in enumerate(zip(*pairs, strict=True))]


@operator
class LoopOp(GraphOp):
    """
    Run `body(iteration, condition, carried...)` at most `m` times (without limit if absent) while the
    condition holds. It hands out the next condition, the next carried values, and values that are stacked
    along a new first axis.
    """

    m = opt_operand_def(TENSOR)
    cond = opt_operand_def(TENSOR)
    v_initial = var_operand_def(VALUE)
    v_final_and_scan_outputs = var_result_def(VALUE)
    body = region_def("single_block")

    def output_types(self) -> Sequence[Attribute]:
        out = yielded(self, self.body)
        arguments = self.body.block.args
        carried = len(self.v_initial)
        if len(arguments) != carried + 2 or len(out) < carried + 1:
            raise VerifyException(
                f"{self.name}: {carried} carried values need {carried + 2} arguments and at"
                f" least {carried + 1} values"
                f" handed out; has {len(arguments)} and {len(out)}"
            )
        outer = _outer_symbols(self)
        types = [
            join(self, i, [initial.type, value.type, argument.type], outer)
            for i, (initial, value, argument) in enumerate(
                zip(self.v_initial, out[1 : carried + 1], arguments[2:], strict=True)
            )
        ]
        for i, value in enumerate(out[carried + 1 :], carried):
            inner = join(self, i, [value.type], outer)
            if not isinstance(inner, TensorType):
                raise VerifyException(
                    f"{self.name}: output {i} of type {inner} cannot be stacked; must be a tensor"
                )
            # The symbol of the new axis stands before those of the stacked value.
            shape = [
                d if isinstance(d, int) or symbols_of(d) <= outer else self.fresh(i, 1 + axis)
                for axis, d in enumerate(dims_of(value.type))
            ]
            types.append(tensor_type([self.fresh(i, 0), *shape], inner.element_type))
        return types


@operator
class ScanOp(GraphOp):
    """
    Run `body(states..., slices...)` over the slices of the last `num_scan_inputs` operands along their scan
    axes. It hands out the next states and values that are stacked along `scan_output_axes`.
    """

    initial_state_and_scan_inputs = var_operand_def(TENSOR)
    final_state_and_scan_outputs = var_result_def(TENSOR)
    num_scan_inputs = integer()
    scan_input_axes = integers()
    scan_input_directions = integers()
    scan_output_axes = integers()
    scan_output_directions = integers()
    body = region_def("single_block")

    def output_types(self) -> Sequence[Attribute]:
        out, count = yielded(self, self.body), self.get("num_scan_inputs")
        states = len(self.operands) - count
        if count < 1 or states < 0 or len(self.body.block.args) != len(self.operands) or len(out) < states:
            raise VerifyException(
                f"{self.name}: {len(self.operands)} operands, {count} of them scanned, do not fit a body of"
                f" {len(self.body.block.args)} arguments that hands out {len(out)} values"
            )
        length: Dim | None = None
        axes = self.get("scan_input_axes") or (0,) * count
        for value, axis in zip(self.operands[states:], axes, strict=True):
            shape = dims_of(value.type)
            extent = shape[axis_of(self, axis, len(shape))]
            if length is not None and not same_dim(length, extent):
                raise VerifyException(
                    f"{self.name}: scanned axes have different extents {length} and {extent}"
                )
            length = extent if length is None or isinstance(extent, int) else length
        assert length is not None, "at least one operand is scanned"
        outer = _outer_symbols(self)
        types: list[Attribute] = [
            join(self, i, [self.operands[i].type, out[i].type], outer) for i in range(states)
        ]
        axes = self.get("scan_output_axes") or (0,) * (len(out) - states)
        for i, (value, axis) in enumerate(zip(out[states:], axes, strict=True), states):
            inner = value.type
            if not isinstance(inner, TensorType):
                raise VerifyException(f"{self.name}: output {i} of type {inner} must be a tensor")
            shape = dims_of(inner)
            axis = axis_of(self, axis, len(shape) + 1)
            shape = [*shape[:axis], length, *shape[axis:]]
            shape = [
                d if isinstance(d, int) or a == axis or symbols_of(d) <= outer else self.fresh(i, a)
                for a, d in enumerate(shape)
            ]
            types.append(tensor_type(shape, inner.element_type))
        return types


@operator
class SequenceMapOp(GraphOp):
    """
    `body` applied to every element of a sequence (and of the further sequences, or the same tensor each
    time).
    """

    input_sequence = operand_def(VALUE)
    additional_inputs = var_operand_def(VALUE)
    out_sequence = var_result_def(VALUE)
    body = region_def("single_block")

    def output_types(self) -> Sequence[Attribute]:
        return [SequenceType(held(v.type)) for v in yielded(self, self.body)]
