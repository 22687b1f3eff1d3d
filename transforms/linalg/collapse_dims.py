"""Make one dim of neighbouring dims that every op of a kernel walks through alike."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import prod

from xdsl.context import Context
from xdsl.dialects import arith, func, tensor
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    AffineMapAttr,
    ArrayAttr,
    DenseArrayBase,
    FunctionType,
    IndexType,
    IntegerAttr,
    ModuleOp,
    TensorType,
    i64,
)
from xdsl.dialects.linalg import ops as linalg
from xdsl.ir import Operation, OpResult, SSAValue
from xdsl.ir.affine import AffineConstantExpr, AffineDimExpr, AffineExpr, AffineMap
from xdsl.passes import ModulePass
from xdsl.rewriter import Rewriter

from stepwell.rewriting import may_rewrite, note_rewrite
from stepwell.transforms.linalg.indices import linear
from stepwell.transforms.linalg.structure import maps_of, reduction_dims

KERNEL = "stepwell.kernel"
_SLICES = (tensor.ExtractSliceOp, tensor.InsertSliceOp)
_UNDERSTOOD = (linalg.GenericOp, linalg.FillOp, tensor.EmptyOp, tensor.DimOp, func.ReturnOp, *_SLICES)

Groups = list[list[int]]
"""A partition of axes or dims into runs, in order."""


@dataclass(frozen=True)
class CollapseDimsPass(ModulePass):
    """
    Make one dim of neighbouring dims that every op of a kernel walks through alike.

    A 1x1 convolution becomes a plain matrix product over all pixels, an element-wise kernel of contiguous operands
    one loop; reduction dims of extent 1 go. Callers see the kernel's tensors through `collapse_shape` and
    `expand_shape`. Requires: kernels stage. Ensures: in a kernel whose bodies do not ask for indices, no two
    neighbouring dims of one kind are neighbouring axes of every operand that has them, slices of arguments included.
    """

    name = "collapse-dims"

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        calls: dict[str, list[func.CallOp]] = {}
        for inner in op.walk():
            if isinstance(inner, func.CallOp):
                calls.setdefault(inner.callee.string_value(), []).append(inner)
        for function in list(op.body.block.ops):
            if isinstance(function, func.FuncOp) and KERNEL in function.attributes and may_rewrite():
                _collapse_kernel(function, calls.get(function.sym_name.data, []))
                note_rewrite("collapse_kernel", f"@{function.sym_name.data}", function.location)


def _collapse_kernel(function: func.FuncOp, calls: list[func.CallOp]) -> None:
    for op in _generics(function):
        if not _names_dims(op):
            _drop_unit_reductions(op)
    if not _is_understood(function):
        return
    kernel = _Kernel(function)
    if not kernel.anything or not kernel.find_sizes():
        return
    arguments = [
        kernel.groups[a] if isinstance(a.type, TensorType) else None for a in function.body.block.args
    ]
    kernel.rewrite()
    for call in calls:
        _rewrite_call(call, function, arguments)


def _is_understood(function: func.FuncOp) -> bool:
    for op in function.body.block.ops:
        tensors = any(isinstance(v.type, TensorType) for v in (*op.operands, *op.results))
        if tensors and not isinstance(op, _UNDERSTOOD):
            return False
        if isinstance(op, _SLICES) and len(op.static_sizes) != len(_part(op).type.get_shape()):  # pyright: ignore
            return False
        if isinstance(op, linalg.GenericOp) and _names_dims(op):
            return False
    return True


def _names_dims(op: linalg.GenericOp) -> bool:
    """A body that asks for its place, or reads a tensor at one, means the dims as they are."""
    return any(isinstance(i, linalg.IndexOp | tensor.ExtractOp) or i.regions for i in op.body.block.ops)


def _generics(function: func.FuncOp) -> list[linalg.GenericOp]:
    return [op for op in function.body.block.ops if isinstance(op, linalg.GenericOp)]


def _drop_unit_reductions(op: linalg.GenericOp) -> None:
    """sum over k < 1 of f(k) == f(0): a reduction dim of extent 1 is the constant 0, unless it is the last one."""
    extents: dict[int, int] = {}
    for operand, map in zip(op.operands, maps_of(op), strict=True):
        if isinstance(operand.type, TensorType):
            for extent, expr in zip(operand.type.get_shape(), map.results, strict=True):
                if isinstance(expr, AffineDimExpr):
                    extents[expr.position] = extent
    inner = reduction_dims(op)
    dropped = {d for d in inner if extents.get(d) == 1}
    if not dropped or len(dropped) == len(inner):
        return
    kept = [d for d in range(len(op.iterator_types)) if d not in dropped]
    places: list[AffineExpr] = [
        AffineConstantExpr(0) if d in dropped else AffineDimExpr(kept.index(d))
        for d in range(len(op.iterator_types))
    ]
    maps = [AffineMap(len(kept), 0, tuple(_plain(e, places) for e in m.results)) for m in maps_of(op)]
    named = {e.position for m in maps for e in m.results if isinstance(e, AffineDimExpr)}
    if named != set(range(len(kept))):
        return
    _set_space(op, maps, kept)


def _plain(expr: AffineExpr, places: list[AffineExpr]) -> AffineExpr:
    """`expr` with its dims replaced, a sum of one dim and nothing written as that dim."""
    new = expr.replace_dims_and_symbols(places, [])
    if (terms := linear(new)) is not None and terms[1] == 0:
        if list(terms[0].values()) == [1]:
            return AffineDimExpr(next(iter(terms[0])))
        if not terms[0]:
            return AffineConstantExpr(0)
    return new


def _set_space(op: linalg.GenericOp, maps: Sequence[AffineMap], kept: list[int]) -> None:
    """Give `op` other maps, over those of its dims that are kept."""
    op.properties["indexing_maps"] = ArrayAttr([AffineMapAttr(m) for m in maps])
    op.properties["iterator_types"] = ArrayAttr([op.iterator_types.data[d] for d in kept])


@dataclass
class _Kernel:
    """Which axes of each tensor, and which dims of each op, become one."""

    function: func.FuncOp
    groups: dict[SSAValue, Groups] = field(default_factory=dict)
    """Of each tensor, by the value that its buffer begins as."""
    dims: dict[linalg.GenericOp, Groups] = field(default_factory=dict)
    sizes: dict[tuple[SSAValue, int], tuple[SSAValue, int]] = field(default_factory=dict)
    """The new axis of a `tensor.empty` to the argument and its new axis that has the same extent."""

    def __post_init__(self) -> None:
        self.ops = _generics(self.function)
        self.pairs = {t: set(range(len(t.type.get_shape()) - 1)) for t in self._tensors()}  # pyright: ignore
        self._split_where_extents_are_used()
        dim_pairs = self._fixpoint()
        for value, pairs in self.pairs.items():
            self.groups[value] = _runs(len(value.type.get_shape()), pairs)  # pyright: ignore
        for op in self.ops:
            self.dims[op] = _chains(len(op.iterator_types), dim_pairs[op])

    @property
    def anything(self) -> bool:
        return any(pairs for pairs in self.pairs.values())

    def _tensors(self) -> list[SSAValue]:
        block = self.function.body.block
        made = [op.results[0] for op in block.ops if isinstance(op, tensor.EmptyOp | tensor.ExtractSliceOp)]
        return [v for v in (*block.args, *made) if isinstance(v.type, TensorType)]

    def _split_where_extents_are_used(self) -> None:
        for op in self.function.body.block.ops:
            if isinstance(op, tensor.DimOp):
                index = _constant(op.index)
                only_sizes = all(isinstance(use.operation, tensor.EmptyOp) for use in op.result.uses)
                if index is None or not only_sizes:
                    pairs = self.pairs[_root(op.source)]
                    pairs -= set(pairs) if index is None else {index - 1, index}

    def _fixpoint(self) -> dict[linalg.GenericOp, set[tuple[int, int]]]:
        """Strike out pairs until the pairs of axes and the pairs of dims imply each other."""
        while True:
            dim_pairs = {op: self._dim_pairs(op) for op in self.ops}
            changed = False
            for op in self.ops:
                for operand, map in zip(op.operands, maps_of(op), strict=True):
                    if not isinstance(operand.type, TensorType):
                        continue
                    pairs = self.pairs[_root(operand)]
                    for axis in list(pairs):
                        if _pair(map, axis) not in dim_pairs[op]:
                            pairs.discard(axis)
                            changed = True
            for op in self.function.body.block.ops:
                if isinstance(op, _SLICES):
                    part, whole = self.pairs[_root(_part(op))], self.pairs[_root(_whole(op))]
                    kept = {axis for axis in part & whole if _stays_joined(op, axis)}
                    changed |= kept != part or kept != whole
                    part &= kept
                    whole &= kept
            if not changed:
                return dim_pairs

    def _dim_pairs(self, op: linalg.GenericOp) -> set[tuple[int, int]]:
        """The pairs of dims that are neighbouring axes, allowed so far, of every operand that has one of them."""
        maps = maps_of(op)
        operands = [
            (_root(v), m) for v, m in zip(op.operands, maps, strict=True) if isinstance(v.type, TensorType)
        ]
        found = {pair for v, m in operands for axis in self.pairs[v] if (pair := _pair(m, axis)) is not None}
        return {
            (p, q)
            for p, q in found
            if op.iterator_types.data[p] == op.iterator_types.data[q]
            and all(self._beside(p, q, v, m) for v, m in operands)
        }

    def _beside(self, p: int, q: int, value: SSAValue, map: AffineMap) -> bool:
        using = [axis for axis, e in enumerate(map.results) if {p, q} & e.used_dims()]
        if not using:
            return True
        first = using[0]
        return using == [first, first + 1] and _pair(map, first) == (p, q) and first in self.pairs[value]

    def find_sizes(self) -> bool:
        """Where each new dynamic extent of a temporary can be read; False if one cannot."""
        for value, groups in self.groups.items():
            if not isinstance(value.owner, tensor.EmptyOp):
                continue
            shape = value.type.get_shape()  # pyright: ignore
            for place, group in enumerate(groups):
                if len(group) > 1 and any(shape[a] == DYNAMIC_INDEX for a in group):
                    if (same := self._argument_with(value, group)) is None:
                        return False
                    self.sizes[value, place] = same
        return True

    def _argument_with(self, value: SSAValue, group: list[int]) -> tuple[SSAValue, int] | None:
        for op in self.ops:
            operands = [
                (_root(v), m)
                for v, m in zip(op.operands, maps_of(op), strict=True)
                if isinstance(v.type, TensorType)
            ]
            for own, map in operands:
                if own is not value:
                    continue
                wanted = [map.results[a] for a in group]
                for other, theirs in operands:
                    if isinstance(other.owner, Operation):
                        continue
                    for place, axes in enumerate(self.groups[other]):
                        if [theirs.results[a] for a in axes] == wanted:
                            return other, place
        return None

    def rewrite(self) -> None:
        """Give every value of the kernel its collapsed type."""
        block = self.function.body.block
        types = {
            value: collapsed_type(value.type, self.groups[_root(value)])
            for value in (*block.args, *(r for op in block.ops for r in op.results))
            if isinstance(value.type, TensorType)
        }
        for op in self.ops:
            self._rewrite_space(op)
        for op in list(block.ops):
            if isinstance(op, tensor.DimOp):
                self._rewrite_dim(op)
        for op in block.ops:
            if isinstance(op, _SLICES):
                _join_slice(op, self.groups[_root(_part(op))])
        for op in [op for op in block.ops if isinstance(op, tensor.EmptyOp)]:
            new = tensor.EmptyOp(self._sizes_of(op), types.pop(op.tensor))
            _insert(new, op)
            op.tensor.replace_all_uses_with(new.tensor)
            op.detach()
            op.erase()
        for value, type in types.items():
            if value.type != type:
                Rewriter.replace_value_with_new_type(value, type)
        for op in [op for op in block.ops if isinstance(op, tensor.DimOp) and not op.result.uses]:
            op.detach()
            op.erase()
        self.function.properties["function_type"] = FunctionType.from_lists(
            [a.type for a in block.args],
            [v.type for v in block.last_op.operands],  # pyright: ignore
        )

    def _rewrite_space(self, op: linalg.GenericOp) -> None:
        groups = self.dims[op]
        kept = [group[0] for group in groups]
        places: list[AffineExpr] = [AffineConstantExpr(0)] * len(op.iterator_types)
        for number, group in enumerate(groups):
            for d in group:
                places[d] = AffineDimExpr(number)
        maps: list[AffineMap] = []
        for operand, map in zip(op.operands, maps_of(op), strict=True):
            axes = range(len(map.results))
            if isinstance(operand.type, TensorType):
                axes = [group[0] for group in self.groups[_root(operand)]]
            exprs = [map.results[a].replace_dims_and_symbols(places, []) for a in axes]
            maps.append(AffineMap(len(kept), 0, tuple(exprs)))
        _set_space(op, maps, kept)

    def _sizes_of(self, op: tensor.EmptyOp) -> list[SSAValue]:
        """The dynamic extents of the collapsed temporary."""
        shape, old = op.tensor.type.get_shape(), iter(op.dynamic_sizes)
        by_axis = {axis: next(old) for axis, extent in enumerate(shape) if extent == DYNAMIC_INDEX}
        sizes: list[SSAValue] = []
        for place, group in enumerate(self.groups[op.tensor]):
            if not any(axis in by_axis for axis in group):
                continue
            if len(group) == 1:
                sizes.append(by_axis[group[0]])
                continue
            argument, axis = self.sizes[op.tensor, place]
            sizes.append(_dim(argument, axis, op))
        return sizes

    def _rewrite_dim(self, op: tensor.DimOp) -> None:
        """An axis that stays has another number."""
        groups, axis = self.groups.get(_root(op.source)), _constant(op.index)
        if groups is None or axis is None or [axis] not in groups or groups.index([axis]) == axis:
            return
        assert op.parent is not None
        new = _dim(op.source, groups.index([axis]), op)
        op.result.replace_all_uses_with(new)


def _root(value: SSAValue) -> SSAValue:
    """What the buffer of `value` begins as: an argument, a slice of one or a `tensor.empty`."""
    while isinstance(value, OpResult):
        if isinstance(op := value.op, linalg.GenericOp | linalg.FillOp):
            value = op.outputs[value.index]
        elif isinstance(op, tensor.InsertSliceOp):
            value = op.dest
        else:
            break
    return value


def _part(op: tensor.ExtractSliceOp | tensor.InsertSliceOp) -> SSAValue:
    return op.result if isinstance(op, tensor.ExtractSliceOp) else op.source


def _whole(op: tensor.ExtractSliceOp | tensor.InsertSliceOp) -> SSAValue:
    return op.source if isinstance(op, tensor.ExtractSliceOp) else op.dest


# x[a : b][:] is rows a * n to b * n of x with its axes joined, where the second has extent n
def _stays_joined(op: tensor.ExtractSliceOp | tensor.InsertSliceOp, axis: int) -> bool:
    """Whether a slice is one run along `axis` and the next: it has all of the next."""
    offsets, sizes = op.static_offsets.get_values(), op.static_sizes.get_values()
    strides = op.static_strides.get_values()
    whole = _whole(op).type.get_shape()  # pyright: ignore
    return (
        DYNAMIC_INDEX not in (offsets[axis], sizes[axis], whole[axis + 1])
        and (strides[axis], strides[axis + 1]) == (1, 1)
        and (offsets[axis + 1], sizes[axis + 1]) == (0, whole[axis + 1])
    )


def _join_slice(op: tensor.ExtractSliceOp | tensor.InsertSliceOp, groups: Groups) -> None:
    """Offsets, sizes and strides by groups of axes; those that are joined are static."""
    whole = _whole(op).type.get_shape()  # pyright: ignore
    for key in ("static_offsets", "static_sizes", "static_strides"):
        values = op.properties[key].get_values()  # pyright: ignore
        joined: list[int] = []
        for first, *rest in groups:
            scale = 1 if key == "static_strides" else prod(whole[a] for a in rest)
            joined.append(values[first] * scale if rest else values[first])
        op.properties[key] = DenseArrayBase.from_list(i64, joined)


def _pair(map: AffineMap, axis: int) -> tuple[int, int] | None:
    first, second = map.results[axis], map.results[axis + 1]
    if isinstance(first, AffineDimExpr) and isinstance(second, AffineDimExpr):
        return first.position, second.position
    return None


def _runs(count: int, pairs: set[int]) -> Groups:
    """Axes in order, an axis `a` and the next in one run where `a` is in `pairs`."""
    groups: Groups = []
    for axis in range(count):
        if axis - 1 in pairs:
            groups[-1].append(axis)
        else:
            groups.append([axis])
    return groups


def _chains(count: int, pairs: set[tuple[int, int]]) -> Groups:
    """Dims in order of the first of each chain `p -> q -> ...`."""
    following = dict(pairs)
    inner = set(following.values())
    groups: Groups = []
    for dim in range(count):
        if dim in inner:
            continue
        chain = [dim]
        while chain[-1] in following:
            chain.append(following[chain[-1]])
        groups.append(chain)
    return groups


def collapsed_type(type: TensorType, groups: Groups) -> TensorType:
    shape = type.get_shape()
    extents = [
        DYNAMIC_INDEX if any(shape[a] == DYNAMIC_INDEX for a in g) else prod(shape[a] for a in g)
        for g in groups
    ]
    return TensorType(type.element_type, extents)


def _constant(value: SSAValue) -> int | None:
    if isinstance(op := value.owner, arith.ConstantOp) and isinstance(op.value, IntegerAttr):
        return op.value.value.data
    return None


def _insert(new: Operation, before: Operation) -> None:
    new.location = before.location
    assert before.parent is not None
    before.parent.insert_op_before(new, before)


def _dim(value: SSAValue, axis: int, before: Operation) -> SSAValue:
    index = arith.ConstantOp(IntegerAttr(axis, IndexType()))
    _insert(index, before)
    op = tensor.DimOp(value, index.result)
    _insert(op, before)
    return op.result


# The host's side.


def _rewrite_call(call: func.CallOp, function: func.FuncOp, arguments: list[Groups | None]) -> None:
    operands: list[SSAValue] = []
    extents: list[list[SSAValue]] = []
    old_operands = list(call.operands)
    for operand, groups in zip(old_operands, arguments, strict=True):
        if groups is None or all(len(g) == 1 for g in groups):
            operands.append(operand)
        else:
            operands.append(_collapsed(operand, groups, call))
    types = list(function.function_type.outputs)
    first = len(old_operands) - len(types)
    for dest in old_operands[first:]:
        extents.append(_dynamic_extents(dest, call))
    new = func.CallOp(call.callee, operands, types)
    new.attributes.update(call.attributes)
    _insert(new, call)
    for i, (old, result) in enumerate(zip(list(call.results), new.results, strict=True)):
        result.name_hint = old.name_hint
        value: SSAValue = result
        groups = arguments[first + i]
        if old.type != result.type or (groups is not None and any(len(g) > 1 for g in groups)):
            assert groups is not None and isinstance(old.type, TensorType)
            static = list(old.type.get_shape())
            expand = tensor.ExpandShapeOp(result, extents[i], _reassociation(groups), static, old.type)
            _insert(expand, call)
            value = expand.result
        old.replace_all_uses_with(value)
    call.detach()
    call.erase()
    for operand in dict.fromkeys(old_operands):
        if isinstance(empty := operand.owner, tensor.EmptyOp) and not operand.uses:
            empty.detach()
            empty.erase()


def _reassociation(groups: Iterable[Sequence[int]]) -> ArrayAttr[ArrayAttr[IntegerAttr]]:
    return ArrayAttr([ArrayAttr([IntegerAttr(axis, i64) for axis in group]) for group in groups])


def _collapsed(value: SSAValue, groups: Groups, call: func.CallOp) -> SSAValue:
    """`value` as the kernel takes it; what was only expanded, or is empty yet, needs no view."""
    assert isinstance(value.type, TensorType)
    type, owner = collapsed_type(value.type, groups), value.owner
    if isinstance(owner, tensor.ExpandShapeOp) and owner.reassociation == _reassociation(groups):
        if owner.src.type == type:
            return owner.src
    if isinstance(owner, tensor.EmptyOp):
        shape, old = value.type.get_shape(), iter(owner.dynamic_sizes)
        by_axis = {axis: next(old) for axis, extent in enumerate(shape) if extent == DYNAMIC_INDEX}
        sizes = [_product([by_axis.get(a, shape[a]) for a in g], owner) for g in groups if any(a in by_axis for a in g)]  # fmt: skip
        empty = tensor.EmptyOp(sizes, type)
        _insert(empty, owner)
        return empty.tensor
    op = tensor.CollapseShapeOp.build(
        operands=[value], properties={"reassociation": _reassociation(groups)}, result_types=[type]
    )
    _insert(op, call)
    return op.result


def _product(extents: list[SSAValue | int], before: Operation) -> SSAValue:
    number = prod(e for e in extents if isinstance(e, int))
    total: SSAValue | None = None
    factors = [e for e in extents if isinstance(e, SSAValue)]
    if number != 1:
        constant = arith.ConstantOp(IntegerAttr(number, IndexType()))
        _insert(constant, before)
        factors.append(constant.result)
    for factor in factors:
        if total is None:
            total = factor
            continue
        op = arith.MuliOp(total, factor)
        _insert(op, before)
        total = op.result
    assert total is not None, "one extent is dynamic"
    return total


def _dynamic_extents(value: SSAValue, before: Operation) -> list[SSAValue]:
    if isinstance(owner := value.owner, tensor.EmptyOp):
        return list(owner.dynamic_sizes)
    assert isinstance(value.type, TensorType)
    return [_dim(value, a, before) for a, e in enumerate(value.type.get_shape()) if e == DYNAMIC_INDEX]
