"""Signals: Fourier transforms of any length, and the mel scale."""

from typing import Any

import numpy as np
from xdsl.dialects import arith, math, scf, tensor
from xdsl.dialects.builtin import f64, i64
from xdsl.ir import Block, Region, SSAValue

from stepwell.conversion.graph_to_linalg.contraction import matmul
from stepwell.conversion.graph_to_linalg.indexing import loop
from stepwell.conversion.graph_to_linalg.lowering import INDEX, Lowering, Shape, dims, lowers
from stepwell.conversion.graph_to_linalg.runtime_axes import check, chosen, normalised_axes
from stepwell.conversion.graph_to_linalg.scalar import Body, Scalar
from stepwell.dialects.graph.shape import Dim, product

_MATRIX_EXTENT = 512
"""Most samples that are transformed by a product with a matrix; from there on the fast transform is faster."""


def _fourier(length: int, count: int, inverse: bool, complex_in: bool, complex_out: bool) -> np.ndarray:
    """The transform of `length` samples into `count` bins as a matrix on (real, imaginary) pairs, in f64."""
    # The angle is reduced as an integer, so that zeros are zeros to the last place.
    turns = np.outer(np.arange(length), np.arange(count)) % length
    angle = 2 * np.pi * turns / length * (1 if inverse else -1)
    cos, sin = np.cos(angle), np.sin(angle)
    # The cosine of a quarter turn is not 0 in floating point.
    cos[4 * turns % (2 * length) == 0] = np.round(cos[4 * turns % (2 * length) == 0])
    for table in (cos, sin):
        table[4 * turns % length == 0] = np.round(table[4 * turns % length == 0])
    if inverse:
        cos, sin = cos / length, sin / length
    parts = [[cos, sin], [-sin, cos]][: 2 if complex_in else 1]
    table = np.stack([np.stack(row[: 2 if complex_out else 1], -1) for row in parts], 1)
    return np.ascontiguousarray(table.reshape(length * table.shape[1], -1))


def _transformed(
    low: Lowering, op: Any, x: SSAValue, axis: int, length: int, inverse: bool, onesided: bool
) -> SSAValue:
    """The transform of `x` along `axis`, cut or padded with zeros to `length` samples; computed in f64."""
    rank, element = low.rank(x), low.element(x)
    order = [a for a in range(rank) if a not in (axis, rank - 1)] + [axis, rank - 1]
    moved = low.transpose(x, order)
    *lead, given, parts = low.shape(moved)
    assert isinstance(given, int) and isinstance(parts, int)
    half = length // 2 + 1
    if inverse and onesided:
        # Half of a spectrum: every bin but the first (and the middle one) stands for its mirror image too.
        table = _fourier(length, length, True, True, False).reshape(length, 2, length)
        bins = table[:half].copy()
        bins[1 : (length + 1) // 2] += (table[half:] * np.array([1.0, -1.0])[None, :, None])[::-1]
        table, taken, out_parts, count = bins[:, :parts], half, 1, length
    else:
        count = half if onesided else length
        table = _fourier(length, count, inverse, parts == 2, True).reshape(length, parts, -1)
        taken, out_parts = length, 2
    kept = min(taken, given)
    if kept != given:
        moved = low.slice(moved, [0] * rank, [*lead, kept, parts])
    table = np.ascontiguousarray(table[:kept]).reshape(kept * parts, count * out_parts)
    wide = low.map(lambda v: v.cast(f64), [moved], low.shape(moved), f64, widen=False)
    rows = low.reshape(wide, (product(lead), kept * parts))
    result = matmul(low, rows, low.tensor_constant(table))
    result = low.reshape(result, (*lead, count, out_parts))
    narrow = low.map(lambda v: v.cast(element), [result], low.shape(result), element, widen=False)
    return low.transpose(narrow, [order.index(a) for a in range(rank)])


def _body(low: Lowering) -> Body:
    return Body(low.block, low, low.op)


def _insert(low: Lowering, value: SSAValue, into: SSAValue, at: SSAValue) -> SSAValue:
    return low.value(tensor.InsertOp.build(operands=[value, into, [at]], result_types=[into.type]))


def _while(low: Lowering, start: list[SSAValue], go: Any, step: Any) -> list[SSAValue]:
    """`scf.while`: `step(values)` as long as `go(values)`."""
    types = [v.type for v in start]
    before, after = Block(arg_types=types), Block(arg_types=types)
    for block in (before, after):
        for argument, value in zip(block.args, start, strict=True):
            if argument.type != INDEX:
                low.reshaped(argument, low.shape(value))
    with low.inside(before):
        low.add(scf.ConditionOp(go(list(before.args)), *before.args))
    with low.inside(after):
        low.add(scf.YieldOp(*step(list(after.args))))
    repeat = scf.WhileOp(start, types, Region(before), Region(after))
    low.add(repeat)
    for result, value in zip(repeat.results, start, strict=True):
        if result.type != INDEX:
            low.reshaped(result, low.shape(value))
    return list(repeat.results)


class _Transform:
    """
    The transform of `n` complex numbers in f64, a line at a time: radix 2 where `n` is a power of two, else Bluestein's
    algorithm, which makes a convolution of it whose extent is one.
    """

    def __init__(self, low: Lowering, n: Dim):
        self.low, self.n = low, n
        if isinstance(n, int):
            self.direct: bool | SSAValue = n & (n - 1) == 0
            self.m: Dim = n if self.direct else 1 << (2 * n - 2).bit_length()
        else:
            self._choose(n)
        self.reverse = self._bit_reversal()
        self.cos, self.sin = self._turns(self.m, self.m, 2.0)
        self.chirp = self._chirp()
        self.filter = None if self.direct is True else self._filter()

    def _choose(self, n: Dim) -> None:
        """Whether `n` is a power of two, and the extent of the transform, as values of the run."""
        low = self.low
        build = _body(low)
        size = build.wrap(low.index(n))
        bits = size.cast(i64) & (size - 1).cast(i64)
        direct = bits.equals(0)
        need = build.select(direct, size, size * 2 - 1).value

        def go(values: list[SSAValue]) -> SSAValue:
            return low.value(arith.CmpiOp(values[0], need, "slt"))

        def double(values: list[SSAValue]) -> list[SSAValue]:
            return [low.value(arith.AddiOp(values[0], values[0]))]

        self.direct = direct.value
        self.m = low.dim_of(_while(low, [low.constant(1)], go, double)[0])

    def _turns(self, count: Dim, whole: Dim, factor: float) -> tuple[SSAValue, SSAValue]:
        """The cosines and sines of `-factor * pi * k / whole` for `k` below `count`."""
        low = self.low

        def body(out: Scalar, _: Scalar) -> list[Scalar]:
            build = out.body
            return _turn(build.index(0), build.extent(whole), factor)

        inits = [(low.empty((count,), f64), dims(1)) for _ in range(2)]
        cos, sin = low.generic("p", [], inits, body)
        return cos, sin

    # The square is reduced as an integer: exp(-i pi k^2 / n) has the period 2n in k^2.
    def _chirp(self) -> tuple[SSAValue, SSAValue] | None:
        """exp(-i pi k^2 / n), which turns the transform into a convolution; 1 where there is no need."""
        low = self.low
        if self.direct is True:
            return None

        def body(out: Scalar, _: Scalar) -> list[Scalar]:
            build = out.body
            k, size = build.index(0), build.extent(self.n)
            square = (k * k).remainder_of(size * 2)
            cos, sin = _turn(square, size, 1.0)
            if not isinstance(self.direct, SSAValue):
                return [cos, sin]
            direct = build.wrap(self.direct)
            return [build.select(direct, 1.0, cos), build.select(direct, 0.0, sin)]

        inits = [(low.empty((self.n,), f64), dims(1)) for _ in range(2)]
        cos, sin = low.generic("p", [], inits, body)
        return cos, sin

    def _bit_reversal(self) -> SSAValue:
        """For each place below `m` the place with the same bits in the other order."""
        low = self.low

        def body(i: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
            build = _body(low)
            half = build.wrap(i).floor_divided(2)
            above = build.wrap(low.value(tensor.ExtractOp(carried[0], [half.value], INDEX)))
            odd = (build.wrap(i) - half * 2) * build.extent(self.m).floor_divided(2)
            return [_insert(low, (above.floor_divided(2) + odd).value, carried[0], i)]

        first = _insert(low, low.constant(0), low.empty((self.m,), INDEX), low.constant(0))
        low.reshaped(first, (self.m,))
        return loop(low, self.m, [first], body)[0]

    # b[k] = b[m - k] = 1 / chirp[k], and 0 between: what the chirped samples are convolved with.
    def _filter(self) -> tuple[SSAValue, SSAValue]:
        low, chirp = self.low, self.chirp
        assert chirp is not None

        def body(out: Scalar, _: Scalar) -> list[Scalar]:
            build = out.body
            place, n, m = (
                build.extract(self.reverse, [build.index(0)]),
                build.extent(self.n),
                build.extent(self.m),
            )
            mirrored = place.minimum(m - place)
            inside = mirrored.below(n)
            held = mirrored.minimum(n - 1)
            cos, sin = (build.extract(v, [held]) for v in chirp)
            return [build.select(inside, cos, 0.0), build.select(inside, -sin, 0.0)]

        inits = [(low.empty((self.m,), f64), dims(1)) for _ in range(2)]
        re, im = low.generic("p", [], inits, body)
        return self._butterflies(re, im)

    def _butterflies(self, re: SSAValue, im: SSAValue) -> tuple[SSAValue, SSAValue]:
        """The transform of what lies in bit-reversed order, in place."""
        low = self.low

        def go(values: list[SSAValue]) -> SSAValue:
            return low.value(arith.CmpiOp(values[0], low.index(self.m), "slt"))

        def stage(values: list[SSAValue]) -> list[SSAValue]:
            half, *tensors = values
            twice = low.value(arith.AddiOp(half, half))
            blocks = low.value(arith.DivUIOp(low.index(self.m), twice))

            def block(g: SSAValue, tensors: list[SSAValue]) -> list[SSAValue]:
                first = low.value(arith.MuliOp(g, twice))

                def butterfly(k: SSAValue, tensors: list[SSAValue]) -> list[SSAValue]:
                    build = _body(low)
                    a = build.wrap(low.value(arith.AddiOp(first, k)))
                    b = build.wrap(low.value(arith.AddiOp(a.value, half)))
                    turn = build.wrap(low.value(arith.MuliOp(k, blocks)))
                    c, s = build.extract(self.cos, [turn]), build.extract(self.sin, [turn])
                    (xr, xi), (yr, yi) = ([build.extract(t, [at]) for t in tensors] for at in (a, b))
                    zr, zi = yr * c - yi * s, yr * s + yi * c
                    re, im = tensors
                    re = _insert(low, (xr - zr).value, re, b.value)
                    re = _insert(low, (xr + zr).value, re, a.value)
                    im = _insert(low, (xi - zi).value, im, b.value)
                    return [re, _insert(low, (xi + zi).value, im, a.value)]

                return loop(low, low.dim_of(half), tensors, butterfly)

            return [twice, *loop(low, low.dim_of(blocks), tensors, block)]

        _, re, im = _while(low, [low.constant(1), re, im], go, stage)
        return re, im

    def buffers(self) -> list[SSAValue]:
        """What `run` works in."""
        return [self.low.empty((self.m,), f64) for _ in range(2 if self.direct is True else 4)]

    def run(self, buffers: list[SSAValue], read: Any) -> list[SSAValue]:
        """The buffers, of which the first two then hold the transform (but for `finished`) of `read(k)`."""
        low = self.low

        def clear(k: SSAValue, pair: list[SSAValue]) -> list[SSAValue]:
            zero = low.constant(0.0, f64)
            return [_insert(low, zero, v, k) for v in pair]

        def fill(k: SSAValue, pair: list[SSAValue]) -> list[SSAValue]:
            build = _body(low)
            re, im = self._chirped(read(build, build.wrap(k)), k)
            at = build.extract(self.reverse, [build.wrap(k)]).value
            return [_insert(low, v.value, t, at) for v, t in zip((re, im), pair, strict=True)]

        pair, spare = buffers[:2], buffers[2:]
        if self.direct is not True:
            pair = loop(low, self.m, pair, clear)
        pair = list(self._butterflies(*loop(low, self.n, pair, fill)))
        if self.direct is True:
            return pair
        rounds: Dim = 1
        if isinstance(self.direct, SSAValue):
            rounds = low.dim_of(low.value(arith.SelectOp(self.direct, low.constant(0), low.constant(1))))
        return loop(low, rounds, [*pair, *spare], lambda _, values: self._convolved(values))

    # The inverse transform is the transform of the conjugate, conjugated, divided by m.
    def _convolved(self, values: list[SSAValue]) -> list[SSAValue]:
        low = self.low
        assert self.filter is not None
        factors = self.filter

        def multiply(k: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
            build = _body(low)
            here = build.wrap(k)
            (a, b), (c, d) = ([build.extract(t, [here]) for t in pair] for pair in (carried[:2], factors))
            at = build.extract(self.reverse, [here]).value
            parts = (a * c - b * d, -(a * d + b * c))
            return [
                *carried[:2],
                *(_insert(low, v.value, t, at) for v, t in zip(parts, carried[2:], strict=True)),
            ]

        re, im, *spare = loop(low, self.m, values, multiply)
        spare = list(self._butterflies(*spare))

        def back(k: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
            build = _body(low)
            here, m = build.wrap(k), build.extent(self.m).cast(f64)
            a, b = (build.extract(t, [here]) for t in carried[2:])
            return [
                _insert(low, (a / m).value, carried[0], k),
                _insert(low, (-b / m).value, carried[1], k),
                *carried[2:],
            ]

        return loop(low, self.n, [re, im, *spare], back)

    def _chirped(self, pair: tuple[Scalar, Scalar], k: SSAValue) -> tuple[Scalar, Scalar]:
        re, im = pair
        if self.chirp is None:
            return re, im
        build = re.body
        c, s = (build.extract(v, [build.wrap(k)]) for v in self.chirp)
        return re * c - im * s, re * s + im * c

    def finished(self, buffers: list[SSAValue], k: SSAValue) -> tuple[Scalar, Scalar]:
        """Bin `k` of the transform that `run` has left in the buffers."""
        build = _body(self.low)
        re, im = (build.extract(t, [build.wrap(k)]) for t in buffers[:2])
        return self._chirped((re, im), k)


def _turn(k: Scalar, whole: Scalar, factor: float) -> list[Scalar]:
    """The cosine and the sine of `-factor * pi * k / whole`."""
    build = k.body
    angle = k.cast(f64) * (-factor * np.pi) / whole.cast(f64)
    return [Scalar(build, build.add(op(angle.value))) for op in (math.CosOp, math.SinOp)]


def _fast(
    low: Lowering,
    x: SSAValue,
    sides: tuple[Dim, Dim, Dim],
    parts: int,
    length: Dim,
    inverse: bool,
    onesided: bool,
) -> tuple[SSAValue, Dim]:
    """
    The transform of `length` samples along the middle one of three axes `[outer, given, inner]` of complex numbers, and
    how many it makes of them. The elements are those of `x` in row-major order, those of the result are in f64.
    """
    outer, given, inner = sides
    half = (
        length // 2 + 1
        if isinstance(length, int)
        else low.dim_of((_size(low, length).floor_divided(2) + 1).value)
    )
    count = half if onesided and not inverse else length
    out_parts = 1 if onesided and inverse else 2
    flat = low.reshape(x, (product(low.shape(x)),))
    transform = _Transform(low, length)
    result = low.empty((product((outer, count, inner)) * out_parts,), f64)

    def line(number: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
        columns = low.index(inner)
        o = low.value(arith.DivUIOp(number, columns))
        i = low.value(arith.RemUIOp(number, columns))

        def place(build: Body, k: Scalar, extent: Dim, width: int) -> Scalar:
            return ((build.wrap(o) * build.extent(extent) + k) * build.extent(inner) + build.wrap(i)) * width

        def read(build: Body, k: Scalar) -> tuple[Scalar, Scalar]:
            size = build.extent(length)
            mirrored = real = None
            if inverse and onesided:  # the upper half of the spectrum is the conjugate of the lower
                mirrored = (k * 2).above(size)
                real = k.equals(0) | (k * 2).equals(size)
                k = build.select(mirrored, size - k, k)
            inside = k.below(build.extent(given))
            at = place(build, k.minimum(build.extent(given) - 1), given, parts)
            re = build.extract(flat, [at]).cast(f64)
            im = build.extract(flat, [at + 1]).cast(f64) if parts == 2 else build.constant(0.0, f64)
            if mirrored is not None and real is not None:
                im = build.select(mirrored, im, build.select(real, 0.0, -im))
            elif inverse:
                im = -im
            return build.select(inside, re, 0.0), build.select(inside, im, 0.0)

        buffers = transform.run(carried[1:], read)

        def store(k: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
            re, im = transform.finished(buffers, k)
            build = re.body
            if inverse:
                size = build.extent(length).cast(f64)
                re, im = re / size, -im / size
            at = place(build, build.wrap(k), count, out_parts)
            written = _insert(low, re.value, carried[0], at.value)
            return [_insert(low, im.value, written, (at + 1).value) if out_parts == 2 else written]

        (written,) = loop(low, count, carried[:1], store)
        return [written, *buffers]

    lines = product((outer, inner))
    return loop(low, lines, [result, *transform.buffers()], line)[0], count


def _size(low: Lowering, dim: Dim) -> Scalar:
    return _body(low).wrap(low.index(dim))


@lowers("dft")
def _dft(low: Lowering, op: Any) -> SSAValue:
    listed = [*op.operand_list(), None, None][:3]
    x = _with_both_parts(low, low[listed[0]])
    rank, shape = low.rank(x), low.shape(x)
    parts = int(shape[-1])  # pyright: ignore[reportArgumentType]
    inverse, onesided = bool(low.attr(op, "inverse")), bool(low.attr(op, "onesided"))
    axis: int | SSAValue = rank - 2
    if listed[2] is not None:
        known = low.known(listed[2])
        axis = int(known.reshape(-1)[0]) % rank if known is not None else _axis_of(low, low[listed[2]], rank)
    extents = _extents(low, axis, shape[:-1])
    if listed[1] is not None:
        known = low.known(listed[1])
        length: Dim = (
            low.dim_of(_positive(low, low[listed[1]])) if known is None else int(known.reshape(-1)[0])
        )
    elif inverse and onesided:
        length = (extents[1] - 1) * 2
    else:
        length = extents[1]
    static = isinstance(axis, int) and isinstance(length, int) and isinstance(extents[1], int)
    if static and max(length, extents[1]) <= _MATRIX_EXTENT:  # pyright: ignore[reportArgumentType]
        return _transformed(low, op, x, axis, length, inverse, onesided)  # pyright: ignore[reportArgumentType]
    if not isinstance(length, int):
        length = low.dim_of(low.index(length))
    flat, count = _fast(low, x, extents, parts, length, inverse, onesided)
    out = list(shape)
    out[-1] = 1 if inverse and onesided else 2
    for a in range(rank - 1):
        if isinstance(axis, int):
            out[a] = count if a == axis else shape[a]
        else:
            here = low.value(arith.CmpiOp(axis, low.constant(a), "eq"))
            out[a] = chosen(low, here, count, shape[a])
    return _narrowed(low, op, flat, tuple(out))


def _with_both_parts(low: Lowering, x: SSAValue) -> SSAValue:
    """`x`, of whose last axis only the run knows whether it has an imaginary part, with one: 0 where there is none."""
    shape, element = low.shape(x), low.element(x)
    if isinstance(parts := shape[-1], int):
        return x
    assert low.op is not None
    one_or_two = low.value(arith.CmpiOp(low.index(parts - 1), low.constant(2), "ult"))
    check(low, one_or_two, f"{low.op.name}: the last axis must have 1 or 2 elements")
    last = len(shape) - 1

    def body(like: Scalar) -> Scalar:
        build = like.body
        part, given = build.index(last), build.extent(parts)
        value = build.extract(x, [*(build.index(a) for a in range(last)), part.minimum(given - 1)])
        return build.select(part.below(given), value, 0.0)

    out = low.empty((*shape[:-1], 2), element)
    return low.generic("p" * len(shape), [], [(out, dims(len(shape)))], body)[0]


def _narrowed(low: Lowering, op: Any, flat: SSAValue, shape: Shape) -> SSAValue:
    element = low.result_element(op)
    narrow = low.map(lambda v: v.cast(element), [flat], low.shape(flat), element, widen=False)
    return low.reshape(narrow, shape)


def _positive(low: Lowering, value: SSAValue) -> SSAValue:
    """A length that the run gives; the run ends where it is below 1."""
    assert low.op is not None
    length = low.scalar_index(value)
    good = low.value(arith.CmpiOp(length, low.constant(1), "sge"))
    check(low, good, f"{low.op.name}: a length must be at least 1")
    return length


def _axis_of(low: Lowering, value: SSAValue, rank: int) -> SSAValue:
    """An axis that the run gives, from 0; the run ends where it is the one of real and imaginary parts."""
    (axis,) = normalised_axes(low, value, rank)
    check(
        low,
        low.value(arith.CmpiOp(axis, low.constant(rank - 1), "ne")),
        "graph.dft: the axis must not be the last one",
    )
    return axis


def _extents(low: Lowering, axis: int | SSAValue, shape: Shape) -> tuple[Dim, Dim, Dim]:
    """The numbers of elements in front of `axis`, along it and behind it."""
    if isinstance(axis, int):
        return product(shape[:axis]), shape[axis], product(shape[axis + 1 :])
    outer, own, inner = low.constant(1), low.constant(1), low.constant(1)
    for a, extent in enumerate(shape):
        size, one = low.index(extent), low.constant(1)
        order = {name: low.value(arith.CmpiOp(low.constant(a), axis, name)) for name in ("slt", "eq", "sgt")}
        outer = low.value(arith.MuliOp(outer, low.value(arith.SelectOp(order["slt"], size, one))))
        own = low.value(arith.MuliOp(own, low.value(arith.SelectOp(order["eq"], size, one))))
        inner = low.value(arith.MuliOp(inner, low.value(arith.SelectOp(order["sgt"], size, one))))
    return low.dim_of(outer), low.dim_of(own), low.dim_of(inner)


@lowers("stft")
def _stft(low: Lowering, op: Any) -> SSAValue:
    signal, _, window, _ = [*low.operands(op), None, None][:4]
    listed = [*op.operand_list(), None, None][:4]
    step = _number(low, listed[1])
    length = _number(low, listed[3]) if listed[3] is not None else low.shape(window)[0]
    shape = low.shape(signal)
    if len(shape) == 2:
        signal = low.reshape(signal, (*shape, 1))
    signal = _with_both_parts(low, signal)
    shape = low.shape(signal)
    frames = _frames(low, shape[1], length, step)
    onesided = bool(low.attr(op, "onesided"))
    d = dims(4)
    # in f64, as the transform is: a sum that ends in 0 is then as near to it as can be
    inputs: list[SSAValue] = [low.empty((shape[0], frames, length, shape[2]), f64)]
    at: list[Any] = [d]
    if window is not None:
        inputs.append(window)
        at.append([d[2]])

    def cut(_: Scalar, *w: Scalar) -> Scalar:
        build = _.body
        sample = build.index(1) * build.extent(step) + build.index(2)
        value = build.extract(signal, [build.index(0), sample, build.index(3)]).cast(f64)
        return value * w[0].cast(f64) if w else value

    pieces = low.map(cut, inputs, low.shape(inputs[0]), f64, at=at, widen=False)
    if isinstance(length, int) and isinstance(shape[2], int) and length <= _MATRIX_EXTENT:
        result = _transformed(low, op, pieces, 2, length, False, onesided)
        element = low.result_element(op)
        return low.map(lambda v: v.cast(element), [result], low.shape(result), element, widen=False)
    lines = product((shape[0], frames))
    flat, count = _fast(low, pieces, (lines, length, 1), int(shape[2]), length, False, onesided)  # pyright: ignore
    return _narrowed(low, op, flat, (shape[0], frames, count, 2))


def _number(low: Lowering, old: SSAValue) -> Dim:
    """A positive number, of the model or of the run."""
    known = low.known(old)
    if known is not None and known.reshape(-1)[0] > 0:
        return int(known.reshape(-1)[0])
    return low.dim_of(_positive(low, low[old]))


def _frames(low: Lowering, samples: Dim, length: Dim, step: Dim) -> Dim:
    """How many frames fit; the run ends where none does."""
    if isinstance(samples, int) and isinstance(length, int) and isinstance(step, int):
        return (samples - length) // step + 1
    room = low.value(arith.SubiOp(low.index(samples), low.index(length)))
    good = low.value(arith.CmpiOp(room, low.constant(0), "sge"))
    check(low, good, "graph.stft: a frame must not be longer than the signal")
    build = _body(low)
    return low.dim_of((build.wrap(room).floor_divided_by(build.wrap(low.index(step))) + 1).value)


_MEL = 2595.0
"""mel = 2595 log10(1 + hertz / 700)"""
_HERTZ = 700.0


# Column m is a triangle over the bins from that of edge m to that of edge m + 2, with its top at that of edge m + 1;
# the edges lie at equal distances on the mel scale.
@lowers("mel_weight_matrix")
def _mel_weight_matrix(low: Lowering, op: Any) -> SSAValue:
    bins, length, rate, bottom, top = (low.extract(v, [0] * low.rank(v)) for v in low.operands(op))
    element = low.result_element(op)
    shape = list(low.result_shape(op))
    build = Body(low.block, low, op)
    count = build.wrap(bins).cast(i64).as_index()
    if not low.resolvable(shape[0]):
        half = build.wrap(length).cast(i64).as_index().floor_divided(2) + 1
        shape[0] = low.dim_of(half.maximum(0).value)
    if not low.resolvable(shape[1]):
        shape[1] = low.dim_of(count.maximum(0).value)

    def mel(hertz: SSAValue) -> Scalar:
        return (build.wrap(hertz).cast(f64) * (1.0 / _HERTZ) + 1.0).log() * (_MEL / np.log(10.0))

    first, last = mel(bottom), mel(top)
    step = (last - first) / (count + 2).cast(f64)
    scale = (build.wrap(length).cast(f64) + 1.0) / build.wrap(rate).cast(f64)
    numbers = [low.fill(v.value, (), f64) for v in (first, step, scale)]

    def body(first: Scalar, step: Scalar, scale: Scalar) -> Scalar:
        build = first.body
        place, band = build.index(0).cast(f64), build.index(1)

        def edge(offset: int) -> Scalar:
            mels = (band + offset).cast(f64) * step + first
            return (((mels * (np.log(10.0) / _MEL)).exp() - 1.0) * _HERTZ * scale).floor()

        left, centre, right = edge(0), edge(1), edge(2)
        rising = (place - left) / (centre - left).maximum(1.0)
        falling = (right - place) / (right - centre).maximum(1.0)
        value = build.select(place.at_least(left) & place.below(centre), rising, 0.0)
        value = build.select(place.at_least(centre) & place.below(right), falling, value)
        value = build.select(place.equals(centre), 1.0, value)
        return value.cast(element)

    return low.map(body, numbers, shape, element, widen=False)
