"""Winograd's minimal filtering: a 3x3 convolution as products on transformed tiles, F(2x2, 3x3) and F(4x4, 3x3).

`m * m` outputs cost `(m + 2)^2` multiplications a channel instead of `9 * m * m`:
`Y = A^T [ (G g G^T) * (B^T d B) ] A`, with `d` a tile of `m + 2` by `m + 2` inputs that overlaps its neighbours by 2. Both
transforms of data are two contractions with a small constant, one an axis; between them stands one matrix product for each of the
`(m + 2)^2` places in a tile, with the filters transformed here.
"""

import numpy as np
from xdsl.ir import SSAValue

from stepwell.conversion.graph_to_linalg.contraction import contract
from stepwell.conversion.graph_to_linalg.lowering import Lowering, dims
from stepwell.dialects.graph.shape import Dim

POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, 0.625, -0.625, 1.5, -1.5)}
"""
Where the polynomials are evaluated, besides infinity, by the outputs of a tile along an axis. As the transforms are products with a
matrix anyway, the points need not be small integers: 5/8 and 3/2 make F(4x4, 3x3) 4.7 times more accurate than the usual 1 and 2
(largest error over largest result with 128 channels: 1.9e-6 against 8.7e-6; direct, one chain of additions: 1.3e-6).
"""

_TAPS = 3


def transforms(tile: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`A^T[tile, n]`, `G[n, 3]`, `B^T[n, n]` with `n = tile + 2`, by interpolation at `POINTS` and infinity."""
    points = np.array(POINTS[tile])
    n = tile + _TAPS - 1
    a, g, b = np.zeros((tile, n)), np.zeros((n, _TAPS)), np.zeros((n, n))
    for k, point in enumerate(points):
        others = np.delete(points, k)
        a[:, k] = point ** np.arange(tile)
        g[k] = point ** np.arange(_TAPS) / np.prod(point - others)
        b[k, : n - 1] = np.poly(others)[::-1]
    a[-1, -1] = g[-1, -1] = 1
    b[-1] = np.poly(points)[::-1]
    return a, g, b


def transformed_filters(weights: np.ndarray, tile: int) -> np.ndarray:
    """`G g G^T` of `weights[oc, ic, 3, 3]` as `[(tile + 2)^2, ic, oc]`; computed in float64 and rounded once."""
    _, g, _ = transforms(tile)
    oc, ic = weights.shape[:2]
    columns = weights.transpose(2, 3, 1, 0).reshape(_TAPS * _TAPS, ic * oc).astype(np.float64)
    return (np.kron(g, g) @ columns).astype(weights.dtype).reshape(-1, ic, oc)


def winograd(
    low: Lowering, x: SSAValue, weights: np.ndarray, begin: tuple[Dim, Dim], out: tuple[Dim, Dim], tile: int
) -> SSAValue:
    """
    The convolution of `x[n, h, w, c]`, with `begin` zeros in front and as many behind as are needed, with `weights[oc, c, 3, 3]` and
    stride 1: `y[n, *out, oc]` from tiles of `tile` by `tile` outputs.
    """
    element = low.element(x)
    dtype = weights.dtype
    at, _, bt = (low.tensor_constant(matrix.astype(dtype), element) for matrix in transforms(tile))
    n = tile + _TAPS - 1
    batch, height, width, channels = low.shape(x)
    oc = weights.shape[0]
    rows, columns = ((extent + (tile - 1)) // tile for extent in out)
    reach = (rows * tile + (_TAPS - 1), columns * tile + (_TAPS - 1))
    end = (reach[0] - height - begin[0], reach[1] - width - begin[1])
    x = low.pad(x, [0, *begin, 0], [0, *end, 0], 0)

    # t[image, row, w, a, c] = sum_i B^T[a, i] x[image, tile * row + i, w, c]
    image, row, w, a, c, i = dims(6)
    t = contract(
        low, "pppppr", (bt, [a, i]), (x, [image, row * tile + i, w, c]),
        (batch, rows, reach[1], n, channels), [image, row, w, a, c],
    )  # fmt: skip
    # v[a, b, image, row, column, c] = sum_j B^T[b, j] t[image, row, tile * column + j, a, c]
    a, image, row, column, b, c, j = dims(7)
    v = contract(
        low, "ppppppr", (bt, [b, j]), (t, [image, row, column * tile + j, a, c]),
        (n, n, batch, rows, columns, channels), [a, b, image, row, column, c],
    )  # fmt: skip
    # m[place, p, oc] = sum_c v[place, p, c] u[place, c, oc]
    u = low.tensor_constant(transformed_filters(weights, tile), element)
    positions = batch * rows * columns
    v = low.reshape(v, (n * n, positions, channels))
    place, p, o, c = dims(4)
    m = contract(low, "pppr", (v, [place, p, c]), (u, [place, c, o]), (n * n, positions, oc), [place, p, o])
    m = low.reshape(m, (n, n, batch, rows, columns, oc))
    # s[image, row, i, column, b, o] = sum_a A^T[i, a] m[a, b, image, row, column, o]
    image, row, column, b, i, o, a = dims(7)
    s = contract(
        low, "ppppppr", (at, [i, a]), (m, [a, b, image, row, column, o]),
        (batch, rows, tile, columns, n, oc), [image, row, i, column, b, o],
    )  # fmt: skip
    # y[image, h, w, o] = sum_b A^T[w mod tile, b] s[image, h floordiv tile, h mod tile, w floordiv tile, b, o]
    image, h, w, o, b = dims(5)
    return contract(
        low, "ppppr", (at, [w % tile, b]), (s, [image, h // tile, h % tile, w // tile, b, o]),
        (batch, *out, oc), [image, h, w, o],
    )  # fmt: skip
