"""Turn the linalg ops of each kernel into loops over vectors."""

from collections.abc import Sequence
from dataclasses import dataclass

from xdsl.context import Context
from xdsl.dialects import arith, func, scf, tensor, vector
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    AffineMapAttr,
    AnyFloat,
    ArrayAttr,
    BoolAttr,
    DenseIntOrFPElementsAttr,
    FloatAttr,
    IndexType,
    IntegerAttr,
    IntegerType,
    ModuleOp,
    TensorType,
    VectorType,
    i1,
    i64,
)
from xdsl.dialects.linalg import ops as linalg
from xdsl.dialects.utils import get_dynamic_index_list
from xdsl.dialects.vector import CombiningKindFlag
from xdsl.ir import Attribute, Block, BlockArgument, Operation, OpResult, Region, SSAValue
from xdsl.ir.affine import AffineBinaryOpKind, AffineConstantExpr, AffineDimExpr, AffineExpr, AffineMap
from xdsl.passes import ModulePass

from stepwell.dialects.arith import ARITH, IndexCastOp, SelectOp
from stepwell.dialects.schedule import TileAttr
from stepwell.dialects.stepwell import target_of
from stepwell.dialects.text import StringType
from stepwell.dialects.vector import DeinterleaveOp, MultiReductionOp, ShapeCastOp, StepOp, TransposeOp
from stepwell.remarks import applied, listening, missed
from stepwell.rewriting import may_rewrite, note_rewrite
from stepwell.transforms.linalg.indices import (
    Extent,
    IndexBuilder,
    bound_of,
    domain_of,
    linear,
    packed,
    paired,
)
from stepwell.transforms.linalg.structure import contraction_operands, maps_of, output_map, reduction_dims

KERNEL = "stepwell.kernel"
SCHEDULE = "schedule"


@dataclass(frozen=True)
class VectorisePass(ModulePass):
    """
    Turn the linalg ops of each kernel into loops over vectors.

    Requires: kernels, usually after `tile-and-fuse`; `set-target`. Ensures: an op whose schedule has `vector`
    sizes is vector ops inside `scf.for`; values go from op to op in vectors where the tile is one vector. An op
    without a schedule, or one that reads along a vector in a way no vector read can, stays for `linalg-to-loops`.
    """

    name = "vectorise"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        contract = target_of(op).fp != "strict"
        for function in op.body.block.ops:
            if isinstance(function, func.FuncOp) and KERNEL in function.attributes and may_rewrite():
                _vectorise_kernel(function, contract)
                note_rewrite("vectorise_kernel", f"@{function.sym_name.data}", function.location)


def _vectorise_kernel(function: func.FuncOp, contract: bool) -> None:
    build = IndexBuilder(function.body.block)
    blocks = {op.parent_block(): None for op in function.walk() if isinstance(op, linalg.GenericOp)}
    for block in blocks:
        assert block is not None
        held: dict[SSAValue, _Held] = {}
        with build.inside(block):
            for op in list(block.ops):
                if isinstance(op, linalg.FillOp):
                    held[op.results[0]] = _Held(op.inputs[0], None)
                if isinstance(op, linalg.GenericOp) and SCHEDULE in op.attributes:
                    _replace(op, build, held, contract)
        _drop_unread(block)


def _replace(
    op: linalg.GenericOp, build: IndexBuilder, held: "dict[SSAValue, _Held]", contract: bool
) -> None:
    place = op.parent_block()
    assert place is not None
    if any(isinstance(r.type, StringType) for inner in op.body.block.ops for r in inner.results) or any(
        isinstance(a.type, StringType) for a in op.body.block.args
    ):
        del op.attributes[SCHEDULE]  # no register holds several strings
        return
    code = Block()
    schedule = op.attributes[SCHEDULE]
    try:
        with build.attempt(), build.inside(code):
            emitter = _Emitter(op, build, held, contract)
            results = emitter.emit()
    except _CannotVectorise as error:
        del op.attributes[SCHEDULE]
        missed(op, f"scalar loops: {error}")
        return
    if listening():
        widths = [w for w in schedule.vector_sizes if w > 1] if isinstance(schedule, TileAttr) else []
        applied(
            op, f"vectors of {' x '.join(map(str, widths))}" if widths else "scalars, which suffice for it"
        )
    for new in list(code.ops):
        new.detach()
        if new.results and new.results[0].name_hint is None and new.results[-1] in results:
            new.results[-1].name_hint = op.results[0].name_hint
        new.location = op.location
        place.insert_op_before(new, op)
    for old, new in zip(op.results, results, strict=True):
        old.replace_all_uses_with(new)
    for new, value in zip(results, emitter.held_results, strict=True):
        if value is not None:
            held[new] = value
    op.detach()
    op.erase()


_DROPPED = (
    vector.TransferWriteOp,
    vector.TransferReadOp,
    vector.BroadcastOp,
    tensor.InsertOp,
    tensor.ExtractOp,
    tensor.ExtractSliceOp,
    tensor.EmptyOp,
    tensor.DimOp,
    linalg.FillOp,
    arith.AddiOp,
    arith.SubiOp,
    arith.MuliOp,
    arith.DivUIOp,
    arith.RemUIOp,
    arith.MinUIOp,
)


def _drop_unread(block: Block) -> None:
    """Values went from op to op in vectors: the writes that nothing reads go."""
    for op in reversed(list(block.ops)):
        if isinstance(op, _DROPPED) and not any(r.uses for r in op.results):
            op.detach()
            op.erase()


class _CannotVectorise(Exception):
    """A read that is no vector read, or a reduction that is no known combination."""


@dataclass(frozen=True)
class _Held:
    """The whole contents of a tensor in one value."""

    value: SSAValue
    axes: tuple[int, ...] | None
    """The tensor axis of each dim of the vector; other axes have extent 1. None: all elements are `value`."""


@dataclass(frozen=True)
class _Value:
    """
    What a body value is at one step: one scalar for all lanes; or a vector of the op's vector shape; or a
    scalar that grows by one along a vector dim (`along`).
    """

    value: SSAValue
    kind: str
    along: int = -1


_VECTOR_FORMS = {op.name: op for op in ARITH.operations}
"""The classes that take vectors, for ops that were made with xDSL's scalar ones."""
_KINDS: dict[type[Operation], CombiningKindFlag] = {
    arith.AddfOp: CombiningKindFlag.ADD,
    arith.AddiOp: CombiningKindFlag.ADD,
    arith.MulfOp: CombiningKindFlag.MUL,
    arith.MuliOp: CombiningKindFlag.MUL,
    arith.MaximumfOp: CombiningKindFlag.MAXIMUMF,
    arith.MinimumfOp: CombiningKindFlag.MINIMUMF,
    arith.MaxnumfOp: CombiningKindFlag.MAXNUMF,
    arith.MinnumfOp: CombiningKindFlag.MINNUMF,
    arith.MaxSIOp: CombiningKindFlag.MAXSI,
    arith.MinSIOp: CombiningKindFlag.MINSI,
    arith.MaxUIOp: CombiningKindFlag.MAXUI,
    arith.MinUIOp: CombiningKindFlag.MINUI,
    arith.AndIOp: CombiningKindFlag.AND,
    arith.OrIOp: CombiningKindFlag.OR,
    arith.XOrIOp: CombiningKindFlag.XOR,
}
"""The combiners of a reduction that may be split over the lanes of a vector."""


def _neutral(kind: CombiningKindFlag, type: Attribute) -> Attribute:
    """`combine(neutral, x) == x`."""
    if isinstance(type, IntegerType | IndexType):
        width = type.width.data if isinstance(type, IntegerType) else 64
        numbers = {
            CombiningKindFlag.MUL: 1,
            CombiningKindFlag.AND: -1,
            CombiningKindFlag.MAXSI: -(1 << (width - 1)),
            CombiningKindFlag.MINSI: (1 << (width - 1)) - 1,
            CombiningKindFlag.MINUI: -1,
        }
        if width == 1 and isinstance(type, IntegerType):
            numbers |= {CombiningKindFlag.MAXSI: -1, CombiningKindFlag.MINSI: 0}
        return IntegerAttr(numbers.get(kind, 0), type)
    infinity = float("inf")
    value = {
        CombiningKindFlag.ADD: -0.0,
        CombiningKindFlag.MUL: 1.0,
        CombiningKindFlag.MAXIMUMF: -infinity,
        CombiningKindFlag.MAXNUMF: -infinity,
        CombiningKindFlag.MINIMUMF: infinity,
        CombiningKindFlag.MINNUMF: infinity,
    }[kind]
    assert isinstance(type, AnyFloat), f"no reduction combines {type}"
    return FloatAttr(value, type)


class _Emitter:
    """Emits the loops and vectors of one generic at the end of the current block."""

    def __init__(
        self, op: linalg.GenericOp, build: IndexBuilder, held: dict[SSAValue, _Held], contract: bool
    ):
        self.op, self.build, self.held, self.contract = op, build, held, contract
        schedule = op.attributes[SCHEDULE]
        domain = domain_of(op, build)
        if not isinstance(schedule, TileAttr) or domain is None:
            raise _CannotVectorise("the extents of its dims are not known from its operands")
        self.steps = [v or 1 for v in schedule.vector_sizes]
        self.domain = domain
        self.maps = maps_of(op)
        self.reductions = reduction_dims(op)
        self.vector_dims = [d for d, step in enumerate(self.steps) if step > 1]
        self.pair = self._pair()
        self.shape = [self.steps[d] for d in self.vector_dims]
        if self.pair is not None:
            self.shape = [*self.shape[:-2], self.shape[-2] * self.shape[-1]]
        self.kept = [d for d in self.vector_dims if d not in self.reductions]
        self.kept_shape = [self.steps[d] for d in self.kept]
        self.index: list[Extent] = [0] * len(domain)
        self.partial: dict[int, Extent] = {}
        """Vector dims of which only the first so many lanes are elements."""
        self.loops = {d for d in range(len(domain)) if self._needs_loop(d)}
        self.body = op.body.block
        self.held_results: list[_Held | None] = [None] * len(op.results)
        self.combiners = [self._combiner(i) for i in range(len(op.outputs))]
        if any(d in self.reductions for d in self.vector_dims) and None in self.combiners:
            raise _CannotVectorise("its reduction combines values in no way that lanes can")

    def _pair(self) -> int | None:
        """
        The reduction dim of which a step of the vector is two, side by side behind the columns of a factor that lies so: what the
        loop carries has two lanes for each column, which are added behind it.
        """
        found = {pairs for m in self.maps if (pairs := paired(m, self.reductions))}
        pairs = found.pop() if len(found) == 1 else None
        if pairs is None or self.vector_dims[-2:] != [pairs.column, pairs.step]:
            return None
        if contraction_operands(self.op) is None or not isinstance(
            _element(self.op.outputs[0].type), AnyFloat
        ):
            return None
        extent = self.domain[pairs.step]
        whole = isinstance(extent, int) and extent % 2 == 0 and self.steps[pairs.step] == 2
        return pairs.step if whole and self.steps[pairs.column] == pairs.width else None

    def _combiner(self, output: int) -> CombiningKindFlag | None:
        """How the body combines output `output` with its accumulator, if that is a known way."""
        terminator = self.body.last_op
        assert terminator is not None, "a body ends in linalg.yield"
        accumulator = self.body.args[len(self.op.inputs) + output]
        value = terminator.operands[output]
        if not isinstance(value, OpResult) or sum(v is accumulator for v in value.op.operands) != 1:
            return None
        if len(list(accumulator.uses)) != 1 or len(list(value.uses)) != 1:
            return None
        return _KINDS.get(type(value.op))

    def emit(self) -> list[SSAValue]:
        """The op's results."""
        outs = [self._target(out) for out in self.op.outputs]
        loops = [d for d in range(len(self.domain)) if d not in self.reductions and d in self.loops]
        return self._parallel(loops, outs, single=not loops)

    def _target(self, out: SSAValue) -> SSAValue:
        """Where a result is written: a fill in front of it is overwritten whole."""
        if isinstance(out, OpResult) and isinstance(out.op, linalg.FillOp):
            return out.op.outputs[0]
        return out

    def _needs_loop(self, dim: int) -> bool:
        """Whether `dim` takes more than one step, or perhaps none; notes a single step that is not full."""
        extent, step = self.domain[dim], self.steps[dim]
        bound = bound_of(extent)
        if bound is None or bound > step or extent == 0:
            return True
        if isinstance(extent, int) and extent == step:
            return False
        if step == 1:
            # An extent of at most 1 that is not known may be 0.
            return True
        self.partial[dim] = extent
        return False

    # Loops.

    def _parallel(self, loops: Sequence[int], outs: list[SSAValue], single: bool) -> list[SSAValue]:
        if not loops:
            return self._tile(outs, single)
        dim = loops[0]

        def body(carried: list[SSAValue]) -> list[SSAValue]:
            return self._parallel(loops[1:], carried, single=False)

        return self._steps(dim, outs, body)

    def _reduce(self, loops: Sequence[int], accumulators: list[SSAValue]) -> list[SSAValue]:
        if not loops:
            return self._step(accumulators)

        def body(carried: list[SSAValue]) -> list[SSAValue]:
            return self._reduce(loops[1:], carried)

        return self._steps(loops[0], accumulators, body)

    def _steps(self, dim: int, carried: list[SSAValue], body) -> list[SSAValue]:
        """`body` at every step of `dim`: whole vectors, then what is left over with masks."""
        extent, step = self.domain[dim], self.steps[dim]
        outer = self.index[dim]
        if dim == self.pair:
            assert isinstance(extent, int), "pairs are of a number of steps that is known"
            carried = self._for(dim, 0, extent // 2, 1, carried, body)
        elif step == 1:
            carried = self._for(dim, 0, extent, 1, carried, body)
        elif isinstance(extent, int):
            whole = extent - extent % step
            carried = self._for(dim, 0, whole, step, carried, body)
            if whole != extent:
                self.index[dim], self.partial[dim] = whole, extent - whole
                carried = body(carried)
                del self.partial[dim]
        else:
            whole = self.build.minus(extent, self.build.remainder(extent, step))
            carried = self._for(dim, 0, whole, step, carried, body)
            self.partial[dim] = extent
            carried = self._for(dim, whole, extent, step, carried, body, rest=True)
            del self.partial[dim]
        self.index[dim] = outer
        return carried

    def _for(
        self, dim: int, start: Extent, end: Extent, step: int, carried: list[SSAValue], body, rest=False
    ) -> list[SSAValue]:
        if isinstance(start, int) and isinstance(end, int) and end - start <= step:
            self.index[dim] = start
            return body(carried) if start < end else carried
        build = self.build
        block = Block(arg_types=[IndexType(), *(c.type for c in carried)])
        first, last, stride = build.values([start, end, step])
        with build.inside(block):
            self.index[dim] = block.args[0]
            if rest:
                self.partial[dim] = build.minus(end, block.args[0])
            build.add(scf.YieldOp(*body(list(block.args[1:]))))
        return list(build.add(scf.ForOp(first, last, stride, carried, Region(block))).results)

    # One tile: accumulators, the reduction loops, the write.

    def _tile(self, outs: list[SSAValue], single: bool) -> list[SSAValue]:
        op = self.op
        inner = [d for d in self.reductions if d in self.loops]
        results: list[SSAValue] = []
        if not self.reductions:
            self.accumulators = [self._lazy_initial(i, outs[i]) for i in range(len(outs))]
            values = self._evaluate()
        else:
            lanes = any(d in self.reductions for d in self.vector_dims)
            initial = [self._initial(i, out) for i, out in enumerate(outs)]
            if lanes:
                accumulators = []
                for i, out in enumerate(op.outputs):
                    element = _element(out.type)
                    kind = self.combiners[i]
                    assert kind is not None, "checked when the schedule was read"
                    start = self._zero(i) or _neutral(kind, element)
                    accumulators.append(self._splat(start, element, self.shape))
            else:
                accumulators = initial
            values = self._reduce(inner, accumulators)
            if lanes:
                values = [self._combine(i, v, initial[i]) for i, v in enumerate(values)]
        for i, (value, out) in enumerate(zip(values, outs, strict=True)):
            written, axes = self._write(i, value, out)
            results.append(written)
            if single:
                self.held_results[i] = _Held(value, axes)
        return results

    def _combine(self, output: int, value: SSAValue, initial: SSAValue) -> SSAValue:
        kind = self.combiners[output]
        assert kind is not None, "checked when the schedule was read"
        if self.pair is not None:
            halves = self.build.add(DeinterleaveOp(value))
            value = self.build.add(arith.AddfOp(halves.res1, halves.res2)).result
            return value if self._zero(output) else self.build.add(arith.AddfOp(value, initial)).result
        dims = [i for i, d in enumerate(self.vector_dims) if d in self.reductions]
        if len(self.shape) == 1:
            return self.build.add(_reduction(kind, value, initial)).results[0]
        return self.build.add(MultiReductionOp(kind, value, initial, dims)).dest

    def _zero(self, output: int) -> FloatAttr | None:
        """The zero that a sum in pairs starts from, if it does: each lane can, and nothing is added behind the loop."""
        known = self.held.get(self.op.outputs[output])
        if self.pair is None or known is None or known.axes is not None:
            return None
        start = owner.value if isinstance(owner := known.value.owner, arith.ConstantOp) else None
        return start if isinstance(start, FloatAttr) and str(start.value.data) == "0.0" else None

    def _initial(self, output: int, out: SSAValue) -> SSAValue:
        """What the accumulator of `output` starts from: a vector over the parallel vector dims, or a scalar."""
        operand = self.op.outputs[output]
        known = self.held.get(operand)
        if known is not None and known.axes is None:
            return self._spread(_Value(known.value, "scalar"), self.kept_shape)
        map = output_map(self.op, output)
        value = self._read(out, map, self.kept, operand, fold=False)
        return self._spread(value, self.kept_shape)

    def _lazy_initial(self, output: int, out: SSAValue):
        return lambda: self._read(
            out, output_map(self.op, output), self.vector_dims, self.op.outputs[output], fold=False
        )

    def _step(self, accumulators: list[SSAValue]) -> list[SSAValue]:
        """One step of the reduction."""
        kinds = "vector" if self.shape else "scalar"
        self.accumulators = [lambda a=a: _Value(a, kinds) for a in accumulators]
        values = self._evaluate()
        masked = [d for d in self.vector_dims if d in self.reductions and d in self.partial]
        if not masked:
            return values
        lanes: list[Extent] = [self.partial[d] if d in masked else self.steps[d] for d in self.vector_dims]
        mask = self.build.add(
            vector.CreateMaskOp(list(self.build.values(lanes)), VectorType(i1, self.shape))
        ).results[0]
        return [
            self.build.add(SelectOp(mask, v, a)).results[0] for v, a in zip(values, accumulators, strict=True)
        ]

    # The body.

    def _evaluate(self) -> list[SSAValue]:
        """The yielded values at the current step, as vectors (scalars where no dim is a vector)."""
        self.known: dict[SSAValue, _Value] = {}
        terminator = self.body.last_op
        assert terminator is not None, "a body ends in linalg.yield"
        fused = self._fused_products() if self.contract else set()
        for op in self.body.ops:
            if op is not terminator and op not in fused:
                self._body_op(op, fused)
        return [self._spread(self._value(v), self.shape) for v in terminator.operands]

    def _fused_products(self) -> set[Operation]:
        """The products that only a sum reads: `a * b + c` is one rounding."""
        fused: set[Operation] = set()
        for op in self.body.ops:
            if isinstance(op, arith.AddfOp) and self.shape:
                for value in op.operands:
                    product = value.owner
                    if isinstance(product, arith.MulfOp) and len(list(value.uses)) == 1:
                        fused.add(product)
                        break
        return fused

    def _value(self, value: SSAValue) -> _Value:
        if (known := self.known.get(value)) is not None:
            return known
        if isinstance(value, BlockArgument) and value.block is self.body:
            position = value.index
            if position < len(self.op.inputs):
                operand = self.op.inputs[position]
                if isinstance(operand.type, TensorType) and self.pair is not None:
                    map = self.maps[position]
                    known = (self._read_pairs if paired(map, self.reductions) else self._read_steps)(
                        operand, map
                    )
                elif isinstance(operand.type, TensorType):
                    known = self._read(operand, self.maps[position], self.vector_dims, operand, fold=True)
                else:
                    known = _Value(operand, "scalar")
            else:
                known = self.accumulators[position - len(self.op.inputs)]()
            self.known[value] = known
            return known
        return _Value(value, "scalar")

    def _body_op(self, op: Operation, fused: set[Operation]) -> None:
        build = self.build
        if isinstance(op, linalg.IndexOp):
            dim = op.dim.value.data
            base = build.value(self.index[dim])
            along = self.vector_dims.index(dim) if dim in self.vector_dims else -1
            self.known[op.result] = _Value(base, "scalar" if along < 0 else "linear", along)
            return
        if op.regions:
            raise _CannotVectorise("its body has a loop or a branch that varies by element")
        if isinstance(op, tensor.ExtractOp):
            self.known[op.result] = self._gather(op)
            return
        if isinstance(op, arith.AddfOp):
            for value, other in ((op.lhs, op.rhs), (op.rhs, op.lhs)):
                if isinstance(product := value.owner, arith.MulfOp) and product in fused:
                    factors = [self._value(v) for v in (*product.operands, other)]
                    if all(f.kind == "scalar" for f in factors):
                        result = build.add(arith.MulfOp(factors[0].value, factors[1].value)).result
                        result = build.add(arith.AddfOp(result, factors[2].value)).result
                        self.known[op.result] = _Value(result, "scalar")
                    else:
                        vectors = [self._spread(f, self.shape) for f in factors]
                        self.known[op.result] = _Value(build.add(vector.FMAOp(*vectors)).res, "vector")
                    return
        operands = [self._value(v) for v in op.operands]
        if all(o.kind == "scalar" for o in operands):
            if isinstance(op, arith.ConstantOp):
                self.known[op.result] = _Value(build.attribute(op.value, op.result.type), "scalar")
                return
            copy = op.clone({v: o.value for v, o in zip(op.operands, operands, strict=True)})
            build.add(copy)
            for old, new in zip(op.results, copy.results, strict=True):
                self.known[old] = _Value(new, "scalar")
            return
        if (shifted := self._shifted(op, operands)) is not None:
            self.known[op.results[0]] = shifted
            return
        if isinstance(op, arith.SelectOp) and operands[0].kind == "scalar":
            chosen = [operands[0].value, *(self._spread(o, self.shape) for o in operands[1:])]
            self.known[op.result] = _Value(build.add(SelectOp(*chosen)).result, "vector")
            return
        vectors = [self._spread(o, self.shape) for o in operands]
        if isinstance(op, arith.SelectOp):
            self.known[op.result] = _Value(build.add(SelectOp(*vectors)).result, "vector")
            return
        copy = _VECTOR_FORMS.get(op.name, type(op)).create(
            operands=vectors,
            result_types=[VectorType(r.type, self.shape) for r in op.results],
            properties=dict(op.properties),
            attributes=dict(op.attributes),
        )
        build.add(copy)
        for old, new in zip(op.results, copy.results, strict=True):
            self.known[old] = _Value(new, "vector")

    def _shifted(self, op: Operation, operands: list[_Value]) -> _Value | None:
        """An op on a value that grows by one along a vector dim, if its result grows by one too."""
        build = self.build
        if isinstance(op, arith.AddiOp) and {o.kind for o in operands} == {"linear", "scalar"}:
            along = max(o.along for o in operands)
            return _Value(
                build.add(arith.AddiOp(operands[0].value, operands[1].value)).result, "linear", along
            )
        if isinstance(op, arith.SubiOp) and [o.kind for o in operands] == ["linear", "scalar"]:
            value = build.add(arith.SubiOp(operands[0].value, operands[1].value)).result
            return _Value(value, "linear", operands[0].along)
        if isinstance(op, arith.IndexCastOp) and operands[0].kind == "linear":
            value = build.add(arith.IndexCastOp(operands[0].value, op.result.type)).result
            return _Value(value, "linear", operands[0].along)
        return None

    def _gather(self, op: tensor.ExtractOp) -> _Value:
        """An element at computed indices: one element for all lanes, or a run of elements along a vector."""
        indices = [self._value(v) for v in op.indices]
        if all(i.kind == "scalar" for i in indices):
            value = self.build.add(tensor.ExtractOp(op.tensor, [i.value for i in indices], op.result.type))
            return _Value(value.result, "scalar")
        if any(i.kind == "vector" for i in indices):
            raise _CannotVectorise("it reads at computed places that differ from lane to lane")
        if len({i.along for i in indices if i.kind == "linear"}) != sum(i.kind == "linear" for i in indices):
            raise _CannotVectorise("two of its indices move along one vector")
        axis_of = {self.vector_dims[i.along]: axis for axis, i in enumerate(indices) if i.kind == "linear"}
        return self._transfer(op.tensor, [i.value for i in indices], axis_of, self.vector_dims)

    # Values and their shapes.

    def _splat(self, attribute: Attribute, element: Attribute, shape: Sequence[int]) -> SSAValue:
        if not shape:
            return self.build.attribute(attribute, element)
        type = VectorType(element, shape)
        assert isinstance(attribute, IntegerAttr | FloatAttr), f"a number, got {attribute}"
        number = attribute.value.data
        return self.build.attribute(DenseIntOrFPElementsAttr.from_list(type, [number]), type)  # pyright: ignore

    def _spread(self, value: _Value, shape: Sequence[int]) -> SSAValue:
        """`value` in the given shape, all lanes alike if it is a scalar."""
        build = self.build
        if value.kind == "vector" or not shape:
            return value.value
        if value.kind == "linear":
            lanes = self.shape[value.along]
            element = value.value.type
            step = build.add(StepOp(lanes)).result
            if element != IndexType():
                step = build.add(IndexCastOp(step, VectorType(element, [lanes]))).result
            start = build.add(vector.BroadcastOp(value.value, VectorType(element, [lanes]))).vector
            run = build.add(arith.AddiOp(start, step)).result
            return self._aligned(run, [value.along], shape)
        owner = value.value.owner
        if isinstance(owner, arith.ConstantOp) and isinstance(owner.value, IntegerAttr | FloatAttr):
            return self._splat(owner.value, value.value.type, shape)
        return build.add(vector.BroadcastOp(value.value, VectorType(value.value.type, shape))).vector

    def _aligned(self, value: SSAValue, positions: Sequence[int], shape: Sequence[int]) -> SSAValue:
        """A vector whose dim `i` is dim `positions[i]` of `shape`, repeated along the other dims."""
        build = self.build
        order = sorted(range(len(positions)), key=positions.__getitem__)
        if order != list(range(len(positions))):
            value = build.add(TransposeOp(value, order)).result
        places = sorted(positions)
        if len(places) == len(shape):
            return value
        element = _element(value.type)
        if places != list(range(len(shape) - len(places), len(shape))):
            ones = [shape[i] if i in places else 1 for i in range(places[0], len(shape))]
            value = build.add(ShapeCastOp(value, VectorType(element, ones))).result
        return build.add(vector.BroadcastOp(value, VectorType(element, shape))).vector

    # Memory.

    def _read(
        self, value: SSAValue, map: AffineMap, dims: Sequence[int], origin: SSAValue, fold: bool
    ) -> _Value:
        """The elements of `value` that `map` names at this step, over the vector dims `dims`."""
        shape = [self.steps[d] for d in dims]
        known = self.held.get(origin)
        if known is not None and known.axes is None:
            return _Value(known.value, "scalar")
        if known is not None and known.axes is not None:
            forwarded = self._forward(known, map, dims, shape)
            if forwarded is not None:
                return forwarded
        base, offsets, strides = _origin(value) if fold else (value, None, None)
        build = self.build
        starts: list[Extent] = []
        axis_of: dict[int, int] = {}
        factor_of: dict[int, int] = {}
        for axis, expr in enumerate(map.results):
            start, lanes = self._axis(expr, dims)
            stride = strides[axis] if strides is not None else 1
            start = build.times(start, stride)
            starts.append(build.plus(offsets[axis], start) if offsets is not None else start)
            if lanes is not None:
                dim, factor = lanes
                if dim in axis_of:
                    raise _CannotVectorise("two axes of an operand move along one vector")
                axis_of[dim], factor_of[dim] = axis, factor * stride
        if not axis_of:
            element = build.add(tensor.ExtractOp(base, build.values(starts), _element(base.type)))
            return _Value(element.result, "scalar")
        if any(f < 1 for f in factor_of.values()):
            raise _CannotVectorise("it reads an operand backwards")
        if any(f != 1 for f in factor_of.values()):
            return self._strided(base, starts, axis_of, factor_of, dims)
        return self._transfer(base, build.values(starts), axis_of, dims)

    def _read_steps(self, value: SSAValue, map: AffineMap) -> _Value:
        """Two steps of the plain factor of a sum in pairs: both for each row, once for each column."""
        build, step = self.build, self.pair
        assert step is not None, "the sum is in pairs"
        *rows, column, _ = self.vector_dims
        if column in map.used_dims():
            raise _CannotVectorise("both factors of a sum in pairs have the columns")
        pair = self.index[step]
        self.index[step] = build.times(pair, 2)
        both = self._read(value, map, [*rows, step], value, fold=True)
        self.index[step] = pair
        if both.kind == "scalar":
            return both
        element, shape = _element(value.type), [*(self.steps[d] for d in rows), 1, 2]
        one = build.add(ShapeCastOp(both.value, VectorType(element, shape))).result
        shape[-2] = self.steps[column]
        all = build.add(vector.BroadcastOp(one, VectorType(element, shape))).vector
        return _Value(build.add(ShapeCastOp(all, VectorType(element, self.shape))).result, "vector")

    def _read_pairs(self, value: SSAValue, map: AffineMap) -> _Value:
        """Two steps of the factor of a sum in pairs that lies so: a run of both of each column, the same for each row."""
        build, step = self.build, self.pair
        assert step is not None, "the sum is in pairs"
        element = _element(value.type)
        *rows, column, _ = self.vector_dims
        base, offsets, strides = _origin(value)
        assert isinstance(base.type, TensorType)
        *shape, columns, two = base.type.get_shape()
        rank = len(shape)
        if columns != self.steps[column] or (strides is not None and set(strides) != {1}):
            raise _CannotVectorise("a panel of pairs is not read whole")
        starts: list[Extent] = []
        for axis, expr in enumerate(map.results[:-2]):
            halved = (pack := packed(expr)) is not None and pack[1] == step
            start = self.index[step] if halved else self._axis(expr, ())[0]
            starts.append(build.plus(offsets[axis], start) if offsets is not None else start)
        groups = [*([axis] for axis in range(rank)), [rank, rank + 1]]
        flat = tensor.CollapseShapeOp.build(
            operands=[base],
            properties={
                "reassociation": ArrayAttr(ArrayAttr(IntegerAttr(axis, i64) for axis in g) for g in groups)
            },
            result_types=[TensorType(element, [*shape, columns * two])],
        )
        zeros = [AffineConstantExpr(0)] * len(rows)
        read = vector.TransferReadOp(
            build.add(flat).result,
            build.values([*starts, 0]),
            build.poison(element),
            VectorType(element, self.shape),
            _bools([True] * len(self.shape)),
            permutation_map=AffineMapAttr(AffineMap(rank + 1, 0, (*zeros, AffineDimExpr(rank)))),
        )
        return _Value(build.add(read).result, "vector")

    def _axis(self, expr: AffineExpr, dims: Sequence[int]) -> tuple[Extent, tuple[int, int] | None]:
        """The first index that `expr` names at this step, and the vector dim along which it moves, how far."""
        if (pack := packed(expr)) is not None:
            kind, dim, width = pack
            start = self.build.expression(expr, self.index)
            if dim not in dims:
                return start, None
            if width % self.steps[dim]:
                raise _CannotVectorise("a vector would reach over two panels of a packed operand")
            return start, None if kind == AffineBinaryOpKind.FloorDiv else (dim, 1)
        if (terms := linear(expr)) is None:
            if any(d in dims for d in expr.used_dims()):
                raise _CannotVectorise("an index is no linear function of the loops")
            return self.build.expression(expr, self.index), None
        factors, start = terms
        first: Extent = start
        for dim, factor in factors.items():
            first = self.build.plus(first, self.build.times(self.index[dim], factor))
        moving = [(d, f) for d, f in factors.items() if d in dims]
        if len(moving) > 1:
            raise _CannotVectorise("one index moves along two vectors")
        return first, moving[0] if moving else None

    def _forward(
        self, known: _Held, map: AffineMap, dims: Sequence[int], shape: Sequence[int]
    ) -> _Value | None:
        """A held tensor as a vector of this op, if it is read once over from its start."""
        assert known.axes is not None
        if not known.axes:
            return _Value(known.value, "scalar")
        assert isinstance(known.value.type, VectorType)
        positions: list[int] = []
        for axis, extent in zip(known.axes, known.value.type.get_shape(), strict=True):
            expr = map.results[axis]
            if not isinstance(expr, AffineDimExpr) or expr.position not in dims:
                return None
            at_start = isinstance(self.index[expr.position], int) and self.index[expr.position] == 0
            if not at_start or self.steps[expr.position] != extent:
                return None
            positions.append(list(dims).index(expr.position))
        return _Value(self._aligned(known.value, positions, shape), "vector")

    def _in_bounds(self, base: SSAValue, dim: int, start: Extent | SSAValue, axis: int) -> bool:
        """All lanes of `dim` are elements of `base`."""
        if dim not in self.partial:
            return True
        assert isinstance(base.type, TensorType)
        extent = base.type.get_shape()[axis]
        number = _number(start)
        return extent != DYNAMIC_INDEX and number is not None and number + self.steps[dim] <= extent

    def _transfer(
        self, base: SSAValue, starts: Sequence[SSAValue], axis_of: dict[int, int], dims: Sequence[int]
    ) -> _Value:
        assert isinstance(base.type, TensorType)
        present = [d for d in dims if d in axis_of]
        in_memory = sorted(present, key=axis_of.__getitem__)
        if present != in_memory:
            # Whole runs are read as they lie and turned in registers: lane by lane would cost a load each.
            block = self._transfer(base, starts, axis_of, in_memory)
            positions = [list(dims).index(d) for d in in_memory]
            return _Value(self._aligned(block.value, positions, [self.steps[d] for d in dims]), "vector")
        results: list[AffineExpr] = []
        bounds: list[bool] = []
        for dim in dims:
            axis = axis_of.get(dim)
            results.append(AffineConstantExpr(0) if axis is None else AffineDimExpr(axis))
            bounds.append(axis is None or self._in_bounds(base, dim, starts[axis], axis))
        element = base.type.element_type
        # What a lane that is no element reads is never kept: writes and reductions leave it out.
        read = vector.TransferReadOp(
            base,
            list(starts),
            self.build.poison(element),
            VectorType(element, [self.steps[d] for d in dims]),
            _bools(bounds),
            permutation_map=AffineMapAttr(AffineMap(base.type.get_num_dims(), 0, tuple(results))),
        )
        return _Value(self.build.add(read).result, "vector")

    def _strided(
        self,
        base: SSAValue,
        starts: list[Extent],
        axis_of: dict[int, int],
        factor_of: dict[int, int],
        dims: Sequence[int],
    ) -> _Value:
        """A read with steps larger than one: a slice with those strides, read from its start."""
        assert isinstance(base.type, TensorType)
        rank = base.type.get_num_dims()
        sizes: list[Extent] = [1] * rank
        strides = [1] * rank
        for dim, axis in axis_of.items():
            strides[axis] = factor_of[dim]
            sizes[axis] = self.partial.get(dim, self.steps[dim])
        kept = sorted(axis_of.values())
        shape = [s if isinstance(s := sizes[axis], int) else DYNAMIC_INDEX for axis in kept]
        # A size that follows a kept one in the source must not be 1 by chance: unit axes are dropped by type.
        type = TensorType(base.type.element_type, shape)
        sliced = self.build.add(tensor.ExtractSliceOp(base, starts, sizes, strides, type)).result
        local = {dim: kept.index(axis) for dim, axis in axis_of.items()}
        return self._transfer(sliced, self.build.values([0] * len(kept)), local, dims)

    def _write(self, output: int, value: SSAValue, out: SSAValue) -> tuple[SSAValue, tuple[int, ...]]:
        """`out` with the result of this step in it, and the axis of each dim of the vector."""
        build = self.build
        map = output_map(self.op, output)
        assert isinstance(out.type, TensorType)
        starts: list[Extent] = []
        axis_of: dict[int, int] = {}
        for axis, expr in enumerate(map.results):
            start, lanes = self._axis(expr, self.kept)
            starts.append(start)
            if lanes is not None:
                if lanes[1] != 1 or lanes[0] in axis_of:
                    raise _CannotVectorise("its result is written with gaps, or along two axes at once")
                axis_of[lanes[0]] = axis
        if len(axis_of) != len(self.kept):
            raise _CannotVectorise("its result has not all dims of the vector")
        if not self.kept:
            return build.add(tensor.InsertOp(value, out, build.values(starts))).result, ()
        axes = tuple(axis_of[d] for d in self.kept)
        bounds = [self._in_bounds(out, d, starts[axis_of[d]], axis_of[d]) for d in self.kept]
        write = vector.TransferWriteOp(
            value,
            out,
            build.values(starts),
            _bools(bounds),
            None,
            AffineMapAttr(AffineMap(out.type.get_num_dims(), 0, tuple(AffineDimExpr(a) for a in axes))),
            out.type,
        )
        written = build.add(write).result
        assert written is not None
        return written, axes


def _number(value: Extent | SSAValue) -> int | None:
    if isinstance(value, int):
        return value
    owner = value.owner
    if isinstance(owner, arith.ConstantOp) and isinstance(owner.value, IntegerAttr):
        return owner.value.value.data
    return None


def _element(type: Attribute) -> Attribute:
    return type.element_type if isinstance(type, TensorType | VectorType) else type


def _bools(values: Sequence[bool]) -> ArrayAttr[BoolAttr]:
    return ArrayAttr([BoolAttr.from_bool(v) for v in values])


def _reduction(kind: CombiningKindFlag, value: SSAValue, initial: SSAValue) -> vector.ReductionOp:
    # xDSL's constructor gives the result the vector's type.
    return vector.ReductionOp.build(
        operands=[value, initial],
        result_types=[initial.type],
        properties={"kind": vector.CombiningKindAttr(kind)},
    )


def _origin(value: SSAValue) -> tuple[SSAValue, list[Extent] | None, list[int] | None]:
    """The tensor that `value` is a slice of, with the slice's offsets and strides; `value` if it is none."""
    offsets: list[Extent] | None = None
    strides: list[int] | None = None
    while isinstance(value, OpResult) and isinstance(op := value.op, tensor.ExtractSliceOp):
        if DYNAMIC_INDEX in op.static_strides.get_values() or offsets is not None:
            break
        if len(op.static_sizes) != len(op.result.type.get_shape()):  # pyright: ignore
            break
        offsets = list(get_dynamic_index_list(op.static_offsets.get_values(), op.offsets, DYNAMIC_INDEX))
        strides = list(op.static_strides.get_values())
        value = op.source
    return value, offsets, strides
