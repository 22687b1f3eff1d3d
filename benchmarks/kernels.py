"""Kernels against their peers: one small model a layer shape, compiled by us and run by onnxruntime, in turns.

    python benchmarks/kernels.py                 every case
    python benchmarks/kernels.py gemm softmax    cases whose name contains one of the words

For each case: microseconds of one call of ours from Python (the lowest over many short windows), what its kernels reach inside
of the library (compute-bound cases), and onnxruntime's time over ours (the median over windows of both, whole calls). The rate
of the kernels is given in per cent of two loops that run in turns with them, medians of equally long stretches: of
multiply-adds alone, the peak, and of multiply-adds with the loads of a register tile, all from L1, which no product can pass.
Convolutions are chains, so that the change of layout at a model's border does not count. One thread.
"""

import argparse
import ctypes
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import stepwell

_WINDOW_SECONDS = 0.002
"""Short, so that both sides see the same disturbances; times are of the thread's own CPU."""
_RANDOM = np.random.default_rng(0)


@dataclass
class Case:
    """A model, its inputs, and the floating-point operations of one run (0: bound by memory)."""

    name: str
    model: onnx.ModelProto
    inputs: dict[str, np.ndarray]
    flops: float = 0.0


class _Graph:
    """A model in the making: `op` adds a node and gives its result's name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, *shape: int) -> str:
        return self.constant(_RANDOM.standard_normal(shape, np.float32) / np.sqrt(shape[-1]))

    def constant(self, values: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{len(self.weights)}"))
        return self.weights[-1].name

    def op(self, kind: str, *inputs: str, **attributes) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def case(self, name: str, inputs: dict[str, tuple], result: str, flops=0.0, dynamic=()) -> Case:
        """`dynamic`: the extents that the model leaves unknown."""
        arrays = {k: _RANDOM.standard_normal(s, np.float32) for k, s in inputs.items()}
        types = [
            helper.make_tensor_value_info(k, TensorProto.FLOAT, [f"d{e}" if e in dynamic else e for e in s])
            for k, s in inputs.items()
        ]
        out = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "kernel", types, [out], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return Case(name, onnx.shape_inference.infer_shapes(model), arrays, flops)


def _gemm(m: int, k: int, n: int, dynamic: bool = False) -> Case:
    g = _Graph()
    r = g.op("Add", g.op("MatMul", "x", g.weight(k, n)), g.weight(n))
    name = f"gemm {m}x{k}x{n}{' dynamic' if dynamic else ''}"
    return g.case(name, {"x": (m, k)}, r, 2.0 * m * n * k, (m,) if dynamic else ())


def _batched(b: int, m: int, k: int, n: int, dynamic: bool = False, transposed: bool = False) -> Case:
    g = _Graph()
    y, shape = "y", (b, k, n)
    if transposed:
        y, shape = g.op("Transpose", "y", perm=[0, 2, 1]), (b, n, k)
    name = f"batched gemm {b}x{m}x{k}x{n}{' NT' if transposed else ''}{' dynamic' if dynamic else ''}"
    r = g.op("MatMul", "x", y)
    axes = (b, m) if dynamic else ()
    return g.case(name, {"x": (b, m, k), "y": shape}, r, 2.0 * b * m * n * k, axes)


def _conv(
    size: int, channels: tuple[int, ...], kernel: int = 3, stride: int = 1, groups: int = 1, dynamic=False
) -> Case:
    g = _Graph()
    value, flops, extent = "x", 0.0, size
    for c, oc in pairwise(channels):
        group = c if groups == 0 else groups
        w = g.weight(oc, c // group, kernel, kernel)
        value = g.op("Conv", value, w, kernel_shape=[kernel] * 2, strides=[stride] * 2, group=group, pads=[kernel // 2] * 4)  # fmt: skip
        value = g.op("Relu", value)
        extent = (extent + 2 * (kernel // 2) - kernel) // stride + 1
        flops += 2.0 * extent * extent * oc * (c // group) * kernel * kernel
    kind = "depthwise" if groups == 0 else "conv"
    name = f"{kind} {kernel}x{kernel} s{stride} {'-'.join(map(str, channels))}@{size}{' dynamic' if dynamic else ''}"
    return g.case(name, {"x": (1, channels[0], size, size)}, value, flops, (size,) if dynamic else ())


def _pool(kind: str, size: int, channels: int, kernel: int, stride: int) -> Case:
    g = _Graph()
    # The convolutions around it keep the layout that it has inside a network; they are the same for the peer.
    v = g.op("Conv", "x", g.weight(channels, 1, 1, 1), group=channels, kernel_shape=[1, 1])
    v = g.op(kind, v, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[kernel // 2] * 4)
    return g.case(
        f"{kind} {kernel}x{kernel} s{stride} {channels}@{size}", {"x": (1, channels, size, size)}, v
    )


def _unary(kind: str, *shape: int, dynamic=(), **attributes) -> Case:
    g = _Graph()
    name = f"{kind} {'x'.join(map(str, shape))}{' dynamic' if dynamic else ''}"
    return g.case(name, {"x": shape}, g.op(kind, "x", **attributes), 0.0, dynamic)


def _layer_norm(rows: int, width: int, dynamic=()) -> Case:
    g = _Graph()
    r = g.op("LayerNormalization", "x", g.weight(width), g.weight(width), axis=-1)
    return g.case(f"layernorm {rows}x{width}{' dynamic' if dynamic else ''}", {"x": (rows, width)}, r, 0.0, dynamic)  # fmt: skip


def _cases() -> Iterator[Case]:
    for m, k, n in [(128, 128, 128), (256, 256, 256), (512, 512, 512), (1024, 1024, 1024), (128, 768, 768), (128, 768, 3072), (384, 512, 64), (3136, 64, 256), (196, 1024, 256), (49, 2048, 512), (100, 100, 100), (8, 512, 512), (1, 768, 768), (1, 2048, 1000)]:  # fmt: skip
        yield _gemm(m, k, n)
    for m, k, n in [(128, 768, 768), (40, 384, 1536), (7, 384, 384), (1, 512, 512)]:
        yield _gemm(m, k, n, dynamic=True)
    yield _batched(12, 128, 64, 128)
    yield _batched(12, 128, 64, 128, dynamic=True)
    yield _batched(12, 128, 128, 64)
    yield _batched(12, 128, 128, 64, dynamic=True)
    yield _batched(12, 128, 64, 128, transposed=True)
    for size, c, e in [(56, 64, 256), (28, 128, 512), (14, 256, 1024), (7, 512, 2048)]:
        yield _conv(size, (c, e, c, e, c), kernel=1)
        yield _conv(size, (c,) * 4)
    yield _conv(224, (3, 64), kernel=7, stride=2)
    yield _conv(56, (64, 128), kernel=3, stride=2)
    yield _conv(40, (64, 64, 64, 64), dynamic=True)
    yield _conv(40, (64, 256, 64, 256), kernel=1, dynamic=True)
    for size, c in [(112, 32), (56, 144), (28, 192), (14, 576), (7, 960)]:
        yield _conv(size, (c,) * 4, groups=0)
    yield _conv(112, (96, 96), stride=2, groups=0)
    yield _conv(28, (192,) * 4, groups=0, dynamic=True)
    yield _pool("MaxPool", 112, 64, 3, 2)
    yield _pool("AveragePool", 28, 192, 3, 1)
    yield _unary("GlobalAveragePool", 1, 2048, 7, 7)
    yield _unary("GlobalAveragePool", 1, 256, 56, 56)
    yield _unary("Softmax", 1536, 128, axis=-1)
    yield _unary("Softmax", 6144, 512, axis=-1)
    yield _unary("Softmax", 128, 1000, axis=-1)
    yield _unary("Softmax", 1536, 128, axis=-1, dynamic=(1536, 128))
    yield _unary("Softmax", 1200, 77, axis=-1, dynamic=(1200, 77))
    yield _unary("Softmax", 16, 6625, axis=-1)
    yield _layer_norm(128, 768)
    yield _layer_norm(128, 384, dynamic=(128,))
    yield _unary("ReduceMean", 128, 768, axes=[1], keepdims=0)
    yield _unary("ReduceMean", 3136, 64, axes=[0], keepdims=0)
    yield _unary("ReduceMax", 64, 56, 56, axes=[1], keepdims=0)
    yield _unary("Relu", 64, 56, 56)
    yield _unary("Relu", 64, 56, 56, dynamic=(64, 56))
    yield _unary("Relu", 1, 224, 224, 3)
    yield _unary("Sigmoid", 1, 224, 224, 3)
    yield _unary("Tanh", 128, 384, dynamic=(128,))
    yield _unary("Erf", 128, 3072, dynamic=(128,))
    yield _unary("Transpose", 768, 768, perm=[1, 0])
    yield _unary("Transpose", 1, 64, 56, 56, perm=[0, 2, 3, 1])
    yield _unary("Transpose", 1, 3, 224, 224, perm=[0, 2, 3, 1])
    yield _unary("Transpose", 1, 128, 12, 64, perm=[0, 2, 1, 3], dynamic=(128,))


def _window(call: Callable[[], object], calls: int) -> float:
    start = time.thread_time()
    for _ in range(calls):
        call()
    return (time.thread_time() - start) / calls


def _calls_a_window(call: Callable[[], object]) -> int:
    call()
    once = min(_window(call, 1) for _ in range(3))
    return max(1, round(_WINDOW_SECONDS / max(once, 1e-7)))


def compare(case: Case, seconds: float) -> tuple[float, float]:
    """Seconds of one call of ours, and the median of onnxruntime's time over it; fails where the results differ."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    peer = onnxruntime.InferenceSession(case.model.SerializeToString(), options, ["CPUExecutionProvider"])
    model = stepwell.compile(case.model, threads=1, cache=False)
    ours, theirs = list(model.run(case.inputs).values()), peer.run(None, case.inputs)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-4 * max(1e-9, float(np.abs(other).max())))
    first, second = (lambda: model.run(case.inputs)), (lambda: peer.run(None, case.inputs))
    counts = _calls_a_window(first), _calls_a_window(second)
    mine_times, their_times = [], []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(mine_times) < 5:
        mine_times.append(_window(first, counts[0]))
        their_times.append(_window(second, counts[1]))
    ratio = statistics.median(b / a for a, b in zip(mine_times, their_times, strict=True))
    return min(mine_times), ratio


_LOOPS = """
typedef float lanes __attribute__((vector_size(BYTES)));
void peak(long steps) {
  lanes a[ACCUMULATORS], b = {0}, c = {0};
  __asm__ volatile("" : "+v"(b), "+v"(c));
#pragma clang loop unroll(full)
  for (int i = 0; i < ACCUMULATORS; i++) a[i] = b;
  for (long step = 0; step < steps; step++)
#pragma clang loop unroll(full)
    for (int i = 0; i < ACCUMULATORS; i++) { a[i] = __builtin_elementwise_fma(a[i], b, c); __asm__ volatile("" : "+v"(a[i])); }
}
float rows[ROWS * 128] __attribute__((aligned(4096))), panel[16 * WIDTH * BYTES] __attribute__((aligned(4096)));
void tile(long steps) {
  lanes a[ROWS][WIDTH];
#pragma clang loop unroll(full)
  for (int i = 0; i < ROWS; i++)
#pragma clang loop unroll(full)
    for (int j = 0; j < WIDTH; j++) a[i][j] = (lanes){0};
  for (long step = 0; step < steps; step += 64)
#pragma clang loop unroll_count(4)
  for (long k = 0; k < 64; k++) {
    lanes b[WIDTH];
#pragma clang loop unroll(full)
    for (int j = 0; j < WIDTH; j++) b[j] = *(lanes *)(panel + (k * WIDTH + j) * (BYTES / 4));
#pragma clang loop unroll(full)
    for (int i = 0; i < ROWS; i++) {
      float x = rows[i * 128 + k];
#pragma clang loop unroll(full)
      for (int j = 0; j < WIDTH; j++) a[i][j] = __builtin_elementwise_fma(b[j], x - (lanes){0}, a[i][j]);
    }
  }
#pragma clang loop unroll(full)
  for (int i = 0; i < ROWS; i++)
#pragma clang loop unroll(full)
    for (int j = 0; j < WIDTH; j++) __asm__ volatile("" : : "v"(a[i][j]));
}
"""
_ROUNDS, _STRETCH = 25, 0.01
"""Times that kernels and loops take turns, and seconds of each turn."""


class Loops:
    """Loops of multiply-adds to hold kernels against."""

    def __init__(self, folder: str) -> None:
        from stepwell.backends.cpu.toolchain import find_driver
        from stepwell.targets import resolve_target

        target = resolve_target("native")
        rows, width = (6, 4) if target.vector_registers >= 32 else (4, 3)
        self.step = rows * width * 2.0 * (target.vector_bytes // 4)
        sizes = {"BYTES": target.vector_bytes, "ROWS": rows, "WIDTH": width, "ACCUMULATORS": rows * width}
        source, library = Path(folder, "loops.c"), Path(folder, "loops.so")
        source.write_text(_LOOPS)
        defines = [f"-D{name}={value}" for name, value in sizes.items()]
        command = [*find_driver().argv, "-O2", "-march=native", "-shared", "-fPIC", *defines]
        subprocess.run([*command, str(source), "-o", str(library)], check=True)
        self.functions = ctypes.CDLL(str(library))

    def rate(self, name: str, flops: float) -> float:
        """Flops a nanosecond of `peak` or `tile`: the median of stretches of `flops`, so as likely to be disturbed as a kernel."""
        loop, steps = self.functions[name], ctypes.c_long(64 * max(1, round(flops / self.step / 64)))
        times, end = [], time.perf_counter() + _STRETCH
        while time.perf_counter() < end or len(times) < 3:
            start = time.perf_counter_ns()
            loop(steps)
            times.append(time.perf_counter_ns() - start)
        return self.step * steps.value / statistics.median(times)


def reached(case: Case, loops: Loops) -> tuple[float, float, float]:
    """The rate of the kernels of `case` in flops a nanosecond, and its shares of `peak` and `tile`: medians of rounds in turns."""
    model = stepwell.compile(case.model, threads=1, cache=False)
    runs = max(3, round(_STRETCH / (case.flops / 1e11)))
    found = []
    for _ in range(_ROUNDS):
        profile = model.profile(case.inputs, runs)
        times = [sum(e.end_ns - e.begin_ns for e in run if e.site >= 0) for run in profile.runs]
        rate = case.flops / statistics.median(times)
        found.append((rate, *(rate / loops.rate(name, case.flops) for name in ("peak", "tile"))))
    rates, peaks, tiles = zip(*found, strict=True)
    return statistics.median(rates), statistics.median(peaks), statistics.median(tiles)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", help="only cases whose name contains one of these")
    parser.add_argument("--seconds", type=float, default=0.4, help="spent on each case (default 0.4)")
    arguments = parser.parse_args()
    print(f"{'case':44} {'us':>9} {'GFLOP/s':>8} {'% peak':>7} {'% tile':>7} {'x onnxruntime':>14}")
    with tempfile.TemporaryDirectory() as folder:
        loops = Loops(folder)
        for case in _cases():
            if arguments.words and not any(w.lower() in case.name.lower() for w in arguments.words):
                continue
            mine, ratio = compare(case, arguments.seconds)
            share = f"{'':24}"
            if case.flops:
                rate, peak, tile = reached(case, loops)
                share = f"{rate:8.1f} {100 * peak:7.0f} {100 * tile:7.0f}"
            print(f"{case.name:44} {mine * 1e6:9.1f} {share} {ratio:14.2f}", flush=True)


if __name__ == "__main__":
    main()
