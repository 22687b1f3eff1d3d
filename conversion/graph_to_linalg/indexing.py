"""Reading and writing at computed indices: gathers are generics, scatters are loops."""

from collections.abc import Callable, Sequence
from typing import Any

from xdsl.dialects import arith, scf, tensor
from xdsl.dialects.builtin import i64
from xdsl.ir import Block, Region, SSAValue

from stepwell.conversion.graph_to_linalg.lowering import INDEX, Lowering, Shape, dims, lowers
from stepwell.conversion.graph_to_linalg.scalar import Body, Scalar
from stepwell.conversion.graph_to_linalg.small_types import is_small
from stepwell.diagnostics import unsupported
from stepwell.dialects.graph.shape import Dim, product


def wrapped(build: Body, index: Scalar, extent: Dim) -> Scalar:
    """An index of the model: negative ones count from the end, and none leaves the tensor."""
    size = build.extent(extent)
    place = index.as_index()
    place = build.select(place.below(0), place + size, place)
    return place.maximum(0).minimum(size - 1)


def _place(low: Lowering, build: Body, old: SSAValue, index: Scalar, extent: Dim) -> Scalar:
    """`index` from the graph value `old`: as it is if its values are known to be good."""
    known = low.known(old)
    if (
        known is not None
        and isinstance(extent, int)
        and known.size
        and 0 <= known.min()
        and known.max() < extent
    ):
        return index.as_index()
    return wrapped(build, index, extent)


@lowers("gather")
def _gather(low: Lowering, op: Any) -> SSAValue:
    data, indices = low.operands(op)
    own, rank = low.shape(data), low.rank(data)
    axis = low.attr(op, "axis") % rank
    known = low.known(op.operands[1])
    if known is not None and known.size == 1 and isinstance(own[axis], int):
        position = int(known.reshape(-1)[0]) % own[axis]  # pyright: ignore
        offsets: list[Dim] = [position if a == axis else 0 for a in range(rank)]
        piece = low.slice(data, offsets, [1 if a == axis else e for a, e in enumerate(own)])
        return low.reshape(piece, (*own[:axis], *low.shape(indices), *own[axis + 1 :]))
    count = low.rank(indices)
    shape = (*own[:axis], *low.shape(indices), *own[axis + 1 :])
    d = dims(len(shape))

    def body(index: Scalar) -> Scalar:
        build = index.body
        places = [
            _place(low, build, op.operands[1], index, own[axis])
            if a == axis
            else build.index(a if a < axis else a + count - 1)
            for a in range(rank)
        ]
        return build.extract(data, places)

    return low.map(body, [indices], shape, low.element(data), at=[d[axis : axis + count]], widen=False)


@lowers("gather_elements")
def _gather_elements(low: Lowering, op: Any) -> SSAValue:
    data, indices = low.operands(op)
    own, rank = low.shape(data), low.rank(data)
    axis = low.attr(op, "axis") % rank

    def body(index: Scalar) -> Scalar:
        build = index.body
        places = [build.index(a) for a in range(rank)]
        places[axis] = _place(low, build, op.operands[1], index, own[axis])
        return build.extract(data, places)

    return low.map(body, [indices], low.shape(indices), low.element(data), widen=False)


@lowers("gather_nd")
def _gather_nd(low: Lowering, op: Any) -> SSAValue:
    data, indices = low.operands(op)
    own, at = low.shape(data), low.shape(indices)
    batch = low.attr(op, "batch_dims") or 0
    depth = at[-1]
    assert isinstance(depth, int), "shape inference refuses an unknown depth"
    lead = len(at) - 1
    shape = (*at[:-1], *own[batch + depth :])

    def body(out: Scalar) -> Scalar:
        build = out.body
        outer = [build.index(a) for a in range(lead)]
        places = outer[:batch]
        for k in range(depth):
            index = build.extract(indices, [*outer, build.constant(k, INDEX)])
            places.append(wrapped(build, index, own[batch + k]))
        places += [build.index(lead + a) for a in range(len(shape) - lead)]
        return build.extract(data, places)

    result = low.empty(shape, low.element(data))
    return low.generic("p" * len(shape), [], [(result, dims(len(shape)))], body)[0]


def loop(
    low: Lowering,
    count: Dim,
    carried: Sequence[SSAValue],
    body: Callable[[SSAValue, list[SSAValue]], Sequence[SSAValue]],
) -> list[SSAValue]:
    """`scf.for` from 0 to `count`: `body(i, values)` makes the next values in the loop's block."""
    block = Block(arg_types=[INDEX, *(v.type for v in carried)])
    i, *arguments = block.args
    from xdsl.dialects.builtin import TensorType

    for argument, value in zip(arguments, carried, strict=True):
        if isinstance(value.type, TensorType):
            low.reshaped(argument, low.shape(value))
    upper = low.index(count)
    with low.inside(block):
        block_results = list(body(i, list(arguments)))
        low.add(scf.YieldOp(*block_results))
    op = scf.ForOp(low.constant(0), upper, low.constant(1), list(carried), Region(block))
    low.add(op)
    for result, value in zip(op.results, carried, strict=True):
        if isinstance(value.type, TensorType):
            low.reshaped(result, low.shape(value))
    return list(op.results)


def delinearized(low: Lowering, i: SSAValue, shape: Shape) -> list[SSAValue]:
    """The index of element `i` of a tensor of `shape` in row-major order."""
    places: list[SSAValue] = []
    rest = i
    for axis in range(len(shape) - 1, 0, -1):
        size = low.index(shape[axis])
        places.append(low.value(arith.RemUIOp(rest, size)))
        rest = low.value(arith.DivUIOp(rest, size))
    if shape:
        places.append(rest)
    return places[::-1]


def _wrapped_value(low: Lowering, value: SSAValue, extent: Dim) -> SSAValue:
    """`wrapped` in the function itself."""
    build = Body(low.block, low, low.op)
    return wrapped(build, Scalar(build, value), extent).value


def _combined(low: Lowering, reduction: str, old: SSAValue, new: SSAValue, unsigned: bool) -> SSAValue:
    build = Body(low.block, low, low.op)
    a, b = Scalar(build, old, unsigned).widened(), Scalar(build, new, unsigned).widened()
    result = {
        "add": lambda: a + b,
        "mul": lambda: a * b,
        "max": lambda: a.maximum(b),
        "min": lambda: a.minimum(b),
    }
    return build.fit(result[reduction](), old.type)


def _store(
    low: Lowering, op: Any, total: SSAValue, value: SSAValue, places: Sequence[SSAValue], reduction: str
) -> SSAValue:
    if reduction != "none":
        if is_small(kind := op.operands[0].type.element_type):
            raise unsupported(op, f"it computes on {kind}", "cast to a wider type before it")
        old = low.value(tensor.ExtractOp(total, places, low.element(total)))
        value = _combined(low, reduction, old, value, low.unsigned(op)[0])
    return low.value(tensor.InsertOp.build(operands=[value, total, list(places)], result_types=[total.type]))


@lowers("scatter_elements")
def _scatter_elements(low: Lowering, op: Any) -> SSAValue:
    data, indices, updates = low.operands(op)
    own, shape = low.shape(data), low.shape(updates)
    axis = low.attr(op, "axis") % len(own)
    reduction = low.attr(op, "reduction") or "none"

    def body(i: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
        places = delinearized(low, i, shape)
        index = low.value(tensor.ExtractOp(indices, places, low.element(indices)))
        update = low.value(tensor.ExtractOp(updates, places, low.element(updates)))
        target = list(places)
        target[axis] = _wrapped_value(low, index, own[axis])
        return [_store(low, op, carried[0], update, target, reduction)]

    return loop(low, product(shape), [data], body)[0]


@lowers("scatter_nd")
def _scatter_nd(low: Lowering, op: Any) -> SSAValue:
    data, indices, updates = low.operands(op)
    own, at, shape = low.shape(data), low.shape(indices), low.shape(updates)
    depth, lead = at[-1], len(at) - 1
    assert isinstance(depth, int), "shape inference refuses an unknown depth"
    reduction = low.attr(op, "reduction") or "none"

    def body(i: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
        places = delinearized(low, i, shape)
        target: list[SSAValue] = []
        for k in range(depth):
            index = low.value(
                tensor.ExtractOp(indices, [*places[:lead], low.constant(k)], low.element(indices))
            )
            target.append(_wrapped_value(low, index, own[k]))
        update = low.value(tensor.ExtractOp(updates, places, low.element(updates)))
        return [_store(low, op, carried[0], update, [*target, *places[lead:]], reduction)]

    return loop(low, product(shape), [data], body)[0]


@lowers("one_hot")
def _one_hot(low: Lowering, op: Any) -> SSAValue:
    indices, depth, values = low.operands(op)
    rank = low.rank(indices) + 1
    axis = low.attr(op, "axis") % rank
    element = low.result_element(op)
    extent = low.result_shape(op)[axis]
    if not low.resolvable(extent):
        scalar = low.extract(depth, [0] * low.rank(depth))
        build = Body(low.block, low, op)
        extent = low.dim_of(Scalar(build, scalar).cast(i64).as_index().value)
    own = low.shape(indices)
    shape = (*own[:axis], extent, *own[axis:])
    d = dims(rank)

    def body(index: Scalar, off: Scalar, on: Scalar) -> Scalar:
        build = index.body
        size = build.extent(extent)
        place = index.cast(i64).as_index()
        place = build.select(place.below(0), place + size, place)
        return build.select(build.index(axis).equals(place), on, off)

    at: list[Any] = [[e for a, e in enumerate(d) if a != axis], [0], [1]]
    return low.map(body, [indices, values, values], shape, element, at=at, widen=False)


@lowers("tensor_scatter")
def _tensor_scatter(low: Lowering, op: Any) -> SSAValue:
    past, update, start = [*low.operands(op), None][:3]
    own, rank = low.shape(past), low.rank(past)
    axis = low.attr(op, "axis") % rank
    length = low.shape(update)[axis]
    circular = (low.attr(op, "mode") or "linear") == "circular"
    d = dims(rank)

    def body(old: Scalar, *first: Scalar) -> Scalar:
        build = old.body
        place = build.index(axis)
        if first:
            place = place - first[0].as_index()
        if circular:
            place = build.select(place.below(0), place + build.extent(own[axis]), place)
        inside = place.at_least(0) & place.below(build.extent(length))
        places = [build.index(a) for a in range(rank)]
        places[axis] = place
        return build.when(inside, lambda inner: _read_at(inner, update, places), old)

    def _read_at(inner: Body, value: SSAValue, places: list[Scalar]) -> Scalar:
        return inner.extract(value, places)

    inputs, at = [past], [d]
    if start is not None:
        inputs.append(start)
        at.append(d[:1])
    return low.map(body, inputs, own, low.element(past), at=at, widen=False)
