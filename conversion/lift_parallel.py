"""Turn kernels into ranges of tiles, and calls of them into launches."""

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import arith, func, memref, scf, vector
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    FunctionType,
    IndexType,
    IntegerAttr,
    ModuleOp,
    VectorType,
)
from xdsl.ir import Block, Operation, Region, SSAValue
from xdsl.ir.affine import AffineConstantExpr
from xdsl.passes import ModulePass
from xdsl.traits import is_side_effect_free

from stepwell.diagnostics import unsupported
from stepwell.dialects.scf import Extent, ForallOp
from stepwell.dialects.schedule import RUNTIME_KEY, LaunchOp
from stepwell.dialects.stepwell import TARGET_KEY, target_of
from stepwell.transforms.memref.recompute import Recompute, element_bytes

_INDEX = IndexType()
_UNKNOWN_TRIPS = 64
"""What the estimate of work takes a loop of unknown extent to run."""


_MOST_WORK = 1 << 62
"""Nanoseconds of an iteration that are as good as for ever."""


@dataclass(frozen=True)
class LiftParallelPass(ModulePass):
    """
    Turn the `scf.forall` of a kernel into a loop over the tiles `[%begin, %end)`, two new last arguments,
    and each call of a kernel into `schedule.launch` with the number of tiles and the work of one.
    A kernel that does more than one `scf.forall` runs as one tile.
    Requires: buffers. Ensures: no `scf.forall`; every kernel ends in `%begin: index, %end: index`.
    """

    name = "lift-parallel"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        calls: dict[str, list[func.CallOp]] = {}
        for inner in op.walk():
            if isinstance(inner, func.CallOp):
                calls.setdefault(inner.callee.string_value(), []).append(inner)
        register_ops_per_ns, vector_bytes = 8.0, 32
        if TARGET_KEY in op.attributes:
            target = target_of(op)
            vector_bytes = target.vector_bytes
            register_ops_per_ns = target.flops_per_ns / (2 * target.lanes(4))
        for kernel in op.body.block.ops:
            if isinstance(kernel, func.FuncOp) and RUNTIME_KEY in kernel.attributes:
                inputs = [*kernel.function_type.inputs, _INDEX, _INDEX]
                kernel.properties["function_type"] = FunctionType.from_lists(inputs, [])
                for call in calls.get(kernel.sym_name.data, []):
                    _launch_once(call)
            if not isinstance(kernel, func.FuncOp) or kernel.is_declaration:
                continue
            if "stepwell.kernel" not in kernel.attributes:
                for inner in [o for o in kernel.walk() if isinstance(o, ForallOp)]:
                    _serialise(inner)
                continue
            bounds = _lift(kernel)
            loop = next((o for o in kernel.body.block.ops if "stepwell.tiles" in o.attributes), None)
            scope = kernel if loop is None else loop
            work = sum(_work(b, vector_bytes) for r in scope.regions for b in r.blocks)
            if loop is not None:
                del loop.attributes["stepwell.tiles"]
            for call in calls.get(kernel.sym_name.data, []):
                _launch(kernel, call, bounds, min(max(1, round(work / register_ops_per_ns)), _MOST_WORK))


def _lift(kernel: func.FuncOp) -> list[tuple[Extent, Extent, Extent]] | None:
    """Give `kernel` its range; the bounds of the loop it was, or None for a kernel of one tile."""
    block = kernel.body.block
    foralls = [op for op in block.ops if isinstance(op, ForallOp)]
    lifted = None
    if len(foralls) == 1 and not any(_has_effects(op) for op in block.ops if op is not foralls[0]):
        lifted = foralls[0]
    begin = block.insert_arg(_INDEX, len(block.args))
    end = block.insert_arg(_INDEX, len(block.args))
    begin.name_hint, end.name_hint = "begin", "end"
    kernel.properties["function_type"] = FunctionType.from_lists([a.type for a in block.args], [])
    if kernel.arg_attrs is not None:
        empty = DictionaryAttr({})
        kernel.properties["arg_attrs"] = ArrayAttr([*kernel.arg_attrs, empty, empty])
    bounds = None
    if lifted is not None:
        bounds = list(zip(lifted.lower_bounds, lifted.upper_bounds, lifted.steps, strict=True))
        _to_range(lifted, begin, end)
    for op in [op for op in kernel.walk() if isinstance(op, ForallOp)]:
        _serialise(op)
    return bounds


def _has_effects(op: Operation) -> bool:
    if isinstance(op, memref.AllocaOp | memref.GetGlobalOp | func.ReturnOp) or op.name.startswith("arith."):
        return False
    return not is_side_effect_free(op)


class _Emitter:
    def __init__(self, before: Operation):
        self._before = before
        self._constants: dict[int, SSAValue] = {}

    def __call__(self, op: Operation) -> SSAValue:
        op.location = self._before.location
        block = self._before.parent
        assert block is not None
        block.insert_op_before(op, self._before)
        return op.results[0]

    def index(self, value: Extent) -> SSAValue:
        if not isinstance(value, int):
            return value
        if value not in self._constants:
            self._constants[value] = self(arith.ConstantOp(IntegerAttr(value, _INDEX)))
        return self._constants[value]

    def count(self, lower: Extent, upper: Extent, step: Extent) -> Extent:
        """The number of iterations from `lower` below `upper`; an int where all three are."""
        if isinstance(lower, int) and isinstance(upper, int) and isinstance(step, int):
            return max(0, -(-(upper - lower) // step))
        distance = self.index(upper)
        if lower != 0:
            distance = self(arith.SubiOp(distance, self.index(lower)))
        return distance if step == 1 else self(arith.CeilDivUIOp(distance, self.index(step)))


def _to_range(op: ForallOp, begin: SSAValue, end: SSAValue) -> None:
    """forall (i, j) in (I, J) == for t in [0, I * J) with i = t / J, j = t % J"""
    emit = _Emitter(op)
    counts = [emit.count(*b) for b in zip(op.lower_bounds, op.upper_bounds, op.steps, strict=True)]
    one = emit.index(1)
    constants = {v: emit.index(v) for v in (*counts, *op.lower_bounds, *op.steps) if isinstance(v, int)}

    def value(extent: Extent) -> SSAValue:
        return constants[extent] if isinstance(extent, int) else extent

    body = op.region.block
    first = body.first_op
    assert first is not None
    inner = _Emitter(first)
    tile = body.insert_arg(_INDEX, 0)
    tile.name_hint = "tile"
    variables = list(body.args[1:])
    rest: SSAValue = tile
    bounds = list(zip(variables, op.lower_bounds, op.steps, counts, strict=True))
    for number, (variable, lower, step, count) in reversed(list(enumerate(bounds))):
        if count == 1:
            position: SSAValue | None = None
        elif number == 0:
            position = rest
        else:
            position = inner(arith.RemUIOp(rest, value(count)))
            rest = inner(arith.DivUIOp(rest, value(count)))
        if position is None:
            position = value(lower)
        else:
            if step != 1:
                position = inner(arith.MuliOp(position, value(step)))
            if lower != 0:
                position = inner(arith.AddiOp(position, value(lower)))
        variable.replace_all_uses_with(position)
    for variable in reversed(variables):
        body.erase_arg(variable)
    _replace_last(body)
    # A stack buffer that a tile makes would take new stack in each of them.
    block = op.parent
    assert block is not None and block.first_op is not None
    for inner_op in list(body.ops):
        if isinstance(inner_op, memref.AllocaOp) and all(
            _outside(size, body) for size in inner_op.dynamic_sizes
        ):
            inner_op.detach()
            block.insert_op_before(inner_op, op)
    loop = scf.ForOp(begin, end, one, [], op.detach_region(op.region))
    loop.attributes.update(op.attributes)
    loop.attributes["stepwell.tiles"] = IntegerAttr(1, _INDEX)
    emit_loop(loop, op)


def _outside(value: SSAValue, body: Block) -> bool:
    owner = value.owner
    return (owner if isinstance(owner, Block) else owner.parent) is not body


def emit_loop(loop: Operation, old: Operation) -> None:
    loop.location = old.location
    assert old.parent is not None
    old.parent.insert_op_before(loop, old)
    old.detach()
    old.erase()


def _replace_last(body: Block) -> None:
    last = body.last_op
    assert last is not None
    last.detach()
    last.erase()
    body.add_op(scf.YieldOp())


def _serialise(op: ForallOp) -> None:
    """forall (i, j) { body } == for i { for j { body } }"""
    emit = _Emitter(op)
    bounds = [
        (emit.index(lower), emit.index(upper), emit.index(step))
        for lower, upper, step in zip(op.lower_bounds, op.upper_bounds, op.steps, strict=True)
    ]
    region = op.detach_region(op.region)
    body = region.block
    _replace_last(body)
    for lower, upper, step in reversed(bounds[1:]):
        variable = body.args[-1]
        inner = Block(arg_types=[_INDEX])
        variable.replace_all_uses_with(inner.args[0])
        outer = Block(arg_types=[_INDEX] * (len(body.args) - 1))
        for old, new in zip(body.args[:-1], outer.args, strict=True):
            old.replace_all_uses_with(new)
        for moved in list(body.ops):
            moved.detach()
            inner.add_op(moved)
        outer.add_ops([scf.ForOp(lower, upper, step, [], Region(inner)), scf.YieldOp()])
        body = outer
    if body is not region.first_block:
        region = Region(body)
    emit_loop(scf.ForOp(*bounds[0], [], region), op)


_RUNTIME_WORK_NS = 1_000
"""Nanoseconds assumed of a kernel of the runtime, which is one tile."""


def _launch_once(call: func.CallOp) -> None:
    """A kernel of the runtime runs as one tile."""
    one = arith.ConstantOp(IntegerAttr(1, _INDEX))
    launch = LaunchOp(call.callee.string_value(), one.result, list(call.operands), _RUNTIME_WORK_NS)
    block = call.parent
    assert block is not None
    for op in (one, launch):
        op.location = call.location
        block.insert_op_before(op, call)
    call.detach()
    call.erase()


def _launch(
    kernel: func.FuncOp,
    call: func.CallOp,
    bounds: Sequence[tuple[Extent, Extent, Extent]] | None,
    work: int,
) -> None:
    parameters = kernel.body.block.args[: len(call.operands)]
    recompute = Recompute(dict(zip(parameters, call.operands, strict=True)), call)
    counts: list[Extent] = []
    for bound in bounds or ():
        for extent in bound:
            if not isinstance(extent, int) and not recompute.possible(extent):
                raise unsupported(
                    kernel, "its number of tiles depends on data", "compute the extents outside the kernel"
                )
        lower, upper, step = (e if isinstance(e, int) else recompute(e) for e in bound)
        emit = _Emitter(call)
        counts.append(emit.count(lower, upper, step))
    product = recompute.product(counts)
    tiles = recompute.constant(product) if isinstance(product, int) else product
    launch = LaunchOp(kernel.sym_name.data, tiles, list(call.operands), work)
    launch.attributes.update(call.attributes)
    emit_loop(launch, call)


def _work(block: Block, vector_bytes: int) -> float:
    """Machine operations of one run of `block`, a vector counted by the registers it fills."""
    total = 0.0
    for op in block.ops:
        if op.regions:
            trips = _trips(op)
            inner = [_work(b, vector_bytes) for r in op.regions for b in r.blocks]
            total += max(inner, default=0.0) if isinstance(op, scf.IfOp) else trips * sum(inner)
            continue
        if isinstance(op, arith.ConstantOp):
            continue
        cost = 1.0
        if isinstance(op, vector.TransferReadOp):
            total += _read(op, vector_bytes)
            continue
        for value in (*op.operands, *op.results):
            if isinstance(value.type, VectorType):
                registers = value.type.element_count() * element_bytes(value.type.element_type) / vector_bytes
                cost = max(cost, registers)
        if op.name.startswith("math."):
            cost *= 10  # a polynomial
        elif isinstance(op, arith.DivfOp | arith.DivUIOp | arith.DivSIOp | arith.RemUIOp | arith.RemSIOp):
            cost *= 4
        elif isinstance(op, memref.CopyOp):
            cost = _elements(op) * element_bytes(op.source.type.element_type) / vector_bytes  # pyright: ignore
        elif isinstance(op, vector.ReductionOp):
            cost *= 4
        total += cost
    return total


def _read(op: vector.TransferReadOp, vector_bytes: int) -> float:
    """Two loads run at once, and what the map repeats is loaded once."""
    type = op.result.type
    assert isinstance(type, VectorType)
    size = element_bytes(type.element_type)
    for extent, expr in zip(type.get_shape(), op.permutation_map.data.results, strict=True):
        if not isinstance(expr, AffineConstantExpr):
            size *= extent
    return max(1.0, size / vector_bytes) / 2


def _elements(op: memref.CopyOp) -> int:
    total = 1
    for extent in op.source.type.get_shape():  # pyright: ignore
        total *= extent if extent >= 0 else _UNKNOWN_TRIPS
    return total


def _trips(op: Operation) -> int:
    if not isinstance(op, scf.ForOp):
        return 1 if isinstance(op, scf.IfOp) else _UNKNOWN_TRIPS
    if "stepwell.tiles" in op.attributes:
        return 1
    bounds = [
        v.owner.value.value.data
        if isinstance(v.owner, arith.ConstantOp) and isinstance(v.owner.value, IntegerAttr)
        else None
        for v in (op.lb, op.ub, op.step)
    ]
    lower, upper, step = bounds
    if lower is None or upper is None or not step:
        return _UNKNOWN_TRIPS
    return max(0, -(-(upper - lower) // step))
