"""`det`: Gaussian elimination with partial pivoting, a matrix at a time."""

from typing import Any

from xdsl.dialects import tensor
from xdsl.dialects.builtin import f64
from xdsl.ir import SSAValue

from stepwell.conversion.graph_to_linalg.indexing import loop
from stepwell.conversion.graph_to_linalg.lowering import Lowering, lowers
from stepwell.conversion.graph_to_linalg.scalar import Body
from stepwell.dialects.graph.shape import product


# The determinant is the product of the pivots, and changes its sign with each exchange of rows. It is computed in f64.
@lowers("det")
def _det(low: Lowering, op: Any) -> SSAValue:
    x = low[op.operands[0]]
    *lead, _, size = low.shape(x)
    batch = product(lead)
    wide = low.map(lambda v: v.cast(f64), [x], low.shape(x), f64, widen=False)
    wide = low.reshape(wide, (batch, size, size))

    def read(matrix: SSAValue, b: SSAValue, row: SSAValue, column: SSAValue) -> SSAValue:
        return low.value(tensor.ExtractOp(matrix, [b, row, column], f64))

    def write(value: SSAValue, matrix: SSAValue, b: SSAValue, row: SSAValue, column: SSAValue) -> SSAValue:
        places = [b, row, column]
        return low.value(tensor.InsertOp.build(operands=[value, matrix, places], result_types=[matrix.type]))

    def one(b: SSAValue, outer: list[SSAValue]) -> list[SSAValue]:
        def eliminate(k: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
            matrix, product_of_pivots = carried
            build = Body(low.block, low, low.op)
            below = build.extent(size) - build.wrap(k)

            def larger(t: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
                best, row = carried
                build = Body(low.block, low, low.op)
                here = (build.wrap(k) + build.wrap(t)).value
                value = build.wrap(read(matrix, b, here, k)).absolute()
                better = value.above(build.wrap(best))
                chosen = build.select(better, build.wrap(here), build.wrap(row))
                return [build.select(better, value, build.wrap(best)).value, chosen.value]

            start = [low.constant(0.0, f64), k]
            _, pivot_row = loop(low, low.dim_of(below.value), start, larger)

            def exchange(j: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
                (matrix,) = carried
                upper, lower = read(matrix, b, k, j), read(matrix, b, pivot_row, j)
                matrix = write(lower, matrix, b, k, j)
                return [write(upper, matrix, b, pivot_row, j)]

            (matrix,) = loop(low, size, [matrix], exchange)
            pivot = read(matrix, b, k, k)

            def reduce_row(t: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
                build = Body(low.block, low, low.op)
                row = (build.wrap(k) + build.wrap(t) + 1).value
                # a column of zeros has nothing to take away
                divisor = build.wrap(pivot)
                zero = divisor.equals(0.0)
                quotient = build.wrap(read(carried[0], b, row, k)) / build.select(zero, 1.0, divisor)
                factor = build.select(zero, 0.0, quotient).value

                def subtract(s: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
                    (matrix,) = carried
                    build = Body(low.block, low, low.op)
                    column = (build.wrap(k) + build.wrap(s) + 1).value
                    upper = build.wrap(read(matrix, b, k, column))
                    left = build.wrap(read(matrix, b, row, column)) - build.wrap(factor) * upper
                    return [write(left.value, matrix, b, row, column)]

                return loop(low, low.dim_of(rest.value), carried, subtract)

            build = Body(low.block, low, low.op)
            rest = build.extent(size) - build.wrap(k) - 1
            (matrix,) = loop(low, low.dim_of(rest.value), [matrix], reduce_row)
            build = Body(low.block, low, low.op)
            moved = build.wrap(pivot_row).differs(build.wrap(k))
            signed = build.wrap(pivot)
            signed = build.select(moved, -signed, signed)
            return [matrix, (build.wrap(product_of_pivots) * signed).value]

        matrix, found = loop(low, size, [outer[0], low.constant(1.0, f64)], eliminate)
        result = tensor.InsertOp.build(operands=[found, outer[1], [b]], result_types=[outer[1].type])
        return [matrix, low.value(result)]

    _, values = loop(low, batch, [wide, low.empty((batch,), f64)], one)
    element = low.element(x)
    narrow = low.map(lambda v: v.cast(element), [values], (batch,), element, widen=False)
    return low.reshape(narrow, lead)
