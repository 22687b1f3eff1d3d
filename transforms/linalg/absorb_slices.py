"""Let kernels read slices where they lie and write their results where they belong."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from xdsl.context import Context
from xdsl.dialects import arith, func, tensor
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    AffineMapAttr,
    FunctionType,
    IndexType,
    IntegerAttr,
    ModuleOp,
    StringAttr,
    TensorType,
    UnitAttr,
)
from xdsl.dialects.linalg import ops as linalg
from xdsl.dialects.linalg.attrs import IteratorType, IteratorTypeAttr
from xdsl.dialects.utils import get_dynamic_index_list
from xdsl.ir import Attribute, Block, Operation, OpResult, Region, SSAValue
from xdsl.ir.affine import AffineDimExpr, AffineMap
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter
from xdsl.traits import is_side_effect_free

from stepwell.remarks import applied, counted, listening, missed
from stepwell.transforms.linalg.form_kernels import KERNEL, structure_of
from stepwell.transforms.linalg.indices import Extent, constant_of
from stepwell.transforms.linalg.structure import contraction_operands, maps_of

DISJOINT = "stepwell.disjoint"
"""On a call: what it reads of a buffer that it also writes lies outside of what it writes."""
_INDEX = IndexType()
_MOST_PLACES = 3
"""Places that one result is written to; each is a stream of stores."""
_SMALL = 64
"""Elements that the host may as well copy itself."""

_View = tensor.ExtractSliceOp | tensor.ExpandShapeOp | tensor.CollapseShapeOp


@dataclass(frozen=True)
class AbsorbSlicesPass(ModulePass):
    """
    Move slices, concatenations and paddings out of the host function: a kernel takes the whole tensor that it
    reads a slice of, and writes its result into its place of the tensor that holds it.

    What no kernel can take (a graph input, a result that has two places) is moved by a kernel that copies. The border
    of a padded tensor is written by a kernel of its own, in every run.
    Requires: kernels stage. Ensures: the host function has no `tensor.pad` with a constant border and no
    `tensor.insert_slice` or `tensor.extract_slice` that would move more than a few elements.
    """

    name = "absorb-slices"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        kernels = _Kernels(op)
        for function in [f for f in op.body.block.ops if isinstance(f, func.FuncOp)]:
            if function.is_declaration or KERNEL in function.attributes:
                continue
            for block in [b for inner in function.walk() for r in inner.regions for b in r.blocks]:
                if not isinstance(block.parent_op(), tensor.PadOp):
                    _Host(block, kernels).rewrite()
        kernels.drop_unused()


@dataclass(eq=False)
class _Image:
    """A tensor that is put together from pieces: insertions into an empty tensor, or a pad of one piece."""

    result: SSAValue
    ops: list[Operation]
    sizes: list[Extent]
    pieces: list["_Piece"]
    border: Attribute | None = None
    """The value around the one piece of a pad."""
    base: SSAValue | None = None
    """What the first piece is inserted into if that is not an empty tensor."""
    place: "_Place | None" = None
    """Where the whole image lies in a larger one."""
    collapsed: bool = False
    """A reader joins dims of a piece, which holds only while the image is no slice itself."""
    first: Operation | None = None
    """The op in front of which the buffer must exist."""
    writers: dict[Operation, SSAValue] = field(default_factory=dict)
    """The kernel calls that make parts of it in place, and which of its results each makes there."""

    @property
    def root(self) -> "_Image":
        return self if self.place is None else self.place.image.root


@dataclass(eq=False)
class _Piece:
    value: SSAValue
    offsets: list[Extent]
    sizes: list[Extent]
    op: Operation
    strides: tuple[int, ...]

    @property
    def is_dense(self) -> bool:
        return set(self.strides) <= {1}


@dataclass(frozen=True)
class _Place:
    """Where a tensor lies in an image."""

    image: _Image
    offsets: tuple[Extent, ...]
    sizes: tuple[Extent, ...]
    strides: tuple[int, ...]

    def in_root(self) -> "_Place":
        outer = self.image.place
        if outer is None:
            return self
        outer = outer.in_root()
        offsets = []
        for own, start in zip(self.offsets, outer.offsets, strict=True):
            assert isinstance(own, int) and isinstance(start, int), "a nested place is static"
            offsets.append(own + start)
        return _Place(outer.image, tuple(offsets), self.sizes, self.strides)


@dataclass(frozen=True)
class _Step:
    """One view op of a chain in front of an operand; `clone` gives it another source and other extents."""

    op: _View

    @property
    def key(self) -> tuple:
        return self.op.name, tuple(sorted(self.op.properties.items())), self.op.result.type

    @property
    def extents(self) -> list[SSAValue]:
        return list(self.op.operands[1:])

    def build(self, source: SSAValue, extents: Sequence[SSAValue]) -> Operation:
        return type(self.op).create(
            operands=[source, *extents],
            properties=dict(self.op.properties),
            result_types=[self.op.result.type],
        )


def _insertion(
    source: SSAValue, dest: SSAValue, piece: tensor.ExtractSliceOp, extents: Sequence[SSAValue]
) -> tensor.InsertSliceOp:
    """Put `source` where `piece` is taken from, with `extents` for its dynamic ones."""
    keys = ("static_offsets", "static_sizes", "static_strides")
    values = iter(extents)
    segments = [[next(values) for _ in part] for part in (piece.offsets, piece.sizes, piece.strides)]
    return tensor.InsertSliceOp.build(
        operands=[source, dest, *segments],
        properties={key: piece.properties[key] for key in keys},
        result_types=[dest.type],
    )


class _Kernels:
    """The kernels of a module and their variants."""

    def __init__(self, module: ModuleOp):
        self.module = module
        self.by_name: dict[str, func.FuncOp] = {}
        self.names: set[str] = set()
        for op in module.body.block.ops:
            if isinstance(op, func.FuncOp):
                self.names.add(op.sym_name.data)
                if KERNEL in op.attributes:
                    self.by_name[op.sym_name.data] = op
        self.by_structure = {structure_of(f): name for name, f in self.by_name.items()}
        self.variants: dict[tuple, str] = {}

    def is_kernel(self, op: Operation) -> bool:
        return isinstance(op, func.CallOp) and op.callee.string_value() in self.by_name

    def variant(
        self,
        callee: str,
        chains: Mapping[int, Sequence[_Step]],
        places: Mapping[int, tensor.ExtractSliceOp],
        also: "Sequence[tuple[int, tensor.ExtractSliceOp]]" = (),
    ) -> str:
        """
        The kernel `callee` with views in front of operands and results that are put into slices; `also` adds results
        that are put into further ones. The extents of these views are its last index arguments, in this order.
        """
        key = (
            callee,
            tuple((k, steps[0].op.operands[0].type, *(s.key for s in steps)) for k, steps in chains.items()),
            tuple((k, s.source.type, _Step(s).key) for k, s in places.items()),
            tuple((k, s.source.type, _Step(s).key) for k, s in also),
        )
        if key not in self.variants:
            function = self._build(self.by_name[callee], chains, places, also)
            self.variants[key] = self.intern(function, f"{callee}_at")
        return self.variants[key]

    def intern(self, function: func.FuncOp, stem: str) -> str:
        """The name of `function`, or of the equal one that is here already."""
        structure = structure_of(function)
        if (name := self.by_structure.get(structure)) is None:
            name = next(n for i in range(len(self.names) + 1) if (n := f"{stem}_{i}") not in self.names)
            self.names.add(name)
            function.properties["sym_name"] = StringAttr(name)
            function.attributes[KERNEL] = UnitAttr()
            self.by_structure[structure] = name
            self.by_name[name] = function
            self.module.body.block.add_op(function)
        return name

    @staticmethod
    def _build(
        kernel: func.FuncOp,
        chains: Mapping[int, Sequence[_Step]],
        places: Mapping[int, tensor.ExtractSliceOp],
        also: Sequence[tuple[int, tensor.ExtractSliceOp]],
    ) -> func.FuncOp:
        function = kernel.clone()
        block = function.body.block
        ret = block.last_op
        first = block.first_op
        assert isinstance(ret, func.ReturnOp) and first is not None
        outputs = list(block.args[len(block.args) - len(ret.arguments) :])
        inputs = list(block.args[: len(block.args) - len(outputs)])

        def extents(step: _Step) -> list[SSAValue]:
            return [block.insert_arg(_INDEX, len(block.args) - len(outputs)) for _ in step.extents]

        def put(op: Operation, before: Operation) -> SSAValue:
            block.insert_op_before(op, before)
            return op.results[0]

        for k, steps in chains.items():
            old = inputs[k]
            value: SSAValue = block.insert_arg(steps[0].op.operands[0].type, old.index)
            value.name_hint = old.name_hint
            for step in steps:
                value = put(step.build(value, extents(step)), first)
            old.replace_all_uses_with(value)
            block.erase_arg(old)
        results: list[SSAValue] = list(ret.arguments)
        for k, piece in places.items():
            step = _Step(piece)
            values = extents(step)
            old = outputs[k]
            new = block.insert_arg(piece.source.type, old.index)
            new.name_hint = old.name_hint
            old.replace_all_uses_with(put(step.build(new, values), first))
            block.erase_arg(old)
            results[k] = put(_insertion(results[k], new, piece, values), ret)
        further = [(ret.arguments[k], piece, extents(_Step(piece))) for k, piece in also]
        for value, piece, values in further:
            new = block.insert_arg(piece.source.type, len(block.args))
            results.append(put(_insertion(value, new, piece, values), ret))
        new_ret = func.ReturnOp(*results)
        new_ret.location = ret.location
        Rewriter.replace_op(ret, new_ret)
        function.properties["function_type"] = FunctionType.from_lists(
            [a.type for a in block.args], [r.type for r in results]
        )
        return function

    def copy(self, type: TensorType) -> str:
        """The kernel that copies a tensor."""
        block = Block(arg_types=[type, type])
        identity = AffineMapAttr(AffineMap.identity(type.get_num_dims()))
        body = Block(arg_types=[type.element_type] * 2)
        body.add_op(linalg.YieldOp(body.args[0]))
        copied = linalg.GenericOp(
            [block.args[0]],
            [block.args[1]],
            Region(body),
            [identity, identity],
            [IteratorTypeAttr(IteratorType.PARALLEL)] * type.get_num_dims(),
            [type],
        )
        block.add_op(copied)
        return self._of(block, copied.results[0], "copy")

    def border(self, type: TensorType, low: Sequence[int], high: Sequence[int], value: Attribute) -> str:
        """
        The kernel that writes `value` to the border of a tensor, `low` and `high` elements wide: of each axis the
        slabs at its ends, within the inner part of the axes in front of it.
        """
        block = Block(arg_types=[type])
        current: SSAValue = block.args[0]
        numbers: dict[int, SSAValue] = {}

        def put(op: Operation) -> SSAValue:
            block.add_op(op)
            return op.results[0]

        def number(n: int) -> SSAValue:
            if n not in numbers:
                numbers[n] = put(arith.ConstantOp(IntegerAttr(n, _INDEX)))
            return numbers[n]

        def minus(a: Extent, b: int) -> Extent:
            if isinstance(a, int) or b == 0:
                return a if b == 0 else a - b  # pyright: ignore
            return put(arith.SubiOp(a, number(b)))

        whole: list[Extent] = [
            put(tensor.DimOp(current, number(axis))) if extent == DYNAMIC_INDEX else extent
            for axis, extent in enumerate(type.get_shape())
        ]
        inner = [minus(e, b + a) for e, b, a in zip(whole, low, high, strict=True)]
        # the value of a fill or of a pad: a number
        fill = put(arith.ConstantOp(value))  # pyright: ignore[reportArgumentType]
        for axis in range(len(whole)):
            for width, start in ((low[axis], 0), (high[axis], minus(whole[axis], high[axis]))):
                if width == 0:
                    continue
                offsets: list[Extent] = [*low[:axis], start, *[0] * (len(whole) - axis - 1)]
                sizes: list[Extent] = [*inner[:axis], width, *whole[axis + 1 :]]
                shape = [s if isinstance(s, int) else DYNAMIC_INDEX for s in sizes]
                slab = TensorType(type.element_type, shape)
                ones = [1] * len(sizes)
                piece = tensor.ExtractSliceOp(current, offsets, sizes, ones, slab)
                put(piece)
                body = Block(arg_types=[type.element_type])
                body.add_op(linalg.YieldOp(fill))
                filled = put(
                    linalg.GenericOp(
                        [],
                        [piece.result],
                        Region(body),
                        [AffineMapAttr(AffineMap.identity(len(sizes)))],
                        [IteratorTypeAttr(IteratorType.PARALLEL)] * len(sizes),
                        [slab],
                    )
                )
                current = put(_insertion(filled, current, piece, piece.operands[1:]))
        return self._of(block, current, "border")

    def _of(self, block: Block, result: SSAValue, stem: str) -> str:
        block.add_op(func.ReturnOp(result))
        types = FunctionType.from_lists([a.type for a in block.args], [result.type])
        return self.intern(func.FuncOp(stem, types, Region(block), visibility=StringAttr("private")), stem)

    def drop_unused(self) -> None:
        """Erase the kernels that nobody calls any more."""
        called = {op.callee.string_value() for op in self.module.walk() if isinstance(op, func.CallOp)}
        for name, function in self.by_name.items():
            if name not in called:
                Rewriter.erase_op(function)


@dataclass
class _Host:
    """One block of the host function."""

    block: Block
    kernels: _Kernels
    order: dict[Operation, float] = field(default_factory=dict)
    images: dict[SSAValue, _Image] = field(default_factory=dict)
    places: dict[SSAValue, _Place] = field(default_factory=dict)
    """The pieces of images, which are written in place and read as slices."""
    also: dict[SSAValue, list[_Place]] = field(default_factory=dict)
    """Further places that the kernel which makes a piece writes as well."""
    current: dict[_Image, SSAValue] = field(default_factory=dict)
    """The newest version of each buffer."""

    def rewrite(self) -> None:
        self.order = {op: float(i) for i, op in enumerate(self.block.ops)}
        for op in list(self.block.ops):
            image = self._image_of(op)
            if image is not None:
                self.images[image.result] = image
        for image in self.images.values():
            self._settle(image)
        last_of = {image.ops[-1]: image for image in self.images.values()}
        firsts: dict[Operation, list[_Image]] = {}
        for image in self.images.values():
            assert image.first is not None
            firsts.setdefault(image.first, []).append(image)
        for op in list(self.block.ops):
            for image in sorted(firsts.get(op, ()), key=lambda image: image.place is not None):
                if image.place is None:
                    self._begin(image, op)
                if image.border is not None:
                    self._fill_border(image, op)
            if self.kernels.is_kernel(op):
                assert isinstance(op, func.CallOp)
                self._rewrite_call(op)
            elif isinstance(op, tensor.DimOp) and op.source in self.places:
                self._rewrite_dim(op)
            elif (image := last_of.get(op)) is not None and image.place is None:
                image.result.replace_all_uses_with(self.current[image])
        self._drop_dead()
        for op in list(self.block.ops):
            if isinstance(op, tensor.ExtractSliceOp):
                self._materialise(op)
        self._drop_dead()

    # What is put together from what.

    def _image_of(self, op: Operation) -> _Image | None:
        """The image that `op` completes."""
        if isinstance(op, tensor.PadOp):
            return self._padded(op)
        if not isinstance(op, tensor.InsertSliceOp) or self._continues(op) is not None:
            return None
        ops: list[tensor.InsertSliceOp] = [op]
        while (
            isinstance(before := ops[0].dest.owner, tensor.InsertSliceOp)
            and self._continues(before) is ops[0]
        ):
            ops.insert(0, before)
        if any(min(o.static_strides.get_values(), default=1) < 1 for o in ops):
            return None
        if all(self._is_small(o.source.type) for o in ops):
            return None
        pieces = [
            _Piece(
                o.source,
                list(get_dynamic_index_list(o.static_offsets.get_values(), o.offsets, DYNAMIC_INDEX)),
                list(get_dynamic_index_list(o.static_sizes.get_values(), o.sizes, DYNAMIC_INDEX)),
                o,
                tuple(o.static_strides.get_values()),
            )
            for o in ops
        ]
        if any(len(p.sizes) != len(p.value.type.get_shape()) for p in pieces):  # pyright: ignore
            return None
        pieces = self._joined(pieces)
        empty = ops[0].dest.owner
        dense = all(p.is_dense for p in pieces)
        if dense and isinstance(empty, tensor.EmptyOp) and not _overlap(pieces):
            sizes = _extents(empty)
            return _Image(op.result, list(ops), sizes, pieces)
        if len(ops) > 1 and not (dense and not _overlap(pieces)):
            return None
        return _Image(op.result, list(ops), [], pieces, base=ops[0].dest)

    # [x[:k], x[k:]] == x: the parts of a split that stay side by side are one piece
    def _joined(self, pieces: list[_Piece]) -> list[_Piece]:
        joined: list[_Piece] = []
        k = 0
        while k < len(pieces):
            end, whole = k + 1, None
            while end < len(pieces) and _follows(pieces[end - 1], pieces[end]):
                end += 1
            if end > k + 1:
                whole = self._whole(pieces[k:end])
            joined += [whole] if whole is not None else pieces[k:end]
            k = end
        return joined

    def _whole(self, parts: Sequence[_Piece]) -> _Piece | None:
        """The tensor that `parts`, slices of it that follow one another, are all of."""
        first, last = parts[0].value.owner, parts[-1].value.owner
        assert isinstance(first, tensor.ExtractSliceOp) and isinstance(last, tensor.ExtractSliceOp)
        sizes = self._sizes_of(first.source, parts[0].op)
        starts, begins, counts = _box(first)[0], *_box(last)
        for size, start, begin, count in zip(sizes, starts, begins, counts, strict=True):
            if start != 0:
                return None
            if begin == 0:
                if count is not size and count != size:
                    return None
            elif not isinstance(begin, int) or not isinstance(count, int) or begin + count != size:
                return None
        return _Piece(first.source, parts[0].offsets, sizes, parts[0].op, parts[0].strides)

    def _continues(self, op: tensor.InsertSliceOp) -> tensor.InsertSliceOp | None:
        """The insertion into the result of `op`, if nothing else reads that."""
        uses = list(op.result.uses)
        if len(uses) != 1 or uses[0].index != 1:
            return None
        user = uses[0].operation
        return user if isinstance(user, tensor.InsertSliceOp) and user.parent is self.block else None

    def _padded(self, op: tensor.PadOp) -> _Image | None:
        low, high = op.static_low.get_values(), op.static_high.get_values()
        terminator = op.region.block.last_op
        assert terminator is not None, "a pad yields a value"
        value = terminator.operands[0].owner
        if op.low or op.high or not isinstance(value, arith.ConstantOp):
            return None
        if min((*low, *high), default=0) < 0 or self._is_small(op.result.type):
            return None
        own = self._sizes_of(op.source, op)
        sizes: list[Extent] = []
        for extent, before, after in zip(own, low, high, strict=True):
            if isinstance(extent, int):
                sizes.append(extent + before + after)
            elif before + after == 0:
                sizes.append(extent)
            else:
                margin = self._put(arith.ConstantOp(IntegerAttr(before + after, _INDEX)), op)
                sizes.append(self._put(arith.AddiOp(extent, margin), op))
        # Either the types or the values may know an extent.
        for axis, extent in enumerate(op.result.type.get_shape()):
            if extent == DYNAMIC_INDEX and isinstance(number := sizes[axis], int):
                sizes[axis] = self._put(arith.ConstantOp(IntegerAttr(number, _INDEX)), op)
        return _Image(
            op.result, [op], sizes, [_Piece(op.source, list(low), own, op, (1,) * len(low))], value.value
        )

    @staticmethod
    def _is_small(type: Attribute) -> bool:
        assert isinstance(type, TensorType)
        total = 1
        for extent in type.get_shape():
            if extent == DYNAMIC_INDEX:
                return False
            total *= extent
        return total <= _SMALL

    def _sizes_of(self, value: SSAValue, before: Operation) -> list[Extent]:
        """The extents of `value`, found as early as they can be."""
        shape = value.type.get_shape()  # pyright: ignore
        if DYNAMIC_INDEX not in shape:
            return list(shape)
        if (image := self.images.get(value)) is not None and image.sizes:
            return list(image.sizes)
        owner = value.owner
        if isinstance(owner, tensor.EmptyOp):
            return _extents(owner)
        if self.kernels.is_kernel(owner) and isinstance(value, OpResult):  # pyright: ignore
            made = owner.operands[len(owner.operands) - len(owner.results) + value.index]  # pyright: ignore
            return self._sizes_of(made, before)
        if isinstance(owner, tensor.ExpandShapeOp):
            return list(
                get_dynamic_index_list(
                    owner.static_output_shape.get_values(), owner.dynamic_output_shape, DYNAMIC_INDEX
                )
            )
        if isinstance(owner, tensor.ExtractSliceOp) and len(owner.static_sizes) == len(shape):
            return list(get_dynamic_index_list(owner.static_sizes.get_values(), owner.sizes, DYNAMIC_INDEX))
        sizes: list[Extent] = []
        for axis, extent in enumerate(shape):
            if extent == DYNAMIC_INDEX:
                number = self._put(arith.ConstantOp(IntegerAttr(axis, _INDEX)), before)
                extent = self._put(tensor.DimOp(value, number), before)
            sizes.append(extent)
        return sizes

    # Which pieces are made in their place.

    def _settle(self, image: _Image) -> None:
        """Give every piece of `image` a place in it, by a copy where its producer cannot write there."""
        image.first = image.ops[0]
        for piece in image.pieces:
            place = _Place(image, tuple(piece.offsets), tuple(piece.sizes), piece.strides)
            start = self._producer(piece, image)
            if start is None and (start := self._second_producer(piece, image)) is not None:
                self.also.setdefault(piece.value, []).append(place)
                image.writers.update(self._writers(piece.value))
                if self.order[start] < self.order[image.first]:
                    image.first = start
                continue
            if start is None:
                missed(
                    piece.op,
                    "a part of a joined or padded tensor is copied to its place: its producer cannot write there",
                )
                type = piece.value.type
                assert isinstance(type, TensorType)
                sizes = [s for s, e in zip(piece.sizes, type.get_shape(), strict=True) if e == DYNAMIC_INDEX]
                empty = tensor.EmptyOp([s for s in sizes if isinstance(s, SSAValue)], type)
                self._put(empty, piece.op)
                call = func.CallOp(self.kernels.copy(type), [piece.value, empty.tensor], [type])
                piece.value = self._put(call, piece.op)
                start = empty
            if self.order[start] < self.order[image.first]:
                image.first = start
            image.writers.update(self._writers(piece.value))
            self.places[piece.value] = place
            if (inner := self.images.get(piece.value)) is not None:
                inner.place = place
        # The buffer stands in front of what makes its first piece: so must its extents.
        for size in image.sizes:
            if isinstance(size, SSAValue):
                self._hoist(size, image.first)

    def _producer(self, piece: _Piece, image: _Image) -> Operation | None:
        """The first op that would write `piece` in its place in `image`; None if it cannot."""
        value = piece.value
        if value in self.places or image.base is not None:
            return None
        if not all(isinstance(o, int) for o in piece.offsets):
            return None
        start: Operation | None
        if (inner := self.images.get(value)) is not None:
            static = all(isinstance(o, int) for p in inner.pieces for o in p.offsets)
            if inner.base is not None or inner.collapsed or not static:
                return None
            start = inner.first
        else:
            start = self._writer(value)
        if start is None:
            return None
        for size in (*image.sizes, *piece.sizes):
            if isinstance(size, SSAValue) and not self._can_hoist(size, self.order[start]):
                return None
        joins: list[bool] = []
        if not self._read_by_kernels(value, piece, image, piece.op, joins):
            return None
        if (image.border is not None and self._is_factor(value)) or self._clashes(value, image):
            return None
        image.collapsed |= any(joins)
        for size in piece.sizes:
            if isinstance(size, SSAValue):
                self._hoist(size, start)
        return start

    def _second_producer(self, piece: _Piece, image: _Image) -> Operation | None:
        """The kernel call that writes `piece` to another place and may write it to this one as well."""
        if piece.value not in self.places or image.base is not None or not piece.is_dense:
            return None
        start = self._writer(piece.value)
        if start is None or len(self.also.get(piece.value, ())) >= _MOST_PLACES - 1:
            return None
        if not all(isinstance(o, int) for o in piece.offsets):
            return None
        sizes = [s for s in (*image.sizes, *piece.sizes) if isinstance(s, SSAValue)]
        if not all(self._can_hoist(s, self.order[start]) for s in sizes) or self._clashes(piece.value, image):
            return None
        for size in sizes:
            self._hoist(size, start)
        return start

    def _writers(self, value: SSAValue) -> dict[Operation, SSAValue]:
        """The kernel calls that write parts of `value`, and what each makes."""
        if (inner := self.images.get(value)) is not None:
            return inner.writers
        writer = self._writer(value)
        return {} if writer is None else {writer: value}

    def _clashes(self, value: SSAValue, image: _Image) -> bool:
        """
        Whether a call that writes `value` writes another of its results to `image`: each of the two would be a version of
        the buffer without the other.
        """
        return any(image.writers.get(call, made) is not made for call, made in self._writers(value).items())

    def _writer(self, value: SSAValue) -> Operation | None:
        """The kernel call that makes all of `value`, from nothing that was there before."""
        owner = value.owner
        if not isinstance(value, OpResult) or not isinstance(owner, func.CallOp):
            return None
        if not self.kernels.is_kernel(owner) or owner.parent is not self.block:
            return None
        made = owner.operands[len(owner.operands) - len(owner.results) + value.index]
        return owner if isinstance(made.owner, tensor.EmptyOp) else None

    def _read_by_kernels(
        self, value: SSAValue, piece: _Piece, image: _Image, insertion: Operation, joins: list[bool]
    ) -> bool:
        """Whether all readers of `value` but `insertion` can read a slice instead."""
        for use in value.uses:
            user = use.operation
            if user is insertion:
                continue
            if user.parent is not self.block:
                return False
            if isinstance(user, tensor.DimOp):
                continue
            if self.kernels.is_kernel(user) and use.index < len(user.operands) - len(user.results):
                continue
            if isinstance(user, tensor.PadOp) and user.result in self.images:
                continue
            if isinstance(user, tensor.InsertSliceOp) and use.index == 0:
                if any(user in i.ops for i in self.images.values()):
                    continue
                return False
            if isinstance(user, tensor.CollapseShapeOp):
                if value is not piece.value or not _joinable(user, piece.sizes, image.sizes):
                    return False
                joins.append(True)
            elif isinstance(user, tensor.ExtractSliceOp):
                if len(user.static_sizes) != len(user.result.type.get_shape()):  # pyright: ignore
                    return False
            elif not isinstance(user, tensor.ExpandShapeOp):
                return False
            if not self._read_by_kernels(user.results[0], piece, image, insertion, joins):
                return False
        return True

    def _is_factor(self, value: SSAValue) -> bool:
        """
        Whether a matrix product reads `value`: over all rows at once, which those of a padded tensor are not. A tile of
        the product that ends with each of them costs more than the copy of `value` into the padded tensor.
        """
        for use in value.uses:
            user = use.operation
            if not isinstance(user, func.CallOp) or not self.kernels.is_kernel(user):
                continue
            argument = self.kernels.by_name[user.callee.string_value()].body.block.args[use.index]
            for read in argument.uses:
                op = read.operation
                if contraction_operands(op) is None:
                    continue
                assert isinstance(op, linalg.GenericOp)
                long = _long_dims(op)
                if all(len(e.used_dims() & long) <= 1 for e in maps_of(op)[read.index].results):
                    return True
        return False

    def _can_hoist(self, value: SSAValue, position: float) -> bool:
        owner = value.owner
        if isinstance(owner, Block) or owner.parent is not self.block or self.order[owner] < position:
            return True
        if owner.regions or not is_side_effect_free(owner):
            return False
        return all(self._can_hoist(v, position) for v in owner.operands)

    def _hoist(self, value: SSAValue, before: Operation) -> None:
        """Move the computation of `value` in front of `before`."""
        owner = value.owner
        position = self.order[before]
        if isinstance(owner, Block) or owner.parent is not self.block or self.order[owner] < position:
            return
        for operand in owner.operands:
            self._hoist(operand, before)
        owner.detach()
        self._insert(owner, before)

    # Rewriting.

    def _put(self, op: Operation, before: Operation) -> SSAValue:
        op.location = before.location
        self._insert(op, before)
        return op.results[0]

    def _insert(self, op: Operation, before: Operation) -> None:
        previous = before.prev_op
        low = -1.0 if previous is None else self.order[previous]
        self.block.insert_op_before(op, before)
        self.order[op] = (low + self.order[before]) / 2
        if not low < self.order[op] < self.order[before]:
            self.order = {op: float(i) for i, op in enumerate(self.block.ops)}

    def _begin(self, image: _Image, before: Operation) -> None:
        """Make the buffer of `image`."""
        if image.base is not None:
            self.current[image] = image.base
            return
        type = image.result.type
        empty = tensor.EmptyOp(_dynamic(image.sizes), type)
        self._put(empty, before)
        empty.location = image.ops[-1].location
        empty.tensor.name_hint = image.result.name_hint
        self.current[image] = empty.tensor

    def _fill_border(self, image: _Image, before: Operation) -> None:
        type = image.result.type
        assert isinstance(type, TensorType) and image.border is not None
        piece = image.pieces[0]
        pad = piece.op
        assert isinstance(pad, tensor.PadOp)
        low, high = pad.static_low.get_values(), pad.static_high.get_values()
        if not any((*low, *high)):
            return
        name = self.kernels.border(type, low, high, image.border)
        root = image.root
        places: dict[int, tensor.ExtractSliceOp] = {}
        if image.place is not None:
            places[0] = self._slice(image.place.in_root(), type)
            name = self.kernels.variant(name, {}, places)
        target = self.current[root]
        extents = [v for s in places.values() for v in s.operands[1:]]
        call = func.CallOp(name, [*extents, target], [target.type])
        self.current[root] = self._put(call, before)
        call.location = pad.location
        for piece_slice in places.values():
            piece_slice.drop_all_references()

    def _slice(self, place: _Place, type: Attribute) -> tensor.ExtractSliceOp:
        """The part `place` of the newest version of its buffer; in no block, a model for others."""
        return tensor.ExtractSliceOp(
            self.current[place.image], place.offsets, place.sizes, place.strides, type
        )

    def _chain(self, value: SSAValue) -> tuple[SSAValue, list[_Step]]:
        """The tensor that `value` is a view of and the views from there on that a kernel has to take in."""
        chain: list[_Step] = []
        while value not in self.places and isinstance(owner := value.owner, _View):
            chain.insert(0, _Step(owner))
            value = owner.operands[0]
        if value in self.places:
            place = self.places[value].in_root()
            if _is_whole(place):
                return self.current[place.image], chain
            return self.current[place.image], [_Step(self._slice(place, value.type)), *chain]
        while chain and not isinstance(chain[0].op, tensor.ExtractSliceOp):
            chain.pop(0)
        if not chain or any(isinstance(step.op, tensor.CollapseShapeOp) for step in chain):
            # Joined dims of a slice need not lie next to each other: it is copied first.
            return value, []
        return chain[0].op.operands[0], chain

    def _rewrite_call(self, call: func.CallOp) -> None:
        """Let a kernel read whole tensors and write to its places."""
        outputs = len(call.results)
        first = len(call.operands) - outputs
        chains: dict[int, list[_Step]] = {}
        places: dict[int, tensor.ExtractSliceOp] = {}
        operands = list(call.operands)
        for k in range(first):
            if isinstance(operands[k].type, TensorType):
                base, steps = self._chain(operands[k])
                if steps:
                    chains[k] = steps
                operands[k] = base if steps or operands[k] in self.places else operands[k]
        targets: dict[int, _Image] = {}
        also: list[tuple[int, tensor.ExtractSliceOp]] = []
        for k, result in enumerate(call.results):
            if (place := self.places.get(result)) is not None:
                root = place.in_root()
                targets[k] = root.image
                operands[first + k] = self.current[root.image]
                if not _is_whole(root):
                    places[k] = self._slice(root, result.type)
        copied: list[tuple[SSAValue, _Place]] = []
        for k, result in enumerate(call.results):
            for place in self.also.get(result, ()):
                root = place.in_root()
                if root.image in targets.values():
                    copied.append((result, root))
                    continue
                targets[outputs + len(also)] = root.image
                operands.append(self.current[root.image])
                also.append((k, self._slice(root, result.type)))
        if operands == list(call.operands):
            return
        name = call.callee.string_value()
        if listening():
            parts = [f"reads {counted(len(chains), 'slice')} of larger tensors"] if chains else []
            parts += [f"writes {counted(len(targets), 'result')} into place"] if targets else []
            applied(call, f"kernel @{name} {' and '.join(parts) or 'reads whole tensors'}, without a copy")
        if chains or places or also:
            name = self.kernels.variant(name, chains, places, also)
        extents = [v for steps in chains.values() for step in steps for v in step.extents]
        extents += [v for s in (*places.values(), *(s for _, s in also)) for v in s.operands[1:]]
        types = [v.type for v in operands[first:]]
        new = func.CallOp(name, [*operands[:first], *extents, *operands[first:]], types)
        new.attributes.update(call.attributes)
        if any(operands[first + k] in operands[:first] for k in targets):
            new.attributes[DISJOINT] = UnitAttr()
        self._put(new, call)
        for k, result in enumerate(new.results):
            old = call.results[k] if k < outputs else None
            if old is not None:
                result.name_hint = old.name_hint
            if k in targets:
                self.current[targets[k]] = result
            elif old is not None:
                old.replace_all_uses_with(result)
        for steps in chains.values():
            if steps[0].op.parent is None:
                steps[0].op.drop_all_references()
        for piece in (*places.values(), *(s for _, s in also)):
            piece.drop_all_references()
        for value, root in copied:
            self._copy(value, root, call)

    def _copy(self, value: SSAValue, place: _Place, before: Operation) -> None:
        """Copy `value`, which has a place, to a second one in the same buffer."""
        missed(before, "a result is copied: it has two places in one buffer")
        type = value.type
        assert isinstance(type, TensorType)
        source, steps = self._chain(value)
        target = self._slice(place, type)
        name = self.kernels.variant(self.kernels.copy(type), {0: steps}, {0: target})
        extents = [v for step in steps for v in step.extents]
        buffer = self.current[place.image]
        call = func.CallOp(name, [source, *extents, *target.operands[1:], buffer], [buffer.type])
        call.attributes[DISJOINT] = UnitAttr()
        self.current[place.image] = self._put(call, before)
        target.drop_all_references()
        if steps[0].op.parent is None:
            steps[0].op.drop_all_references()

    def _rewrite_dim(self, op: tensor.DimOp) -> None:
        axis = constant_of(op.index)
        assert axis is not None, "the axis of tensor.dim is constant in the host function"
        extent = self.places[op.source].sizes[axis]
        if isinstance(extent, int):
            extent = self._put(arith.ConstantOp(IntegerAttr(extent, _INDEX)), op)
        op.result.replace_all_uses_with(extent)

    def _materialise(self, op: tensor.ExtractSliceOp) -> None:
        """A slice that something else than a kernel reads is copied by a kernel."""
        type = op.result.type
        assert isinstance(type, TensorType)
        if self._is_small(type) or any(s < 1 for s in op.static_strides.get_values()):
            return
        if all(isinstance(use.operation, tensor.DimOp) for use in op.result.uses):
            return
        if len(op.static_sizes) != type.get_num_dims():
            return
        sizes = get_dynamic_index_list(op.static_sizes.get_values(), op.sizes, DYNAMIC_INDEX)
        missed(op, "a slice is copied: something else than a kernel reads it")
        empty = tensor.EmptyOp(_dynamic(sizes), type)
        copy = self.kernels.variant(self.kernels.copy(type), {0: [_Step(op)]}, {})
        call = func.CallOp(copy, [op.source, *op.operands[1:], empty.tensor], [type])
        for new in (empty, call):
            new.location = op.location
            self.block.insert_op_before(new, op)
        call.results[0].name_hint = op.result.name_hint
        op.result.replace_all_uses_with(call.results[0])

    def _drop_dead(self) -> None:
        dead = (
            *(tensor.ExtractSliceOp, tensor.InsertSliceOp, tensor.PadOp, tensor.ExpandShapeOp),
            *(
                tensor.CollapseShapeOp,
                tensor.EmptyOp,
                tensor.DimOp,
                arith.ConstantOp,
                arith.AddiOp,
                func.CallOp,
            ),
        )
        for op in reversed(list(self.block.ops)):
            if isinstance(op, dead) and not any(r.uses for r in op.results):
                if isinstance(op, func.CallOp) and not self.kernels.is_kernel(op):
                    continue
                Rewriter.erase_op(op)


def _extents(empty: tensor.EmptyOp) -> list[Extent]:
    return list(get_dynamic_index_list(empty.tensor.type.get_shape(), empty.dynamic_sizes, DYNAMIC_INDEX))  # pyright: ignore


def _dynamic(sizes: Iterable[Extent]) -> list[SSAValue]:
    return [s for s in sizes if isinstance(s, SSAValue)]


def _box(op: tensor.ExtractSliceOp) -> tuple[list[Extent], list[Extent]]:
    """Offsets and sizes of a slice."""
    return (
        list(get_dynamic_index_list(op.static_offsets.get_values(), op.offsets, DYNAMIC_INDEX)),
        list(get_dynamic_index_list(op.static_sizes.get_values(), op.sizes, DYNAMIC_INDEX)),
    )


def _follows(a: _Piece, b: _Piece) -> bool:
    """Whether `b` lies behind `a` along one axis, both in the image and in the tensor that they are slices of."""
    first, second = a.value.owner, b.value.owner
    if not isinstance(first, tensor.ExtractSliceOp) or not isinstance(second, tensor.ExtractSliceOp):
        return False
    if first.source is not second.source or not (a.is_dense and b.is_dense):
        return False
    for op in (first, second):
        if set(op.static_strides.get_values()) != {1} or len(op.static_sizes) != len(a.sizes):
            return False
    moved = 0
    for axis, (size, other) in enumerate(zip(a.sizes, b.sizes, strict=True)):
        steps = {(a.offsets[axis], b.offsets[axis]), (_box(first)[0][axis], _box(second)[0][axis])}
        if all(before == after for before, after in steps):
            if size is not other and size != other:
                return False
            continue
        moved += 1
        if not all(isinstance(v, int) for step in steps for v in (*step, size)):
            return False
        if any(before + size != after for before, after in steps):  # pyright: ignore
            return False
    return moved == 1


def _long_dims(op: linalg.GenericOp) -> set[int]:
    """The iteration dims that are not known to have extent 1."""
    units = {
        expr.position
        for operand, map in zip(op.operands, maps_of(op), strict=True)
        if isinstance(operand.type, TensorType)
        for expr, extent in zip(map.results, operand.type.get_shape(), strict=True)
        if isinstance(expr, AffineDimExpr) and extent == 1
    }
    return set(range(len(op.iterator_types))) - units


def _is_whole(place: _Place) -> bool:
    """Whether the place is all of its image; equal types say nothing where extents are unknown."""
    return (
        place.image.base is None  # else the image's extents are not at hand
        and all(isinstance(offset, int) and offset == 0 for offset in place.offsets)
        and set(place.strides) <= {1}
        and all(
            own is whole or (isinstance(own, int) and own == whole)
            for own, whole in zip(place.sizes, place.image.sizes, strict=True)
        )
    )


def _overlap(pieces: Sequence[_Piece]) -> bool:
    """Whether two pieces may share an element: no axis is known on which they lie apart."""
    for i, a in enumerate(pieces):
        for b in pieces[:i]:
            if not any(_apart(*parts) for parts in zip(a.offsets, a.sizes, b.offsets, b.sizes, strict=True)):
                return True
    return False


def _apart(a: Extent, a_size: Extent, b: Extent, b_size: Extent) -> bool:
    if not isinstance(a, int) or not isinstance(b, int):
        return False
    return (isinstance(a_size, int) and a + a_size <= b) or (isinstance(b_size, int) and b + b_size <= a)


def _joinable(op: tensor.CollapseShapeOp, sizes: Sequence[Extent], whole: Sequence[Extent]) -> bool:
    """Whether the dims that `op` joins lie next to each other in a slice of `sizes` of a tensor `whole`."""
    for group in op.reassociation:
        dims = [d for i in group if sizes[d := i.value.data] != 1]  # pyright: ignore
        if any(sizes[d] is not whole[d] and sizes[d] != whole[d] for d in dims[1:]):
            return False
        if dims and any(whole[d] != 1 for d in range(dims[0] + 1, dims[-1]) if d not in dims):
            return False
    return True
