"""Tiling and vectorising keep the meaning of a kernel, bit for bit on small integers, over shapes with tails."""

from dataclasses import dataclass, field, replace
from math import prod
from zlib import crc32

import numpy as np
import pytest
from xdsl.dialects.linalg.ops import GenericOp
from xdsl.dialects.vector import TransferReadOp

from stepwell.compat import new_context, parse_module
from stepwell.dialects.memref import CopyOp
from stepwell.dialects.scf import ForallOp
from stepwell.interpreter import interpret
from stepwell.pipelines import resolve_pipeline, run_pipeline
from stepwell.registry import DIALECTS
from stepwell.targets import add_target, resolve_target
from stepwell.verification import verify_module

PASSES = ("assign-schedules", "tile-and-fuse", "vectorise", "fuse-loops{always}", "loop-over-rows")
BUFFER_PASSES = (
    "linalg-to-loops", "bufferize", "lift-parallel", "promote-scratch", "plan-memory", "version-masked-tiles",
)  # fmt: skip
DTYPES = {
    "f32": np.float32,
    "i32": np.int32,
    "i64": np.int64,
    "i8": np.int8,
    "f64": np.float64,
    "i1": np.bool_,
}
ADD = "%v = arith.addf %a, %o : f32"
MULTIPLY_ADD = "%t = arith.mulf %a, %b : f32\n%v = arith.addf %o, %t : f32"


@dataclass
class Kernel:
    """Text of one kernel, built op by op; extents may be "?" (with the run-time extent in `shapes`)."""

    dynamic: bool | set[int] = False
    """Whether extents are unknown: all, none, or those that are in a set."""
    arguments: list[tuple[str, tuple[int, ...], str]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    count: int = 0

    def type(self, shape, element="f32") -> str:
        dims = ["?" if self.is_unknown(e) else str(e) for e in shape]
        return f"tensor<{'x'.join([*dims, element])}>"

    def is_unknown(self, extent) -> bool:
        return extent in self.dynamic if isinstance(self.dynamic, set) else self.dynamic

    def argument(self, shape, element="f32") -> tuple[str, tuple[int, ...], str]:
        self.arguments.append((f"%a{len(self.arguments)}", tuple(shape), element))
        return self.arguments[-1]

    def fill(self, out, value="0.0") -> tuple[str, tuple[int, ...], str]:
        name, shape, element = out
        self.count += 1
        type = self.type(shape, element)
        self.lines.append(f"%c{self.count} = arith.constant {value} : {element}")
        self.lines.append(
            f"%f{self.count} = linalg.fill ins(%c{self.count} : {element}) outs({name} : {type}) -> {type}"
        )
        return f"%f{self.count}", shape, element

    def empty(self, shape, *like, element="f32") -> tuple[str, tuple[int, ...], str]:
        """A temporary; its dynamic extents are those of axes of arguments: pairs of an argument and its axes."""
        self.count += 1
        sizes = []
        pairs = [(argument, axis) for argument, axes in filter(None, like) for axis in axes]
        for i, (argument, axis) in enumerate(pairs):
            if self.is_unknown(argument[1][axis]):
                self.lines.append(f"%i{self.count}_{i} = arith.constant {axis} : index")
                source = self.type(argument[1], argument[2])
                self.lines.append(
                    f"%d{self.count}_{i} = tensor.dim {argument[0]}, %i{self.count}_{i} : {source}"
                )
                sizes.append(f"%d{self.count}_{i}")
        self.lines.append(f"%e{self.count} = tensor.empty({', '.join(sizes)}) : {self.type(shape, element)}")
        return f"%e{self.count}", tuple(shape), element

    def generic(self, dims, maps, inputs, out, body, reductions=""):
        """`dims` such as "mnk"; `maps` one per operand; the body reads %a, %b, ... and %o, and yields %v."""
        self.count += 1
        names = ", ".join(dims)
        texts = ", ".join(f"affine_map<({names}) -> ({m})>" for m in maps)
        kinds = ", ".join('"reduction"' if d in reductions else '"parallel"' for d in dims)
        letters = "abcdefg"[: len(inputs)]
        arguments = ", ".join(
            f"%{letter}: {element}"
            for letter, (_, _, element) in zip([*letters, "o"], [*inputs, out], strict=True)
        )
        ins = ", ".join(i[0] for i in inputs) + " : " + ", ".join(self.type(i[1], i[2]) for i in inputs)
        type = self.type(out[1], out[2])
        self.lines.append(
            f"%r{self.count} = linalg.generic {{indexing_maps = [{texts}], iterator_types = [{kinds}]}}"
            f" {f'ins({ins})' if inputs else ''} outs({out[0]} : {type}) {{\n^bb0({arguments}):\n{body}\n"
            f"linalg.yield %v : {out[2]}\n}} -> {type}"
        )
        return f"%r{self.count}", out[1], out[2]

    def text(self, *results) -> str:
        arguments = ", ".join(f"{n}: {self.type(s, e)}" for n, s, e in self.arguments)
        types = ", ".join(self.type(r[1], r[2]) for r in results)
        return (
            f"func.func @main({arguments}) -> ({types}) attributes {{stepwell.kernel}} {{\n"
            + "\n".join(self.lines)
            + f"\nfunc.return {', '.join(r[0] for r in results)} : {types}\n}}"
        )


def check_buffers(ctx, kernel: Kernel, module, results, inputs, expected):
    """The vectors mean the same on buffers, launched tile by tile, and no kernel copies a buffer."""
    arguments = ", ".join(f"{n}: {kernel.type(s, e)}" for n, s, e in kernel.arguments)
    types = ", ".join(kernel.type(r[1], r[2]) for r in results)
    names = ", ".join(f"%r#{i}" for i in range(len(results))) if len(results) > 1 else "%r"
    operands = ", ".join(n for n, _, _ in kernel.arguments)
    operand_types = ", ".join(kernel.type(s, e) for _, s, e in kernel.arguments)
    counted = f"%r:{len(results)}" if len(results) > 1 else "%r"
    host = (
        f"func.func private @kernel({operand_types}) -> ({types})\n"
        f"func.func @main({arguments}) -> ({types}) {{\n"
        f"{counted} = func.call @kernel({operands}) : ({operand_types}) -> ({types})\n"
        f"func.return {names} : {types}\n}}"
    )
    both = parse_module(ctx, host)
    both.attributes.update(module.attributes)
    declaration = both.body.block.first_op
    assert declaration is not None
    copy = module.body.block.first_op.clone()
    copy.properties["sym_name"] = declaration.properties["sym_name"]
    copy.properties["sym_visibility"] = declaration.properties["sym_visibility"]
    both.body.block.insert_op_before(copy, declaration)
    declaration.detach()
    for name in BUFFER_PASSES:
        run_pipeline(ctx, both, resolve_pipeline(name))
        verify_module(both)
        if name == "bufferize":
            assert not any(isinstance(op, CopyOp) for op in copy.walk()), str(both)
        got = interpret(both, [x.copy() for x in inputs], ctx)
        for a, b in zip(expected, got, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"{name}\n{both}")


def check(kernel: Kernel, *results, target="x86-64-v4", left=0, foralls=1, buffers=False):
    """The kernel means the same after each pass; `left` linalg ops may remain. `buffers`: on buffers too."""
    rng = np.random.default_rng(len(kernel.lines))
    inputs = [rng.integers(-3, 4, s).astype(DTYPES[e]) for _, s, e in kernel.arguments]
    ctx = new_context(DIALECTS)
    module = parse_module(ctx, kernel.text(*results))
    verify_module(module)
    expected = interpret(module, [x.copy() for x in inputs], ctx)
    run_pipeline(ctx, module, resolve_pipeline(f"set-target{{target={target}}}"))
    for name in PASSES:
        run_pipeline(ctx, module, resolve_pipeline(name))
        verify_module(module)
        got = interpret(module, [x.copy() for x in inputs], ctx)
        for a, b in zip(expected, got, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"{name}\n{module}")
    if (
        buffers or crc32(kernel.text(*results).encode()) % 3 == 0
    ):  # a third of the kernels, to keep the suite quick
        check_buffers(ctx, kernel, module, results, inputs, expected)
    ops = list(module.walk())
    assert left is None or sum(isinstance(op, GenericOp) for op in ops) == left, module
    assert foralls is None or sum(isinstance(op, ForallOp) for op in ops) == foralls, module
    return module


def matmul(m, n, k, layout="kn", epilogue=False, dynamic=False):
    kernel = Kernel(dynamic)
    a = kernel.argument((k, m) if layout == "km" else (m, k))
    a_map = "k, m" if layout == "km" else "m, k"
    if layout == "nk":
        b, b_map = kernel.argument((n, k)), "n, k"
    elif layout.startswith("packed"):
        width = 48 if layout == "packed by 48" else 64
        b, b_map = kernel.argument((-(-n // width), k, width)), f"n floordiv {width}, k, n mod {width}"
    else:
        b, b_map = kernel.argument((k, n)), "k, n"
    bias = kernel.argument((n,)) if epilogue else None
    out = kernel.argument((m, n))
    start = kernel.fill(kernel.empty((m, n), (out, (0, 1))) if epilogue else out)
    h = kernel.generic("mnk", [a_map, b_map, "m, n"], [a, b], start, MULTIPLY_ADD, "k")
    if epilogue:
        body = "%s = arith.addf %a, %b : f32\n%z = arith.constant 0.0 : f32\n%v = arith.maximumf %s, %z : f32"
        h = kernel.generic("mn", ["m, n", "n", "m, n"], [h, bias], out, body)
    return kernel, h


@pytest.mark.parametrize("size", [(12, 64, 3), (25, 130, 4), (56, 32, 70), (14, 17, 5)])
@pytest.mark.parametrize("target", ["x86-64-v4", "x86-64-v3"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_function_behind_a_product(size, target, dynamic):
    """With what is read for each element, for each row and for each column; a tile's rows then go through it in a loop."""
    m, n, k = size
    kernel = Kernel(dynamic)
    a, b = kernel.argument((m, k)), kernel.argument((k, n))
    bias, factor, residual, out = (kernel.argument(s) for s in ((n,), (m,), (m, n), (m, n)))
    h = kernel.generic(
        "mnk", ["m, k", "k, n", "m, n"], [a, b], kernel.fill(kernel.empty((m, n), (out, (0, 1)))), MULTIPLY_ADD, "k"
    )  # fmt: skip
    body = (  # of a function what is exact everywhere
        "%s = arith.addf %a, %b : f32\n%z = arith.constant 0.0 : f32\n%y = arith.mulf %s, %z : f32\n"
        "%e = math.exp %y : f32\n%n = arith.cmpf olt, %s, %z : f32\n%f = arith.select %n, %e, %s : f32\n"
        "%g = arith.mulf %f, %c : f32\n%v = arith.addf %g, %d : f32"
    )
    y = kernel.generic("mn", ["m, n", "n", "m", "m, n", "m, n"], [h, bias, factor, residual], out, body)
    module = check(kernel, y, target=target, foralls=1, buffers=True)
    widest = max(prod(op.results[0].type.get_shape()) for op in module.walk() if op.name == "math.exp")
    assert widest <= 7 * (16 if target == "x86-64-v4" else 8)


SIZES = [(1, 64, 7), (7, 65, 5), (49, 128, 4), (13, 100, 6), (5, 33, 0), (2, 3, 70)]


@pytest.mark.parametrize("layout", ["kn", "km", "nk", "packed", "packed by 48"])
@pytest.mark.parametrize("size", [*SIZES, (19, 144, 9)])
def test_matmul(size, layout):
    for target in ("x86-64-v4", "x86-64-v3"):
        kernel, h = matmul(*size, layout, epilogue=size[0] % 2 == 1)
        check(kernel, h, target=target, foralls=None)


@pytest.mark.parametrize(
    "size", [(8, 24, 2), (49, 24, 32), (1, 24, 8), (13, 40, 70), (25, 12, 6), (3, 24, 66)]
)
@pytest.mark.parametrize("behind", ["nothing", "functions", "contents", "one number"])
def test_matmul_in_pairs_of_steps(size, behind):
    """Two steps of a sum side by side; with element-wise ops behind it, added to what the result holds, or of equal rows."""
    m, n, k = size
    kernel = Kernel()
    a, b = kernel.argument((m, k)), kernel.argument((1, k // 2, n, 2))
    bias, out = kernel.argument((n,)), kernel.argument((m, n))
    if behind == "one number":
        a = kernel.fill(kernel.empty((m, k)), "2.0")
    start = {"nothing": lambda: kernel.fill(out), "contents": lambda: out}.get(
        behind, lambda: kernel.fill(kernel.empty((m, n)))
    )()
    maps = ["m, k", f"n floordiv {n}, k floordiv 2, n mod {n}, k mod 2", "m, n"]
    h = kernel.generic("mnk", maps, [a, b], start, MULTIPLY_ADD, "k")
    if behind == "functions":
        body = "%s = arith.addf %a, %b : f32\n%z = arith.constant 0.0 : f32\n%v = arith.maximumf %s, %z : f32"
        h = kernel.generic("mn", ["m, n", "n", "m, n"], [h, bias], out, body)
    module = check(kernel, h, target="x86-64-v4" if n > 12 else "x86-64-v3", foralls=None, buffers=True)
    assert "vector.deinterleave" in str(module)


@pytest.mark.parametrize("layout", ["kn", "km", "nk"])
@pytest.mark.parametrize("size", [*SIZES, (0, 5, 3), (12, 0, 3)])
def test_matmul_of_unknown_extents(size, layout):
    kernel, h = matmul(*size, layout, epilogue=size[1] % 2 == 0, dynamic=True)
    check(kernel, h, foralls=1, buffers=True)


# Caches this small hold 16 rows of a panel, and few pixels.
add_target(replace(resolve_target("x86-64-v2"), name="small-caches", l1_bytes=1536, l2_bytes=16384))


@pytest.mark.parametrize("size", [(4, 4, 12), (1, 22, 11)])
def test_long_panels_are_walked_through_in_parts(size):
    oh, ow, ic = size
    kernel, oc = Kernel(), 64
    x, w = kernel.argument((oh + 2, ow + 1, ic)), kernel.argument((4, 3, 2, ic, 16))
    b, out = kernel.argument((oc,)), kernel.argument((oh, ow, oc))
    maps = ["h + p, w + q, i", "o floordiv 16, p, q, i, o mod 16", "h, w, o"]
    h = kernel.generic("hwopqi", maps, [x, w], kernel.fill(kernel.empty((oh, ow, oc))), MULTIPLY_ADD, "pqi")
    y = kernel.generic("hwo", ["h, w, o", "o", "h, w, o"], [h, b], out, "%v = arith.addf %a, %b : f32")
    module = check(kernel, y, target="small-caches")
    (forall,) = [op for op in module.walk() if isinstance(op, ForallOp)]
    assert len(forall.static_step) == 1, "a tile is all rows of a panel"


@pytest.mark.parametrize("size", [(2, 5, 17, 6), (3, 12, 64, 2), (1, 1, 40, 5)])
@pytest.mark.parametrize("transposed", [False, True])
def test_batched_matmul(size, transposed):
    b, m, n, k = size
    kernel = Kernel()
    x, y = kernel.argument((b, m, k)), kernel.argument((b, n, k) if transposed else (b, k, n))
    out = kernel.argument((b, m, n))
    maps = ["b, m, k", "b, n, k" if transposed else "b, k, n", "b, m, n"]
    check(kernel, kernel.generic("bmnk", maps, [x, y], kernel.fill(out), MULTIPLY_ADD, "k"), foralls=None)


@pytest.mark.parametrize("size", [(1, 70), (5, 16), (64, 40), (9, 3)])
@pytest.mark.parametrize("order", ["m, k", "k, m"])
def test_matrix_times_vector(size, order):
    m, k = size
    kernel = Kernel()
    x, y = kernel.argument((m, k) if order == "m, k" else (k, m)), kernel.argument((k,))
    out = kernel.argument((m,))
    check(
        kernel,
        kernel.generic("mk", [order, "k", "m"], [x, y], kernel.fill(out), MULTIPLY_ADD, "k"),
        foralls=None,
    )


def test_blocks_of_two_by_two_are_no_pairs_of_steps():
    """What is read at `h mod 2` and `w mod 2` by no sum, as a transform's result may be."""
    kernel = Kernel()
    x, out = kernel.argument((4, 5, 2, 2)), kernel.argument((8, 10))
    maps = ["h floordiv 2, w floordiv 2, h mod 2, w mod 2", "h, w"]
    y = kernel.generic("hw", maps, [x], out, "%v = arith.addf %a, %a : f32")
    module = check(kernel, y, left=None, foralls=None, buffers=True)
    assert "vector.deinterleave" not in str(module)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("size", [(1, 7, 7, 5, 64), (2, 4, 9, 3, 20), (1, 5, 14, 4, 130), (1, 1, 1, 8, 33)])
def test_convolution(size, stride, dilation):
    n, oh, ow, ic, oc = size
    height, width = (oh - 1) * stride + 2 * dilation + 1, (ow - 1) * stride + dilation + 1
    kernel = Kernel()
    x = kernel.argument((n, height, width, ic))
    w = kernel.argument((-(-oc // 64), 3, 2, ic, 64))
    b, out = kernel.argument((oc,)), kernel.argument((n, oh, ow, oc))
    maps = [
        f"n, h * {stride} + p * {dilation}, w * {stride} + q * {dilation}, i",
        "o floordiv 64, p, q, i, o mod 64",
        "n, h, w, o",
    ]
    start = kernel.fill(kernel.empty((n, oh, ow, oc)))
    h = kernel.generic("nhwopqi", maps, [x, w], start, MULTIPLY_ADD, "pqi")
    same = "n, h, w, o"
    y = kernel.generic("nhwo", [same, "o", same], [h, b], out, "%v = arith.addf %a, %b : f32")
    check(kernel, y, foralls=None)


@pytest.mark.parametrize("pixels", [28, 16])
def test_lines_of_pixels_and_tall_tiles(pixels):
    """Rows of pixels outside of panels of two registers, tiles of 14 rows or of what divides best."""
    kernel = Kernel()
    x, w = kernel.argument((8, pixels, 64)), kernel.argument((3, 64, 32))
    out = kernel.argument((8, pixels, 96))
    maps = ["h, w, i", "o floordiv 32, i, o mod 32", "h, w, o"]
    module = check(kernel, kernel.generic("hwoi", maps, [x, w], kernel.fill(out), MULTIPLY_ADD, "i"))
    (forall,) = (op for op in module.walk() if isinstance(op, ForallOp))
    steps = list(forall.static_step.get_values())
    assert steps[:2] == [1, 32] and (steps[2] > 8) == (pixels == 28), steps


@pytest.mark.parametrize("pixels", [4, 9])
def test_transform_of_lines_of_tiles(pixels):
    """As before a product of Winograd's: the result has the place in the tile outside, the loops have the lines."""
    kernel = Kernel()
    matrix, x = kernel.argument((6, 6)), kernel.argument((3, 4 * pixels + 2, 6, 80))
    out = kernel.argument((6, 6, 3, pixels, 80))
    maps = ["j, k", "y, x * 4 + k, i, c", "i, j, y, x, c"]
    check(kernel, kernel.generic("iyxjck", maps, [matrix, x], kernel.fill(out), MULTIPLY_ADD, "k"))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 7, 7, 32), (2, 3, 11, 20), (1, 2, 2, 144)])
@pytest.mark.parametrize("kind", ["depthwise", "max", "sum", "grouped"])
def test_windows(size, stride, kind):
    n, oh, ow, c = size
    kernel = Kernel()
    height, width = (oh - 1) * stride + 3, (ow - 1) * stride + 2
    window = f"n, h * {stride} + p, w * {stride} + q, c"
    if kind == "grouped":
        x, w = kernel.argument((n, height, width, 2, 3)), kernel.argument((2, 3, 2, 3, c))
        out = kernel.argument((n, oh, ow, 2, c))
        maps = [window.replace(", c", ", g, i"), "g, p, q, i, c", "n, h, w, g, c"]
        y = kernel.generic("nhwgcpqi", maps, [x, w], kernel.fill(out), MULTIPLY_ADD, "pqi")
        check(kernel, y, foralls=None)
        return
    x = kernel.argument((n, height, width, c))
    w = kernel.argument((3, 2, c))
    out = kernel.argument((n, oh, ow, c))
    if kind == "depthwise":
        y = kernel.generic(
            "nhwcpq", [window, "p, q, c", "n, h, w, c"], [x, w], kernel.fill(out), MULTIPLY_ADD, "pq"
        )
    else:
        shape = kernel.empty((3, 2))
        body = ADD if kind == "sum" else "%v = arith.maximumf %a, %o : f32"
        start = kernel.fill(out, "0.0" if kind == "sum" else "0xff800000")
        y = kernel.generic("nhwcpq", [window, "p, q", "n, h, w, c"], [x, shape], start, body, "pq")
    check(kernel, y, foralls=None)


@pytest.mark.parametrize(
    "case",
    [
        ((1, 8, 5, 22), 1, 4),
        ((2, 6, 5, 12), 2, 3),
        ((1, 8, 5, 22), 2, 1),  # nine lines of 11x22 do not stay in L2
        ((1, 7, 4, 16), 1, 1),  # no blocks of equal height
    ],
)
@pytest.mark.parametrize("epilogue", [False, True])
def test_lines_of_a_depthwise_convolution(case, epilogue):
    """Several lines of one register of channels before the next, where the lines that a window reads do not stay in L1."""
    (n, oh, ow, c), stride, lines = case
    kernel = Kernel()
    x = kernel.argument((n, (oh - 1) * stride + 3, (ow - 1) * stride + 3, c))
    w, b, out = kernel.argument((3, 3, c)), kernel.argument((c,)), kernel.argument((n, oh, ow, c))
    maps = [f"n, h * {stride} + p, w * {stride} + q, c", "p, q, c", "n, h, w, c"]
    sums = kernel.fill(kernel.empty((n, oh, ow, c)) if epilogue else out)
    y = kernel.generic("nhwcpq", maps, [x, w], sums, MULTIPLY_ADD, "pq")
    if epilogue:
        maps = ["n, h, w, c", "c", "n, h, w, c"]
        y = kernel.generic("nhwc", maps, [y, b], out, "%v = arith.addf %a, %b : f32")
    module = check(kernel, y, target="small-caches", buffers=True)
    (forall,) = [op for op in module.walk() if isinstance(op, ForallOp)]
    assert forall.static_step.get_values()[-2] == lines, module


@pytest.mark.parametrize("shape", [(3, 5), (1, 1000), (100, 130), (7, 1)])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("second", ["m, n", "n", "m", "n, m", ""])
def test_elementwise(shape, dynamic, second):
    extents = {"m": shape[0], "n": shape[1]}
    kernel = Kernel(dynamic)
    x = kernel.argument(shape)
    y = kernel.argument([extents[d] for d in second.split(", ") if d])
    out = kernel.argument(shape)
    body = "%s = arith.mulf %a, %b : f32\n%v = arith.addf %s, %a : f32"
    check(kernel, kernel.generic("mn", ["m, n", second, "m, n"], [x, y], out, body), foralls=None)


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (1, 1), (9, 200)])
def test_elementwise_of_empty_and_single_extents(shape):
    kernel = Kernel(dynamic=True)
    x, out = kernel.argument(shape), kernel.argument(shape)
    body = "%v = arith.addf %a, %a : f32"
    check(kernel, kernel.generic("mn", ["m, n", "m, n"], [x], out, body))


@pytest.mark.parametrize("element", ["i8", "i32", "i64", "f64"])
def test_element_types(element):
    kernel = Kernel()
    x, out = kernel.argument((5, 77), element), kernel.argument((5, 77), element)
    kind = "f" if element[0] == "f" else "i"
    body = f"%s = arith.mul{kind} %a, %a : {element}\n%v = arith.add{kind} %s, %a : {element}"
    check(kernel, kernel.generic("mn", ["m, n", "m, n"], [x], out, body), foralls=None)


def test_comparison_and_choice():
    kernel = Kernel()
    x, y = kernel.argument((6, 100)), kernel.argument((6,))
    out = kernel.argument((6, 100))
    body = "%s = arith.cmpf ogt, %a, %b : f32\n%v = arith.select %s, %a, %b : f32"
    check(kernel, kernel.generic("mn", ["m, n", "m", "m, n"], [x, y], out, body), foralls=None)


def test_narrow_integers_are_multiplied_wide():
    kernel = Kernel()
    x, y, out = (
        kernel.argument((7, 20), "i8"),
        kernel.argument((20, 70), "i8"),
        kernel.argument((7, 70), "i32"),
    )
    body = (
        "%p = arith.extsi %a : i8 to i32\n%q = arith.extsi %b : i8 to i32\n"
        "%t = arith.muli %p, %q : i32\n%v = arith.addi %o, %t : i32"
    )
    check(kernel, kernel.generic("mnk", ["m, k", "k, n", "m, n"], [x, y], kernel.fill(out, "0"), body, "k"))


@pytest.mark.parametrize("shape", [(5, 7), (20, 100), (1, 130), (300, 2)])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("kind", ["add", "max"])
def test_reduction(shape, dynamic, axis, kind):
    kernel = Kernel(dynamic)
    kept = "nm"[axis]
    x, out = kernel.argument(shape), kernel.argument((shape[1 - axis],))
    body = ADD if kind == "add" else "%v = arith.maximumf %a, %o : f32"
    start = kernel.fill(out, "0.0" if kind == "add" else "0xff800000")
    dims = kept + "mn"[axis]
    check(kernel, kernel.generic(dims, ["m, n", kept], [x], start, body, "mn"[axis]), foralls=None)


@pytest.mark.parametrize("shape", [(5, 7), (1, 64), (20, 100)])
def test_reduction_to_one_number(shape):
    kernel = Kernel()
    x, out = kernel.argument(shape), kernel.argument(())
    check(kernel, kernel.generic("mn", ["m, n", ""], [x], kernel.fill(out), ADD, "mn"), foralls=0)


def test_accumulation_into_contents():
    kernel, _ = Kernel(), None
    x, y, out = kernel.argument((7, 5)), kernel.argument((5, 64)), kernel.argument((7, 64))
    check(kernel, kernel.generic("mnk", ["m, k", "k, n", "m, n"], [x, y], out, MULTIPLY_ADD, "k"))


@pytest.mark.parametrize("shape", [(2, 3, 5), (1, 4, 64), (3, 2, 100), (2, 70, 1)])
@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("dynamic", [False, True])
def test_row_kernel(shape, axis, dynamic):
    """Two reductions and what depends on them, along the rows or across them."""
    kernel = Kernel(dynamic)
    x, out = kernel.argument(shape), kernel.argument(shape)
    dims = "abc"
    kept = [d for i, d in enumerate(dims) if i != axis]
    extents = [e for i, e in enumerate(shape) if i != axis]
    axes = tuple(i for i in range(3) if i != axis)
    all_dims, rows, inner = ", ".join(dims), ", ".join(kept), dims[axis]
    order = [*kept, inner]
    largest = kernel.generic(
        order, [all_dims, rows], [x], kernel.fill(kernel.empty(extents, (x, axes)), "0xff800000"),
        "%v = arith.maximumf %a, %o : f32", inner,
    )  # fmt: skip
    shifted = kernel.generic(
        dims, [all_dims, rows, all_dims], [x, largest], kernel.empty(shape, (x, (0, 1, 2))),
        "%s = arith.subf %a, %b : f32\n%v = arith.mulf %s, %s : f32",
    )  # fmt: skip
    total = kernel.generic(
        order, [all_dims, rows], [shifted], kernel.fill(kernel.empty(extents, (x, axes))), ADD, inner
    )
    y = kernel.generic(
        dims, [all_dims, rows, all_dims], [shifted, total], out, "%v = arith.subf %a, %b : f32"
    )
    check(kernel, y, foralls=None)


@pytest.mark.parametrize("unknown_rows", [False, True])
@pytest.mark.parametrize("epilogue", [False, True])
@pytest.mark.parametrize("size", [(13, 5, 70, 20), (3, 4, 64, 100), (25, 2, 130, 8)])
def test_attention(size, epilogue, unknown_rows):
    """Two contractions with rows between: the first runs in loops of its own, what follows it in the same registers."""
    rows, depth, keys, width = size
    kernel = Kernel({rows} if unknown_rows else False)
    q, k, v = (kernel.argument(s) for s in ((rows, depth), (depth, keys), (keys, width)))
    mask = kernel.argument((1, keys)) if epilogue else None
    out = kernel.argument((rows, width))
    wide = [(q, (0,)), (k, (1,))]

    def scratch():
        return kernel.empty((rows, keys), *wide)

    scores = kernel.generic(
        "mnk", ["m, k", "k, n", "m, n"], [q, k], kernel.fill(scratch()), MULTIPLY_ADD, "k"
    )
    if epilogue:
        body = "%s = arith.addf %a, %a : f32\n%v = arith.addf %s, %b : f32"
        scores = kernel.generic("mn", ["m, n", "0, n", "m, n"], [scores, mask], scratch(), body)
    low = kernel.fill(kernel.empty((rows,), (q, (0,))), "0xff800000")
    largest = kernel.generic("mn", ["m, n", "m"], [scores], low, "%v = arith.maximumf %a, %o : f32", "n")
    body = "%s = arith.subf %a, %b : f32\n%v = arith.mulf %s, %s : f32"
    powers = kernel.generic("mn", ["m, n", "m", "m, n"], [scores, largest], scratch(), body)
    total = kernel.generic(
        "mn", ["m, n", "m"], [powers], kernel.fill(kernel.empty((rows,), (q, (0,)))), ADD, "n"
    )
    sums = kernel.fill(kernel.empty((rows, width), (q, (0,)), (v, (1,))))
    y = kernel.generic("mnk", ["m, k", "k, n", "m, n"], [powers, v], sums, MULTIPLY_ADD, "k")
    y = kernel.generic("mn", ["m, n", "m", "m, n"], [y, total], out, "%v = arith.subf %a, %b : f32")
    module = check(kernel, y, foralls=None)
    if rows > 8 and keys > 64:
        buffers = {op.results[0].type.get_shape()[-1] for op in module.walk() if op.name == "tensor.empty"}
        assert -(-keys // 16) * 16 in buffers, "rows of the scores begin at cache lines"
        assert keys not in buffers, "what is made of the scores overwrites them"


def inverted_residual(size, stride, pads, taps, epilogue, pairs=False) -> tuple[Kernel, tuple]:
    """
    `project(window(pad(expand(x))))`; `pads`: low and high, of rows and of columns; `taps`: in each direction, of expand, which goes in
    steps of 2 if they are many and is left out if there are none; `pairs`: the weights of project lie in pairs of steps.
    """
    height, width, narrow, channels, columns = size
    kernel = Kernel()
    wide = (1, height, width, channels)
    by = 2 if taps > 1 else 1
    pixels = (by * (height - 1) + taps, by * (width - 1) + taps)
    x = kernel.argument((1, *pixels, narrow) if taps else wide)
    if taps:
        w0, b0 = kernel.argument((taps, taps, narrow, channels)), kernel.argument((channels,))
        sums = kernel.fill(kernel.empty(wide))
        maps = [f"n, {by} * h + i, {by} * w + j, k", "i, j, k, c", "n, h, w, c"]
        x = kernel.generic("nhwcijk", maps, [x, w0], sums, MULTIPLY_ADD, reductions="ijk")
        maps = ["n, h, w, c", "c", "n, h, w, c"]
        x = kernel.generic("nhwc", maps, [x, b0], kernel.empty(wide), "%v = arith.addf %a, %b : f32")
    if any(pads):
        low, high = pads
        padded = (1, height + low + high, width + low + high, channels)
        kernel.lines.append("%pad = arith.constant 7.0 : f32")  # not what the product makes of zeros
        kernel.lines.append(
            f"%padded = tensor.pad {x[0]} low[0, {low}, {low}, 0] high[0, {high}, {high}, 0] {{\n"
            "^bb0(%p0: index, %p1: index, %p2: index, %p3: index):\ntensor.yield %pad : f32\n"
            f"}} : {kernel.type(wide)} to {kernel.type(padded)}"
        )
        x = ("%padded", padded, "f32")
    pixels = tuple((extent - 3) // stride + 1 for extent in x[1][1:3])
    w1 = kernel.argument((3, 3, channels))
    maps = [f"n, {stride} * h + i, {stride} * w + j, c", "i, j, c", "n, h, w, c"]
    sums = kernel.fill(kernel.empty((1, *pixels, channels)))
    y = kernel.generic("nhwcij", maps, [x, w1], sums, MULTIPLY_ADD, reductions="ij")
    if epilogue:
        maps, out = ["n, h, w, c", "n, h, w, c"], kernel.empty((1, *pixels, channels))
        y = kernel.generic("nhwc", maps, [y], out, "%v = arith.addf %a, %a : f32")
    w2 = kernel.argument((1, channels // 2, columns, 2) if pairs else (channels, columns))
    rest = kernel.argument((1, *pixels, columns)) if epilogue else None
    out = kernel.argument((1, *pixels, columns))
    sums = kernel.fill(kernel.empty(out[1]) if epilogue else out)
    panel = f"c floordiv {columns}, k floordiv 2, c mod {columns}, k mod 2" if pairs else "k, c"
    y = kernel.generic(
        "nhwck", ["n, h, w, k", panel, "n, h, w, c"], [y, w2], sums, MULTIPLY_ADD, reductions="k"
    )
    if epilogue:
        maps = ["n, h, w, c"] * 3
        y = kernel.generic("nhwc", maps, [y, rest], out, "%v = arith.addf %a, %b : f32")
    return kernel, y


@pytest.mark.parametrize("target", ["x86-64-v4", "small-caches"])
@pytest.mark.parametrize("taps", [0, 1, 3])
@pytest.mark.parametrize(
    "case",
    [
        ((8, 9, 5, 32, 20), 1, (1, 1), True),
        ((12, 11, 3, 40, 70), 1, (1, 1), False),
        ((17, 9, 4, 24, 16), 2, (0, 1), True),
        ((9, 19, 2, 16, 33), 2, (1, 1), True),
        ((10, 8, 3, 20, 8), 1, (0, 0), False),
    ],
)
def test_depthwise_between_products(case, taps, target):
    """
    Blocks of rows of pixels: a padded buffer of a panel of channels, of a convolution of `taps` in each direction if there is one,
    all channels of the window, the product.
    """
    size, stride, pads, epilogue = case
    kernel, y = inverted_residual(size, stride, pads if taps else (0, 0), taps, epilogue)
    module = check(kernel, y, foralls=1, target=target)
    if taps and any(pads):
        assert "tensor.pad" not in str(module), "the border is filled in the tile"


@pytest.mark.parametrize("taps", [0, 1])
@pytest.mark.parametrize("case", [((8, 9, 5, 32, 24), 1, True), ((17, 9, 4, 24, 40), 2, False)])
def test_a_product_in_pairs_behind_a_depthwise_convolution(case, taps):
    size, stride, epilogue = case
    kernel, y = inverted_residual(size, stride, (1, 1) if taps else (0, 0), taps, epilogue, pairs=True)
    module = check(kernel, y, foralls=1, buffers=True)
    assert "vector.deinterleave" in str(module)


def test_two_results():
    """A statistic that leaves the kernel beside the result that reads it."""
    kernel = Kernel()
    x, mean, out = kernel.argument((9, 100)), kernel.argument((9,)), kernel.argument((9, 100))
    total = kernel.generic("mn", ["m, n", "m"], [x], kernel.fill(mean), ADD, "n")
    y = kernel.generic("mn", ["m, n", "m", "m, n"], [x, total], out, "%v = arith.subf %a, %b : f32")
    check(kernel, total, y)


def test_unrelated_results_of_equal_rows():
    kernel = Kernel()
    x, first, second = kernel.argument((9, 100)), kernel.argument((9,)), kernel.argument((9,))
    a = kernel.generic("mn", ["m, n", "m"], [x], kernel.fill(first), ADD, "n")
    body = "%v = arith.maximumf %a, %o : f32"
    b = kernel.generic("mn", ["m, n", "m"], [x], kernel.fill(second, "0xff800000"), body, "n")
    check(kernel, a, b, foralls=None)


def test_rows_by_computed_index():
    """An embedding: the row is computed, the columns run along vectors."""
    kernel = Kernel()
    table, ids, out = kernel.argument((4, 100)), kernel.argument((3,), "i64"), kernel.argument((3, 100))
    body = (
        "%n = linalg.index 1 : index\n%c = arith.constant 3 : i64\n%m = arith.andi %a, %c : i64\n"
        f"%i = arith.index_cast %m : i64 to index\n%v = tensor.extract {table[0]}[%i, %n] : tensor<4x100xf32>"
    )
    module = check(kernel, kernel.generic("mn", ["m", "m, n"], [ids], out, body), foralls=None)
    assert any(isinstance(op, TransferReadOp) for op in module.walk())


def test_elements_by_computed_index_stay_scalar():
    kernel = Kernel()
    table, ids, out = kernel.argument((4,)), kernel.argument((3, 100), "i64"), kernel.argument((3, 100))
    body = (
        "%c = arith.constant 3 : i64\n%m = arith.andi %a, %c : i64\n"
        f"%i = arith.index_cast %m : i64 to index\n%v = tensor.extract {table[0]}[%i] : tensor<4xf32>"
    )
    check(kernel, kernel.generic("mn", ["m, n", "m, n"], [ids], out, body), left=1, foralls=None)


@pytest.mark.parametrize("shape", [(3, 5), (40, 200)])
def test_index_values(shape):
    kernel = Kernel()
    out = kernel.argument(shape, "i64")
    body = (
        "%m = linalg.index 0 : index\n%n = linalg.index 1 : index\n%s = arith.muli %m, %n : index\n"
        "%t = arith.addi %s, %n : index\n%v = arith.index_cast %t : index to i64"
    )
    check(kernel, kernel.generic("mn", ["m, n"], [], out, body), foralls=None)


@pytest.mark.parametrize("size", [(2, 5, 7, 20), (1, 3, 3, 3)])
def test_padding_as_a_choice(size):
    """A pad of the inner dims: a clamped read and a choice, the channels along vectors."""
    n, h, w, c = size
    kernel = Kernel()
    x, out = kernel.argument(size), kernel.argument((n, h + 2, w + 2, c))
    body = f"""
      %n = linalg.index 0 : index
      %h = linalg.index 1 : index
      %w = linalg.index 2 : index
      %c = linalg.index 3 : index
      %one = arith.constant 1 : index
      %zero = arith.constant 0 : index
      %hh = arith.subi %h, %one : index
      %ww = arith.subi %w, %one : index
      %hm = arith.constant {h} : index
      %wm = arith.constant {w} : index
      %hl = arith.constant {h - 1} : index
      %wl = arith.constant {w - 1} : index
      %ok1 = arith.cmpi ult, %hh, %hm : index
      %ok2 = arith.cmpi ult, %ww, %wm : index
      %ok = arith.andi %ok1, %ok2 : i1
      %h0 = arith.maxsi %hh, %zero : index
      %w0 = arith.maxsi %ww, %zero : index
      %h1 = arith.minsi %h0, %hl : index
      %w1 = arith.minsi %w0, %wl : index
      %e = tensor.extract {x[0]}[%n, %h1, %w1, %c] : {kernel.type(size)}
      %pad = arith.constant 7.0 : f32
      %v = arith.select %ok, %e, %pad : f32"""
    check(kernel, kernel.generic("nhwc", ["n, h, w, c"], [], out, body), foralls=None)


def test_fill_alone():
    kernel = Kernel()
    out = kernel.argument((70, 130))
    check(kernel, kernel.fill(out, "2.0"))


def test_reversed_axis():
    kernel = Kernel()
    x, out = kernel.argument((9, 100)), kernel.argument((9, 100))
    body = "%v = arith.addf %a, %a : f32"
    check(kernel, kernel.generic("mn", ["8 - m, n", "m, n"], [x], out, body), foralls=None)


def test_arg_max_keeps_its_scalar_form():
    kernel = Kernel()
    x, best, where = kernel.argument((4, 30)), kernel.argument((4,)), kernel.argument((4,), "i64")
    a, b = kernel.fill(best, "0xff800000"), kernel.fill(where, "0")
    kernel.lines.append(f"""
  %r:2 = linalg.generic {{indexing_maps = [affine_map<(m, n) -> (m, n)>, affine_map<(m, n) -> (m)>,
      affine_map<(m, n) -> (m)>], iterator_types = ["parallel", "reduction"]}} ins({x[0]} : tensor<4x30xf32>)
      outs({a[0]}, {b[0]} : tensor<4xf32>, tensor<4xi64>) {{
  ^bb0(%v: f32, %o: f32, %p: i64):
    %i = linalg.index 1 : index
    %j = arith.index_cast %i : index to i64
    %g = arith.cmpf ogt, %v, %o : f32
    %s = arith.select %g, %v, %o : f32
    %t = arith.select %g, %j, %p : i64
    linalg.yield %s, %t : f32, i64
  }} -> (tensor<4xf32>, tensor<4xi64>)""")
    check(kernel, ("%r#0", (4,), "f32"), ("%r#1", (4,), "i64"), left=1, foralls=None)


def test_strict_arithmetic_has_no_fused_multiply_add():
    kernel, h = matmul(6, 64, 3)
    ctx = new_context(DIALECTS)
    module = parse_module(ctx, kernel.text(h))
    text = "set-target{target=x86-64-v4 fp=strict},assign-schedules,tile-and-fuse,vectorise"
    run_pipeline(ctx, module, resolve_pipeline(text))
    names = [op.name for op in module.walk()]
    assert "vector.fma" not in names and "arith.mulf" in names


@pytest.mark.parametrize("shape", [(16, 16), (40, 100), (3, 70), (70, 3), (2, 2), (1, 9)])
@pytest.mark.parametrize("element", ["f32", "i8", "f64"])
@pytest.mark.parametrize("target", ["x86-64-v4", "x86-64-v3"])
def test_transposed_blocks_are_turned_in_registers(shape, element, target):
    """The same numbers after the block has become one-dimensional shuffles."""
    kernel = Kernel()
    x, out = kernel.argument(shape[::-1], element), kernel.argument(shape, element)
    kind = "f" if element[0] == "f" else "i"
    body = f"%v = arith.add{kind} %a, %a : {element}"
    y = kernel.generic("mn", ["n, m", "m, n"], [x], out, body)
    check(kernel, y, target=target, foralls=None)
    ctx = new_context(DIALECTS)
    module = parse_module(ctx, kernel.text(y))
    text = f"set-target{{target={target}}},assign-schedules,tile-and-fuse,vectorise,bufferize,unroll-vectors"
    run_pipeline(ctx, module, resolve_pipeline(text))
    verify_module(module)
    source = np.arange(shape[0] * shape[1]).reshape(shape[::-1]).astype(DTYPES[element])
    result = np.zeros(shape, DTYPES[element])
    interpret(module, [source, result], ctx)
    np.testing.assert_array_equal(result, (source + source).T)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 3, 7, 7), (2, 5, 4, 33)])
def test_windows_with_channels_outside(stride, size):
    n, c, h, w = size
    kernel = Kernel()
    x, out = kernel.argument((n, c, (h - 1) * stride + 3, (w - 1) * stride + 2)), kernel.argument(size)
    window = f"n, c, h * {stride} + p, w * {stride} + q"
    start = kernel.fill(out, "0xff800000")
    body = "%v = arith.maximumf %a, %o : f32"
    maps = [window, "p, q", "n, c, h, w"]
    check(
        kernel,
        kernel.generic("nchwpq", maps, [x, kernel.empty((3, 2))], start, body, "pq"),
        foralls=None,
    )


@pytest.mark.parametrize("size", [(1, 20, 5, 33), (2, 3, 4, 1), (1, 64, 7, 7)])
def test_result_in_another_order_than_its_inputs(size):
    n, c, h, w = size
    kernel = Kernel()
    x, y, b = kernel.argument((n, h, w, c)), kernel.argument((n, h, w, c)), kernel.argument((c,))
    out = kernel.argument(size)
    body = "%s = arith.addf %a, %b : f32\n%v = arith.mulf %s, %c : f32"
    maps = ["n, h, w, c", "n, h, w, c", "c", "n, c, h, w"]
    check(kernel, kernel.generic("nchw", maps, [x, y, b], out, body), foralls=None)
