"""`absorb-slices`: random programs of slices, concatenations and pads mean the same at every stage after it."""

from math import prod

import numpy as np
import pytest

from stepwell.compat import new_context, parse_module
from stepwell.interpreter import interpret
from stepwell.pipelines import resolve_pipeline, run_pipeline
from stepwell.registry import DIALECTS
from stepwell.verification import verify_module

STAGES = (
    "form-kernels",
    "absorb-slices",
    "set-target{target=x86-64-v4},collapse-dims,assign-schedules,tile-and-fuse,vectorise,linalg-to-loops",
    "cse,dce,bufferize,lift-parallel,promote-scratch,cse,plan-memory",
)
ROWS = 5


class Program:
    """A random list of ops on tensors `? x W x C` or `5 x W x C`, as text."""

    def __init__(self, seed: int, dynamic: bool):
        self.rng = np.random.default_rng(seed)
        self.rows = "?" if dynamic else str(ROWS)
        self.dynamic = dynamic
        self.lines: list[str] = []
        self.values: list[tuple[str, int, int]] = []
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f"%v{self.count}"

    def type(self, w: int, c: int) -> str:
        return f"tensor<{self.rows}x{w}x{c}xf32>"

    def pick(self) -> tuple[str, int, int]:
        # Recent values more often, so that chains get long.
        back = min(len(self.values), 1 + int(self.rng.exponential(2)))
        return self.values[-back]

    def empty(self, w: int, c: int) -> str:
        name = self.name()
        self.lines.append(f"{name} = tensor.empty({'%n' if self.dynamic else ''}) : {self.type(w, c)}")
        return name

    def add(self, name: str, w: int, c: int) -> None:
        self.values.append((name, w, c))

    def elementwise(self) -> None:
        a, w, c = self.pick()
        same = [v for v, *shape in self.values if shape == [w, c]]
        b = same[int(self.rng.integers(len(same)))]
        e, r, t = self.empty(w, c), self.name(), self.type(w, c)
        maps = ", ".join(["affine_map<(d0, d1, d2) -> (d0, d1, d2)>"] * 3)
        self.lines.append(
            f"{r} = linalg.generic {{indexing_maps = [{maps}], iterator_types = "
            f'["parallel", "parallel", "parallel"]}} ins({a}, {b} : {t}, {t}) outs({e} : {t}) {{\n'
            f"^bb0(%p: f32, %q: f32, %o: f32):\n%s = arith.subf %p, %q : f32\n"
            f"%u = arith.addf %s, %one : f32\n%m = arith.addf %u, %p : f32\nlinalg.yield %m : f32\n}} -> {t}"
        )
        self.add(r, w, c)

    def sum(self) -> None:
        """A contraction over the channels, with a window of two columns where there are two."""
        a, w, c = self.pick()
        window = 2 if w > 1 else 1
        t, f, r = self.type(w - window + 1, 3), self.name(), self.name()
        e, k = self.empty(w - window + 1, 3), f"tensor<{window}x{c}x3xf32>"
        weights = self.name()
        self.lines.append(f"{weights} = arith.constant dense<2.0> : {k}")
        self.lines.append(f"{f} = linalg.fill ins(%one : f32) outs({e} : {t}) -> {t}")
        d = "(d0, d1, d2, d3, d4)"
        maps = f"affine_map<{d} -> (d0, d1 + d3, d4)>, affine_map<{d} -> (d3, d4, d2)>, affine_map<{d} -> (d0, d1, d2)>"
        kinds = '"parallel", "parallel", "parallel", "reduction", "reduction"'
        self.lines.append(
            f"{r} = linalg.generic {{indexing_maps = [{maps}], iterator_types = [{kinds}]}} "
            f"ins({a}, {weights} : {self.type(w, c)}, {k}) outs({f} : {t}) {{\n"
            f"^bb0(%p: f32, %q: f32, %o: f32):\n%s = arith.mulf %p, %q : f32\n%u = arith.addf %o, %s : f32\n"
            f"linalg.yield %u : f32\n}} -> {t}"
        )
        self.add(r, w - window + 1, 3)

    def concat(self) -> None:
        axis = int(self.rng.integers(1, 3))
        first = self.pick()
        fitting = [v for v in self.values if v[3 - axis] == first[3 - axis]]
        count = int(self.rng.integers(1, 4))
        self.join([first, *(fitting[int(self.rng.integers(len(fitting)))] for _ in range(count - 1))], axis)

    def join(self, pieces: list[tuple[str, int, int]], axis: int) -> None:
        w, c = pieces[0][1:]
        total = sum(p[axis] for p in pieces)
        w, c = (total, c) if axis == 1 else (w, total)
        current, at = self.empty(w, c), 0
        rows = "%n" if self.dynamic else str(ROWS)
        for piece, pw, pc in pieces:
            r = self.name()
            offsets = f"0, {at}, 0" if axis == 1 else f"0, 0, {at}"
            self.lines.append(
                f"{r} = tensor.insert_slice {piece} into {current}[{offsets}] [{rows}, {pw}, {pc}] [1, 1, 1] : "
                f"{self.type(pw, pc)} into {self.type(w, c)}"
            )
            current, at = r, at + (pw if axis == 1 else pc)
        self.add(current, w, c)

    def pad(self) -> None:
        a, w, c = self.pick()
        low, high = self.rng.integers(0, 3, 2), self.rng.integers(0, 2, 2)
        r = self.name()
        nw, nc = w + int(low[0] + high[0]), c + int(low[1] + high[1])
        self.lines.append(
            f"{r} = tensor.pad {a} low[0, {low[0]}, {low[1]}] high[0, {high[0]}, {high[1]}] {{\n"
            f"^bb0(%i: index, %j: index, %k: index):\ntensor.yield %border : f32\n}} : "
            f"{self.type(w, c)} to {self.type(nw, nc)}"
        )
        self.add(r, nw, nc)

    def slice(self) -> None:
        a, w, c = self.pick()
        steps = [int(s) for s in self.rng.integers(1, 3, 2)]
        begin = [int(self.rng.integers(0, e)) for e in (w, c)]
        sizes = [
            int(self.rng.integers(1, (e - b + s - 1) // s + 1))
            for e, b, s in zip((w, c), begin, steps, strict=True)
        ]
        rows, r = "%n" if self.dynamic else str(ROWS), self.name()
        self.lines.append(
            f"{r} = tensor.extract_slice {a}[0, {begin[0]}, {begin[1]}] [{rows}, {sizes[0]}, {sizes[1]}] "
            f"[1, {steps[0]}, {steps[1]}] : {self.type(w, c)} to {self.type(*sizes)}"
        )
        self.add(r, *sizes)

    def split(self) -> None:
        """The halves of the channels, to be concatenated again with what is made of them."""
        a, w, c = self.pick()
        if c < 2:
            return
        rows, half, at, parts = "%n" if self.dynamic else str(ROWS), c // 2, 0, []
        for size in (half, c - half):
            r = self.name()
            self.lines.append(
                f"{r} = tensor.extract_slice {a}[0, 0, {at}] [{rows}, {w}, {size}] [1, 1, 1] : "
                f"{self.type(w, c)} to {self.type(w, size)}"
            )
            self.add(r, w, size)
            parts.append(self.values[-1])
            at += size
        if self.rng.integers(2):
            self.elementwise()
            last = self.values[-1]
            parts += [last] if last[1] == w else []
        self.join(parts, 2)

    def spread(self) -> None:
        """Every other element of a filled tensor."""
        a, w, c = self.pick()
        if w > 5 or c > 12:
            return
        e, f, r = self.empty(2 * w, 2 * c), self.name(), self.name()
        t, rows = self.type(2 * w, 2 * c), "%n" if self.dynamic else str(ROWS)
        self.lines.append(f"{f} = linalg.fill ins(%one : f32) outs({e} : {t}) -> {t}")
        self.lines.append(
            f"{r} = tensor.insert_slice {a} into {f}[0, 1, 0] [{rows}, {w}, {c}] [1, 2, 2] : "
            f"{self.type(w, c)} into {t}"
        )
        self.add(r, 2 * w, 2 * c)

    def collapse(self) -> None:
        """Joined dims, a copy of that, and back: readers through views."""
        a, w, c = self.pick()
        flat, e, r, back = self.name(), self.name(), self.name(), self.name()
        t, f = self.type(w, c), f"tensor<{self.rows}x{w * c}xf32>"
        n = "%n" if self.dynamic else ""
        rows = "%n" if self.dynamic else str(ROWS)
        self.lines.append(f"{flat} = tensor.collapse_shape {a} [[0], [1, 2]] : {t} into {f}")
        self.lines.append(f"{e} = tensor.empty({n}) : {f}")
        maps = ", ".join(["affine_map<(d0, d1) -> (d0, d1)>"] * 2)
        self.lines.append(
            f'{r} = linalg.generic {{indexing_maps = [{maps}], iterator_types = ["parallel", "parallel"]}} '
            f"ins({flat} : {f}) outs({e} : {f}) {{\n^bb0(%p: f32, %o: f32):\n%s = arith.addf %p, %one : f32\n"
            f"linalg.yield %s : f32\n}} -> {f}"
        )
        self.lines.append(
            f"{back} = tensor.expand_shape {r} [[0], [1, 2]] output_shape [{rows}, {w}, {c}] : {f} into {t}"
        )
        self.add(back, w, c)

    def text(self, length: int) -> str:
        self.values = [("%x", 4, 3), ("%y", 4, 6)]
        makers = [
            *([self.elementwise] * 4), *([self.concat] * 3), *([self.pad] * 2), self.slice, self.sum, self.collapse, self.spread, self.split
        ]  # fmt: skip
        while len(self.values) < length + 2:
            maker = makers[int(self.rng.integers(len(makers)))]
            _, w, c = self.values[-1]
            if w * c > 500 and maker in (self.concat, self.pad):
                maker = self.slice
            maker()
        chosen = [self.values[-1], self.values[int(self.rng.integers(len(self.values)))]]
        types = ", ".join(self.type(w, c) for _, w, c in chosen)
        body = "\n".join(self.lines)
        n = f"%c0 = arith.constant 0 : index\n%n = tensor.dim %x, %c0 : {self.type(4, 3)}\n"
        return (
            f"func.func @main(%x: {self.type(4, 3)}, %y: {self.type(4, 6)}) -> ({types}) {{\n"
            f"%one = arith.constant 1.0 : f32\n%border = arith.constant 7.0 : f32\n{n if self.dynamic else ''}"
            f"{body}\nfunc.return {', '.join(v for v, *_ in chosen)} : {types}\n}}"
        )


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_random_programs_mean_the_same(seed, dynamic):
    text = Program(seed, dynamic).text(length=4 + seed % 7)
    ctx = new_context(DIALECTS)
    module = parse_module(ctx, text)
    verify_module(module)
    rng = np.random.default_rng(seed)
    inputs = [rng.integers(-3, 4, (ROWS, 4, c)).astype(np.float32) for c in (3, 6)]
    expected = interpret(module, inputs, ctx)
    for stage in STAGES:
        run_pipeline(ctx, module, resolve_pipeline(stage))
        verify_module(module)
        for got, want in zip(interpret(module, inputs, ctx), expected, strict=True):
            np.testing.assert_array_equal(got, want, err_msg=stage)
        if stage == "absorb-slices":
            main = next(f for f in module.body.block.ops if f.sym_name.data == "main")
            moving = ("tensor.pad", "tensor.extract_slice", "tensor.insert_slice")
            left = [op for op in main.walk() if op.name in moving]
            moved = [op.source if op.name == "tensor.insert_slice" else op.result for op in left]
            assert all(-1 < prod(value.type.get_shape()) <= 64 for value in moved)


@pytest.mark.parametrize("low, high", [(0, 1), (1, 0), (1, 1), (0, 0)])
def test_pads_of_an_unknown_extent(low, high):
    """The padded tensor has the producer's type, `?` for `?`, but not its extents."""
    text = f"""
func.func @main(%x: tensor<?x4xf32>, %n: index) -> tensor<?x4xf32> {{
  %zero = arith.constant 7.0 : f32
  %e = tensor.empty(%n) : tensor<?x4xf32>
  %0 = linalg.generic {{indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>, affine_map<(d0, d1) -> (d0, d1)>], iterator_types = ["parallel", "parallel"]}} ins(%x : tensor<?x4xf32>) outs(%e : tensor<?x4xf32>) {{
  ^bb0(%a: f32, %o: f32):
    %s = arith.negf %a : f32
    linalg.yield %s : f32
  }} -> tensor<?x4xf32>
  %1 = tensor.pad %0 low[{low}, 0] high[{high}, 0] {{
  ^bb0(%i: index, %j: index):
    tensor.yield %zero : f32
  }} : tensor<?x4xf32> to tensor<?x4xf32>
  func.return %1 : tensor<?x4xf32>
}}
"""
    ctx = new_context(DIALECTS)
    module = parse_module(ctx, text)
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    want = np.pad(-x, [(low, high), (0, 0)], constant_values=7.0)
    for stage in STAGES[:2]:
        run_pipeline(ctx, module, resolve_pipeline(stage))
        verify_module(module)
        np.testing.assert_array_equal(interpret(module, [x, np.int64(3)], ctx)[0], want)
