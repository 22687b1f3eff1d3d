"""Outline groups of linalg ops that are computed together into kernels, equal groups into one kernel."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from xdsl.context import Context
from xdsl.dialects import arith, func, tensor
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    FunctionType,
    IndexType,
    ModuleOp,
    StringAttr,
    TensorType,
    UnitAttr,
)
from xdsl.dialects.linalg import ops as linalg
from xdsl.ir import Attribute, Block, BlockArgument, Operation, OpResult, Region, SSAValue
from xdsl.ir.affine import AffineBinaryOpExpr, AffineDimExpr, AffineMap
from xdsl.passes import ModulePass
from xdsl.rewriter import InsertPoint, Rewriter
from xdsl.traits import is_side_effect_free

from stepwell.dialects.stepwell import TARGET_KEY, target_of
from stepwell.remarks import applied, counted, listening, missed
from stepwell.rewriting import fuse_locations
from stepwell.targets import Target
from stepwell.transforms.linalg.structure import (
    contraction_operands,
    element_bytes,
    is_elementwise,
    is_identity,
    is_permutation,
    maps_of,
    output_map,
    parallel_dims,
    reduction_dims,
)
from stepwell.transforms.linalg.window_chains import (
    Window,
    is_convolution_of_pixels,
    is_worth_expanding,
    pad_behind,
    product_of_pixels,
    step_of_channels,
    window_of,
)

_SMALL_SHARE = 4
"""Below this share of L2 what a depthwise convolution makes is read again before it has left the cache."""
_BLOCK_ROWS = 8
"""Rows of attention that are computed at a time, about: those of a register tile."""

KERNEL = "stepwell.kernel"
"""The unit attribute that marks a kernel function."""


@dataclass(frozen=True)
class FormKernelsPass(ModulePass):
    """
    Outline groups of linalg ops that are computed together into kernels, equal groups into one kernel.

    A group is a contraction, pooling or reduction with the element-wise op behind it, or a chain of ops that share
    their rows (softmax, normalisations), or attention (a contraction, such a chain, and the contraction that reads it
    row by row: the wide rows between never leave the cache), or a depthwise convolution and the product over its channels,
    perhaps with the convolution in front of it, or a single op. Nothing in a group is computed twice, but rows of pixels that the
    windows of two tiles reach, where that costs less than to keep the tensor between.
    Requires: tensor stage; the sizes of caches, on which depthwise convolutions depend, are those that `set-target` wrote,
    without it they stay kernels of their own. Ensures: every `linalg.generic` and `linalg.fill` is inside a function marked
    `stepwell.kernel`, in the form of the kernels stage; no two kernels are structurally equal.
    """

    name = "form-kernels"
    fuse: bool = True
    """Group ops; off, each linalg op is a kernel of its own."""
    attention: bool = True
    """Scores, softmax and values of attention in one kernel, where `fuse` is on."""
    windows: bool = True
    """A depthwise convolution and the products around it in one kernel, where `fuse` is on."""
    row_elements: int = 65536
    """Elements of the largest tensor of one row in a row kernel; what a thread keeps in its L2 cache."""
    max_ops: int = 32
    """Linalg ops in one kernel."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        kernels = _Kernels(op)
        target = target_of(op) if TARGET_KEY in op.attributes else None
        for function in [f for f in op.body.block.ops if isinstance(f, func.FuncOp)]:
            if function.is_declaration or KERNEL in function.attributes:
                continue
            blocks = [b for inner in function.walk() for r in inner.regions for b in r.blocks]
            for block in blocks:
                if block.parent_op() is None or _inside_linalg(block):
                    continue
                for group in self._groups(block, target):
                    kernels.outline(group)
        _drop_dead_tensors(op)

    def _groups(self, block: Block, target: Target | None) -> list["_Group"]:
        order = {op: i for i, op in enumerate(block.ops)}
        group_of: dict[Operation, _Group] = {}
        for op in order:
            if not isinstance(op, linalg.GenericOp):
                continue
            group = _Group([op], _leading_parallel(op))
            if self.fuse:
                for value in op.inputs:
                    producer = group_of.get(value.owner) if isinstance(value, OpResult) else None
                    if producer is None or producer is group:
                        continue
                    rows = self._joined_rows(producer, group, op)
                    if isinstance(rows, int) and not _placeable(producer, group, order):
                        rows = "an op between the two reads it"
                    if isinstance(rows, str):
                        missed(op, f"not one kernel with the producer of an operand: {rows}")
                        continue
                    group = _Group(sorted({*producer.ops, *group.ops}, key=order.__getitem__), rows)
                    group_of.update((member, group) for member in group.ops)
            group_of[op] = group
        if self.fuse:
            if self.attention:
                self._join_attention(group_of, order)
            if self.windows and target is not None:
                _join_windows(group_of, order, target)
        groups = list({id(g): g for g in group_of.values()}.values())
        covered = {op for g in groups for op in g.ops}
        for op in order:
            if isinstance(op, linalg.FillOp) and not all(
                use.operation in covered and use.index >= len(_generic(use.operation).inputs)
                for use in op.results[0].uses
            ):
                # A fill is the one op besides a generic that is a kernel, always alone.
                groups.append(_Group([op], 0))  # pyright: ignore[reportArgumentType]
        return sorted(groups, key=lambda g: order[g.ops[-1]])

    def _join_attention(self, group_of: dict[Operation, "_Group"], order: dict[Operation, int]) -> None:
        """
        One kernel of scores, softmax and values, `softmax(q k') v`: a contraction, a chain of rows that alone reads its
        result, and a contraction one factor of which are those rows, whole. A block of rows is computed at a time.
        """
        for op in order:
            factors = contraction_operands(op) if isinstance(op, linalg.GenericOp) else None
            for place in factors or ():
                values = group_of[op]
                rows = _rows_behind(op, op.inputs[place], maps_of(op)[place], group_of)  # pyright: ignore
                if rows is None or rows is values:
                    continue
                scores = _scores_behind(rows, group_of)
                if scores is None or (why := self._is_no_attention(scores, rows, values, op, order)):  # pyright: ignore
                    if scores is not None:
                        missed(op, f"not one kernel with the rows that it reads and what made them: {why}")
                    continue
                members = {*scores.ops, *rows.ops, *values.ops}
                joined = _Group(
                    sorted(members, key=order.__getitem__), min(scores.rows, rows.rows, values.rows)
                )
                group_of.update((member, joined) for member in joined.ops)
                break

    def _is_no_attention(
        self,
        scores: "_Group",
        rows: "_Group",
        values: "_Group",
        op: linalg.GenericOp,
        order: dict[Operation, int],
    ) -> str | None:
        """Why the three are no kernel, None if they are one."""
        members = [*scores.ops, *rows.ops, *values.ops]
        if len(members) > self.max_ops:
            return f"it would have {len(members)} ops, the limit is {self.max_ops}"
        if any(reduction_dims(m) for m in values.ops if m is not op):
            return "what follows it sums again"
        if not all(_factors_are_plain(m) for m in (*scores.ops, op)):
            return "its weights lie in panels or its window slides: tiles of their own serve more rows than a block has"
        both = _Group([*scores.ops, *rows.ops], rows.rows)
        for producer, group in ((scores, rows), (both, values)):
            if any(
                _outer(use.operation, {*producer.ops, *group.ops}) is None
                for m in producer.ops
                for r in m.results
                for use in r.uses
            ):
                return "an op outside reads a result of theirs"
        if not _placeable(both, values, order):
            return "an op between them reads it"
        extents = [_extents(m)[rows.rows :] for m in (*rows.ops, op)]
        if any(None in e for e in extents):
            return "the length of a row is known at run time only"
        elements = max(_product(e) for e in extents[:-1])
        if elements * _BLOCK_ROWS > self.row_elements or _product(extents[-1]) > 4 * self.row_elements:
            return f"rows of {elements} elements do not keep the cache small"
        return None

    def _joined_rows(self, producer: "_Group", group: "_Group", op: linalg.GenericOp) -> int | str:
        """The number of leading dims that `producer` and `op` share if they may be one kernel, else why they may not."""
        if len(producer.ops) + len(group.ops) > self.max_ops:
            return f"it would have {len(producer.ops) + len(group.ops)} ops, the limit is {self.max_ops}"
        if _is_epilogue(producer, op):
            return min(producer.rows, group.rows)
        members = [*producer.ops, *group.ops]
        if any(contraction_operands(m) for m in members):
            return (
                "a contraction takes its epilogue only: element-wise ops on its result that nobody else reads"
            )
        if not any(reduction_dims(m) for m in members):
            return (
                "element-wise ops without a reduction are kernels of their own unless one loop can hold them"
            )
        rows = min(producer.rows, group.rows)
        for value, map in zip(op.inputs, maps_of(op), strict=False):
            if value.owner in producer.ops:
                rows = min(rows, _shared_rows(value, map, op))
        if rows == 0:
            return "they do not walk through the same rows"
        extents = [_extents(m) for m in members]
        if any(None in e[rows:] for e in extents):
            return "the length of a row is known at run time only"
        row_elements = max(_product(e[rows:]) for e in extents)
        row_count = max(_product(e[:rows]) for e in extents)
        if row_elements > self.row_elements or (row_count < 16 and row_elements > 1024):
            return (
                f"{row_count} rows of {row_elements} elements do not keep the cores busy or the cache small"
            )
        return rows


@dataclass
class _Group:
    ops: list[linalg.GenericOp]
    rows: int
    """Leading dims that all ops iterate in parallel, one for one."""
    pads: list[tensor.PadOp] = field(default_factory=list)
    """Pads between ops of the group, that nothing else reads."""

    @property
    def members(self) -> set[Operation]:
        return {*self.ops, *self.pads}


def _join_windows(group_of: dict[Operation, _Group], order: dict[Operation, int], target: Target) -> None:
    """
    One kernel of a depthwise convolution and the product that sums its channels, by blocks of rows of pixels: what is between
    never leaves the cache. And of the convolution that made what its window slides over, 1x1 or that of a stem, where that is
    worth some rows twice.
    """
    for op in order:
        if (place := product_of_pixels(op)) is None:
            continue
        sums = group_of[op]
        value = sums.ops[0].inputs[place]
        middle = group_of.get(value.owner) if sums.ops[0] is op and isinstance(value, OpResult) else None
        if middle is None or middle is sums or (window := window_of(middle.ops)) is None:
            continue
        if not _alone_reads(sums, middle) or not _placeable(middle, sums, order):
            missed(op, "not one kernel with the depthwise convolution that it reads: others read it too")
            continue
        joined = _Group([*middle.ops, *sums.ops], min(middle.rows, sums.rows))
        if (wide := _with_expansion(joined, window, group_of, target)) and _placeable(
            wide[0], wide[1], order
        ):
            joined = wide[1]
        elif _size_bytes(value) < target.l2_bytes // _SMALL_SHARE:
            missed(op, "not one kernel with the depthwise convolution that it reads: that is small")
            continue
        joined.ops.sort(key=order.__getitem__)
        group_of.update((member, joined) for member in joined.ops)


def _with_expansion(
    group: _Group, window: Window, group_of: dict[Operation, _Group], target: Target
) -> tuple[_Group, _Group] | None:
    """The convolution in front of the window of `group`, and the two as one group, if that is worth rows twice."""
    data = window.op.inputs[window.data]
    pad = pad_behind(data)
    source = pad.source if pad is not None else data
    first = group_of.get(source.owner) if isinstance(source, OpResult) else None
    if first is None or not is_convolution_of_pixels(first.ops[0], target):
        return None
    wide = _Group([*first.ops, *group.ops], 0, [pad] if pad is not None else [])
    if not is_worth_expanding(window, first.ops[0], step_of_channels(first.ops[0], target), target):
        missed(
            window.op,
            "not one kernel with the convolution in front: that would compute rows twice for too little",
        )
        return None
    return (first, wide) if _alone_reads(wide, first) else None


def _alone_reads(group: _Group, producer: _Group) -> bool:
    """Whether ops outside of `group` read nothing of `producer`, and nothing of the pads of `group`."""
    members = group.members | producer.members
    return all(
        _outer(use.operation, members) is not None
        for op in (*producer.ops, *group.pads)
        for result in op.results
        for use in result.uses
    )


def _size_bytes(value: SSAValue) -> int:
    return _product(_shape(value)) * element_bytes(value)


def _generic(op: Operation) -> linalg.GenericOp:
    assert isinstance(op, linalg.GenericOp)
    return op


def _inside_linalg(block: Block) -> bool:
    parent = block.parent_op()
    while parent is not None:
        if isinstance(parent, linalg.GenericOp | linalg.FillOp | tensor.PadOp):
            return True
        parent = parent.parent_op()
    return False


def _leading_parallel(op: linalg.GenericOp) -> int:
    dims = parallel_dims(op)
    count = 0
    while count < len(dims) and dims[count] == count:
        count += 1
    return count


def _is_epilogue(producer: _Group, op: linalg.GenericOp) -> bool:
    """`op` is element-wise over the one result of a reduction and nobody else reads that result."""
    root = producer.ops[-1]
    if not is_elementwise(op) or len(root.results) != 1 or not is_identity(output_map(op)):
        return False
    if not any(reduction_dims(m) for m in producer.ops):
        return False
    result = root.results[0]
    if any(use.operation is not op for use in result.uses) or result.type != op.results[0].type:
        # A change of element type keeps the shape and is welcome.
        if any(use.operation is not op for use in result.uses):
            return False
        if _shape(result) != _shape(op.results[0]):
            return False
    if not _is_natural(root):
        return False
    return all(
        is_identity(map) for value, map in zip(op.inputs, maps_of(op), strict=False) if value is result
    )


def _is_natural(op: linalg.GenericOp) -> bool:
    """The result's axes are the leading, parallel dims in order."""
    results = output_map(op).results
    return all(isinstance(e, AffineDimExpr) and e.position == i for i, e in enumerate(results))


def _shape(value: SSAValue) -> tuple[int, ...]:
    assert isinstance(value.type, TensorType)
    return value.type.get_shape()


def _shared_rows(value: SSAValue, read: AffineMap, reader: linalg.GenericOp) -> int:
    """How many leading axes of `value` are the same parallel dim for its producer and its reader."""
    producer = _generic(value.owner)  # type: ignore[arg-type]
    written = output_map(producer, list(producer.results).index(value))  # type: ignore[arg-type]
    parallel = set(parallel_dims(reader))
    count = 0
    for w, r in zip(written.results, read.results, strict=True):
        if not isinstance(w, AffineDimExpr) or not isinstance(r, AffineDimExpr):
            break
        if w.position != count or r.position != count or count not in parallel:
            break
        count += 1
    return count


def _extents(op: linalg.GenericOp) -> list[int | None]:
    """The extent of each iteration dim, None where it is dynamic."""
    extents: list[int | None] = [None] * output_map(op).num_dims
    for operand, map in zip(op.operands, maps_of(op), strict=True):
        if not isinstance(operand.type, TensorType):
            continue
        for extent, expr in zip(operand.type.get_shape(), map.results, strict=True):
            if isinstance(expr, AffineDimExpr) and extent != DYNAMIC_INDEX:
                extents[expr.position] = extent
    return extents


def _factors_are_plain(op: linalg.GenericOp) -> bool:
    """Whether each axis of the factors, where `op` is a contraction, is one dim: no packed panel, no window."""
    places = contraction_operands(op) or ()
    return all(isinstance(e, AffineDimExpr) for place in places for e in maps_of(op)[place].results)


def _rows_behind(
    op: linalg.GenericOp, value: SSAValue, read: AffineMap, group_of: dict[Operation, _Group]
) -> _Group | None:
    """The chain of rows whose result `value` the contraction `op` reads along its summed dims."""
    rows = group_of.get(value.owner) if isinstance(value, OpResult) else None
    if (
        rows is None
        or not any(reduction_dims(m) for m in rows.ops)
        or any(map(contraction_operands, rows.ops))
    ):
        return None
    shared = min(_shared_rows(value, read, op), rows.rows)
    summed = [
        isinstance(e, AffineDimExpr) and e.position in reduction_dims(op) for e in read.results[shared:]
    ]
    return rows if shared == rows.rows and len(summed) == 1 and all(summed) else None


def _scores_behind(rows: _Group, group_of: dict[Operation, _Group]) -> _Group | None:
    """The contraction, with its epilogue, that made what the chain `rows` reads."""
    for member in rows.ops:
        for value, read in zip(member.inputs, maps_of(member), strict=False):
            scores = group_of.get(value.owner) if isinstance(value, OpResult) else None
            if scores is None or scores is rows or not contraction_operands(scores.ops[0]):
                continue
            if _shared_rows(value, read, member) >= rows.rows and scores.rows >= rows.rows:
                return scores
    return None


def _product(extents: Iterable[int | None]) -> int:
    total = 1
    for extent in extents:
        total *= extent or 1
    return total


def _placeable(producer: _Group, group: _Group, order: dict[Operation, int]) -> bool:
    """
    The union can stand where `group` stands: nobody between reads the producer, and what `group` reads does not
    depend on it by another way.
    """
    last = order[group.ops[-1]]
    members = producer.members | group.members
    for op in producer.ops:
        for result in op.results:
            for use in result.uses:
                user = _in_block(use.operation, order)
                if user not in members and (user is None or order[user] < last):
                    return False
    return True


def _in_block(op: Operation | None, order: dict[Operation, int]) -> Operation | None:
    while op is not None and op not in order:
        op = op.parent_op()
    return op


@dataclass
class _Kernels:
    """The kernels of a module, found by structure."""

    module: ModuleOp
    by_structure: dict[tuple, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def outline(self, group: _Group) -> None:
        last = group.ops[-1]
        destinations = _Destinations(group)
        body = _Body(group, destinations)
        if not body.build():
            return
        function = body.function
        key = structure_of(function)
        name = self.by_structure.get(key)
        where = fuse_locations([op.location for op in group.ops])
        if name is None:
            name = self._fresh(_kind(group))
            self.by_structure[key] = name
            function.properties["sym_name"] = StringAttr(name)
            function.location = where
            self.module.body.block.add_op(function)
        call = func.CallOp(name, [*body.arguments, *destinations.make(last)], destinations.types)
        call.location = where
        if listening():
            shared = "" if name == str(function.properties["sym_name"].data) else ", which it shares"  # pyright: ignore
            count = len(group.ops)
            verb = "is" if count == 1 else "are"
            applied(call, f"{counted(count, 'op')} {verb} kernel @{name}{shared}", ops=count)
        Rewriter.insert_op(call, InsertPoint.before(last))
        for old, new in zip(destinations.results, call.results, strict=True):
            new.name_hint = old.name_hint
            old.replace_all_uses_with(new)
        for op in reversed(group.ops):
            pads = [pad for pad in group.pads if pad.result in op.inputs]
            Rewriter.erase_op(op)
            for pad in pads:
                Rewriter.erase_op(pad)

    def _fresh(self, kind: str) -> str:
        number = self.counts.get(kind, 0)
        self.counts[kind] = number + 1
        return f"{kind}_{number}"


@dataclass
class _Destinations:
    """The results that leave a group and the tensors they are written to."""

    group: _Group
    results: list[OpResult] = field(default_factory=list)
    inits: list[SSAValue] = field(default_factory=list)

    def __post_init__(self) -> None:
        members = self.group.members
        for op in self.group.ops:
            for i, result in enumerate(op.results):
                if any(_outer(use.operation, members) is None for use in result.uses) or not result.uses:
                    self.results.append(result)
                    self.inits.append(op.outputs[i])

    @property
    def types(self) -> list[Attribute]:
        return [r.type for r in self.results]

    def make(self, before: Operation) -> list[SSAValue]:
        """The destination operands of the call, created in front of `before`."""
        made: list[SSAValue] = []
        for init in self.inits:
            empty = _empty_behind(init)
            if empty is None:
                made.append(init)
            else:
                copy = empty.clone()
                Rewriter.insert_op(copy, InsertPoint.before(before))
                made.append(copy.results[0])
        return made


def _outer(op: Operation | None, members: set[Operation]) -> Operation | None:
    while op is not None and op not in members:
        op = op.parent_op()
    return op


def _empty_behind(init: SSAValue) -> tensor.EmptyOp | None:
    """The `tensor.empty` that `init` is, perhaps through a fill; None for a tensor with contents."""
    owner = init.owner
    if isinstance(owner, linalg.FillOp):
        owner = owner.outputs[0].owner
    return owner if isinstance(owner, tensor.EmptyOp) else None


class _Body:
    """Builds the function of a group: cloned ops over fresh arguments."""

    def __init__(self, group: _Group, destinations: _Destinations):
        self.group, self.destinations = group, destinations
        self.tensors: dict[SSAValue, None] = {}
        self.indices: dict[SSAValue, None] = {}
        self.inside: list[Operation] = []
        self._inside_set: set[Operation] = set()

    @property
    def arguments(self) -> list[SSAValue]:
        return [*self.tensors, *self.indices]

    def build(self) -> bool:
        """False if a captured scalar cannot be computed inside."""
        members = self.group.members
        for op in self.group.ops:
            if not all(self._capture(v, members) for v in self._captured(op)):
                return False
        types = [v.type for v in self.arguments] + [v.type for v in self.destinations.inits]
        block = Block(arg_types=types)
        mapper: dict[SSAValue, SSAValue] = {}
        for value, argument in zip(self.arguments, block.args, strict=False):
            mapper[value] = argument
            argument.name_hint = value.name_hint
        targets = list(block.args[len(self.arguments) :])
        target_of = dict(zip(self.destinations.results, targets, strict=True))
        for op in self.inside:
            block.add_op(op.clone(mapper))
        for op in self.group.ops:
            for i, init in enumerate(op.outputs):
                local = mapper.get(init, init)
                result = op.results[i]
                owner = init.owner
                if result in target_of and _empty_behind(init) is None:
                    local = target_of[result]
                elif isinstance(owner, linalg.FillOp | tensor.EmptyOp):
                    local = self._make_init(owner, target_of.get(result), mapper, block)
                mapper[init] = local
            for pad in self.group.pads:
                if pad.result in op.inputs:
                    block.add_op(pad.clone(mapper))
            block.add_op(op.clone(mapper))
        returned = [mapper[r] for r in self.destinations.results]
        block.add_op(func.ReturnOp(*returned))
        self.function = func.FuncOp(
            "kernel",
            FunctionType.from_lists(types, self.destinations.types),
            Region(block),
            visibility=StringAttr("private"),
        )
        self.function.attributes[KERNEL] = UnitAttr()
        return True

    @staticmethod
    def _make_init(
        owner: linalg.FillOp | tensor.EmptyOp, target: SSAValue | None, mapper: dict, block: Block
    ) -> SSAValue:
        empty = owner.outputs[0].owner if isinstance(owner, linalg.FillOp) else owner
        if target is None:
            assert isinstance(empty, tensor.EmptyOp)
            local = empty.clone(mapper)
            block.add_op(local)
            target = local.results[0]
        if isinstance(owner, linalg.FillOp):
            fill = linalg.FillOp([mapper.get(owner.inputs[0], owner.inputs[0])], [target], [target.type])
            fill.location = owner.location
            block.add_op(fill)
            return fill.results[0]
        return target

    def _captured(self, op: linalg.GenericOp) -> list[SSAValue]:
        """Everything `op` reads that is defined outside it, the inits' sources included."""
        values: list[SSAValue] = list(op.inputs) if isinstance(op, linalg.GenericOp) else []
        for i, init in enumerate(op.outputs):
            owner = init.owner
            if isinstance(owner, linalg.FillOp) and isinstance(op, linalg.GenericOp):
                values.append(owner.inputs[0])
                owner = owner.outputs[0].owner
            if isinstance(owner, tensor.EmptyOp):
                if op.results[i] not in self.destinations.results:
                    values.extend(owner.dynamic_sizes)
            elif op.results[i] not in self.destinations.results or isinstance(op, linalg.FillOp):
                values.append(init)
        if isinstance(op, linalg.FillOp):
            values.append(op.inputs[0])
        for pad in self.group.pads:
            if pad.result in op.operands:
                values.extend(v for inner in pad.region.walk() for v in inner.operands)
        for inner in op.body.walk():
            for value in inner.operands:
                if not _defined_inside(value, op):
                    values.append(value)
        return values

    def _capture(self, value: SSAValue, members: set[Operation]) -> bool:
        owner = value.owner
        if isinstance(owner, Operation) and (owner in members or owner in self._inside_set):
            return True
        if isinstance(value.type, TensorType):
            self.tensors[value] = None
            return True
        if isinstance(value.type, IndexType) and not isinstance(owner, arith.ConstantOp):
            self.indices[value] = None
            return True
        if isinstance(owner, Block) or owner.regions or not is_side_effect_free(owner):
            return False
        if not all(self._capture(v, members) for v in owner.operands):
            return False
        self.inside.append(owner)
        self._inside_set.add(owner)
        return True


def _defined_inside(value: SSAValue, op: Operation) -> bool:
    owner = value.owner
    scope = owner.parent_op() if isinstance(value, BlockArgument) else owner
    while scope is not None:
        if scope is op:
            return True
        scope = scope.parent_op()
    return False


def _kind(group: _Group) -> str:
    """A word for what the kernel does, for its name."""
    ops = group.ops
    if isinstance(ops[-1], linalg.FillOp):
        return "fill"
    if contractions := [op for op in ops if contraction_operands(op)]:
        read = [e for op in contractions for e in maps_of(op)[0].results]
        return "conv" if any(isinstance(e, AffineBinaryOpExpr) for e in read) else "matmul"
    reductions = [op for op in ops if reduction_dims(op)]
    if len(ops) > 1 and group.rows and len(reductions) > 0:
        return "rows" if len(reductions) > 1 or not _is_natural(reductions[0]) else "reduce"
    if reductions:
        windowed = any(isinstance(e, AffineBinaryOpExpr) for e in maps_of(reductions[0])[0].results)
        return "pool" if windowed else "reduce"
    if any(isinstance(inner, tensor.ExtractOp) for op in ops for inner in op.body.walk()):
        return "gather"
    if all(len(op.body.block.ops) == 1 for op in ops):
        read = [m for op in ops for m in maps_of(op)[: len(op.inputs)]]
        if any(is_permutation(m) and not is_identity(m) for m in read):
            return "transpose"
        return "copy"
    return "elementwise"


def structure_of(function: func.FuncOp) -> tuple:
    """A key that is equal for functions that differ in names and locations only."""
    numbers: dict[SSAValue, int] = {}
    key: list[object] = [function.function_type]

    def number(values: Iterable[SSAValue]) -> tuple:
        for value in values:
            numbers.setdefault(value, len(numbers))
        return tuple((numbers[v], v.type) for v in values)

    def visit(region: Region) -> None:
        for block in region.blocks:
            key.append(number(block.args))
            for op in block.ops:
                key.append(
                    (
                        op.name,
                        tuple(numbers[v] for v in op.operands),
                        tuple(sorted(op.properties.items(), key=lambda kv: kv[0])),
                        tuple(sorted(op.attributes.items(), key=lambda kv: kv[0])),
                        number(op.results),
                        len(op.regions),
                    )
                )
                for inner in op.regions:
                    visit(inner)

    visit(function.body)
    return tuple(key)


def _drop_dead_tensors(module: ModuleOp) -> None:
    """Erase the `tensor.empty`, fills and constants that outlining left without readers."""
    dead = (tensor.EmptyOp, linalg.FillOp, arith.ConstantOp)
    for function in module.body.block.ops:
        if isinstance(function, func.FuncOp) and KERNEL not in function.attributes:
            for op in reversed([o for o in function.walk() if isinstance(o, dead)]):
                if not any(r.uses for r in op.results):
                    Rewriter.erase_op(op)
