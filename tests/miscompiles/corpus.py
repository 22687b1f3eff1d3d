"""Mistakes that a compiler writer makes, one a mutant: a line of one function of the compiler, put wrong."""

import importlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models
import onnx

from stepwell.compat import new_context
from stepwell.registry import DIALECTS
from stepwell.transforms.rules import loading


@dataclass(frozen=True)
class Mutant:
    """In `function` of `module` (or that rule of a file of rules), `old` became `new`; `model` shows it, and `guilty` is the pass to name."""

    name: str
    guilty: str
    module: str
    function: str
    old: str
    new: str
    model: Callable[[], onnx.ModelProto]
    opt_level: int = 3
    stage: str = ""
    """The last stage to look at; the one of the mistake."""

    @contextmanager
    def active(self) -> Iterator[None]:
        """The compiler with the mistake."""
        with self._rules() if self.module.endswith(".pat") else self._python():
            yield

    @contextmanager
    def _rules(self) -> Iterator[None]:
        """A file of rules with `old` put wrong; `function` is the rule."""
        path = Path(importlib.import_module("stepwell.transforms.graph").__path__[0]) / self.module
        text = path.read_text(encoding="utf-8")
        start = text.index(f"rule {self.function}")
        assert self.old in text[start : text.find("\nrule", start + 1)], f"{self.name}: no {self.old!r}"
        wrong = text[:start] + text[start:].replace(self.old, self.new, 1)
        ctx = new_context(DIALECTS)
        scope: dict[str, Any] = {"__name__": f"stepwell_rules_{path.stem}"}
        exec(compile(loading.generate_rules(path, wrong, ctx), f"<{self.name}>", "exec"), scope)
        stamp = (str(path.resolve()), path.read_bytes(), path.stat().st_mtime_ns)
        good = loading.load_rules(path, ctx)
        loading._LOADED[stamp] = loading.Rules(path, "", tuple(scope["RULES"]))
        try:
            yield
        finally:
            loading._LOADED[stamp] = good

    @contextmanager
    def _python(self) -> Iterator[None]:
        function = _function(self.module, self.function)
        source = textwrap.dedent(inspect.getsource(function))
        assert source.count(self.old) == 1, f"{self.name}: {self.old!r} is not once in {self.function}"
        # Decorators have done their work; only the body is exchanged.
        source = source[source.index("def ") :].replace(self.old, self.new)
        scope = dict(function.__globals__)
        exec(compile(source, f"<{self.name}>", "exec"), scope)
        good = function.__code__
        function.__code__ = scope[function.__name__].__code__
        try:
            yield
        finally:
            function.__code__ = good


def _function(module: str, path: str) -> Any:
    found: Any = importlib.import_module(f"stepwell.{module}")
    for name in path.split("."):
        found = getattr(found, name)
    return found


GRAPH, LINALG = "transforms.graph", "transforms.linalg"
TOOLCHAIN = "backends.cpu.toolchain"
LOWER, LLVM, PRINTER = "conversion.graph_to_linalg", "conversion.to_llvm", "backends.llvm_ir.printer"

MUTANTS = (
    # graph
    Mutant("transposes-composed-backwards", "simplify-graph", "fold_transposes.pat", "compose-transposes",
           "compose(p, q)", "compose(q, p)", models.transposes, stage="graph"),
    Mutant("moving-transpose-dropped", "fold-transposes", "fold_transposes.pat",
           "reshape-instead-of-moving-ones", ", keeps_order(p, shape)", "", models.convolutions, stage="graph"),
    Mutant("batch-norm-without-epsilon", "fold-batch-norm", f"{GRAPH}.fold_batch_norm", "affine_of",
           'np.sqrt(variance + op.get("epsilon"))', "np.sqrt(variance)", models.convolutions, stage="graph"),
    Mutant("batch-norm-mean-with-wrong-sign", "fold-batch-norm", f"{GRAPH}.fold_batch_norm", "affine_of",
           "bias - mean * factor", "bias + mean * factor", models.convolutions, stage="graph"),
    Mutant("subtraction-commutes", "simplify-graph", "simplify_graph.pat", "drop-zero-subtrahend",
           "graph.sub(x, 0 | 0.0)", "graph.sub(0 | 0.0, x)", models.subtraction, stage="graph"),
    Mutant("window-off-by-one", "simplify-graph", f"{GRAPH}.shape_rules", "covers_all",
           "all(w >= d for", "all(w + 1 >= d for", models.pooling, stage="graph"),
    Mutant("gemm-beta-forgotten", "graph-decompose", f"{GRAPH}.graph_decompose", "gemm_as_matmul",
           '(beta := op.get("beta")) != 1.0', '(beta := op.get("beta")) == 1.0', models.gemm, stage="graph"),
    Mutant("constants-rounded", "fold-constants", f"{GRAPH}.fold_constants", "_Folder._constant",
           "constant_attr(array,", "constant_attr(np.round(array),", models.constants, stage="graph"),
    Mutant("cse-blind-for-properties", "cse", "transforms.cse", "_Merger._merge",
           "frozenset(op.properties.items())", "frozenset(op.properties)", models.two_slopes, stage="graph"),
    # graph to linalg
    Mutant("layer-norm-without-epsilon", "graph-to-linalg", f"{LOWER}.normalization", "_inverse_root",
           "(mean + epsilon).sqrt()", "mean.sqrt()", models.normalised, stage="tensor"),
    Mutant("max-pool-from-zero", "graph-to-linalg", f"{LOWER}.pooling", "_max_pool",
           "_pool(low, op, lowest, lowest, element", "_pool(low, op, 0.0, 0.0, element", models.pooling,
           stage="tensor"),
    Mutant("concat-at-wrong-offset", "graph-to-linalg", f"{LOWER}.data_movement", "concat",
           "at = at + own[axis]", "at = at + shapes[-1][axis]", models.pieces, stage="tensor"),
    Mutant("negative-index-off-by-one", "graph-to-linalg", f"{LOWER}.indexing", "wrapped",
           "place + size, place)", "place + size - 1, place)", models.pieces, stage="tensor"),
    Mutant("softmax-over-wrong-axis", "graph-to-linalg", f"{LOWER}.reduction", "_softmax",
           'low.attr(op, "axis") % low.rank(x)', '(low.attr(op, "axis") - 1) % low.rank(x)', models.gemm,
           stage="tensor"),
    Mutant("clip-with-swapped-bounds", "graph-to-linalg", f"{LOWER}.elementwise", "_clip",
           "x.maximum(rest.pop(0))", "x.maximum(rest.pop())", models.pieces, stage="tensor"),
    # linalg on tensors and kernels
    Mutant("fusion-forgets-the-map", "fuse-elementwise", f"{LINALG}.fuse_elementwise", "_merge",
           "dims[expr.position] = at", "dims[expr.position] = AffineExpr.dimension(expr.position)", models.turned,
           stage="tensor"),
    Mutant("ends-taken-for-a-splat", "fuse-elementwise", f"{LINALG}.fuse_elementwise", "_splat_value",
           "data == data[:width] * (len(data) // width)", "data[:width] == data[-width:]", models.constants,
           stage="tensor"),
    Mutant("panels-backwards", "pack-weights", f"{LINALG}.pack_weights", "_panels",
           "np.moveaxis(split, axis + 1, -1)", "np.moveaxis(split, axis + 1, -1)[..., ::-1]", models.matmuls,
           stage="tensor"),
    Mutant("small-weights-flushed", "flush-denormals", f"{LINALG}.flush_denormals", "FlushDenormalsPass.apply",
           "np.abs(array) < _SMALLEST_NORMAL", "np.abs(array) < 2e-2", models.matmuls, stage="tensor"),
    Mutant("different-kernels-merged", "form-kernels", f"{LINALG}.form_kernels", "structure_of",
           "tuple(sorted(op.properties.items(), key=lambda kv: kv[0]))", "tuple(sorted(op.properties))",
           models.two_layers, stage="kernels"),
    Mutant("border-at-one-end-only", "absorb-slices", f"{LINALG}.absorb_slices", "_Kernels.border",
           "(high[axis], minus(whole[axis], high[axis]))", "(high[axis], 0)", models.convolutions,
           stage="kernels"),
    # loops and vectors
    Mutant("last-tile-starts-late", "tile-and-fuse", f"{LINALG}.tile_and_fuse", "_Tiling._root_box",
           "build.least(variable, extent - tile)", "build.least(variable, extent - tile - 1)", models.tall,
           stage="loops"),
    Mutant("maximum-starts-at-zero", "vectorise", f"{LINALG}.vectorise", "_neutral",
           "CombiningKindFlag.MAXIMUMF: -infinity", "CombiningKindFlag.MAXIMUMF: 0.0", models.wide_rows,
           stage="loops"),
    Mutant("tail-without-mask", "vectorise", f"{LINALG}.vectorise", "_Emitter._in_bounds",
           "if dim not in self.partial:", "if True:", models.wide_rows, stage="loops"),
    Mutant("window-index-doubled", "linalg-to-loops", "conversion.linalg_to_loops", "_Nest.index",
           "arith.AddiOp(lhs, rhs)", "arith.AddiOp(lhs, lhs)", models.pooling, opt_level=0, stage="loops"),
    Mutant("pad-in-the-corner", "bufferize", "conversion.linalg_to_loops", "_lower_pad",
           "offsets.append(offset)", "offsets.append(0)", models.convolutions, opt_level=0, stage="memref"),
    # memref
    Mutant("write-in-place-too-often", "bufferize", "conversion.bufferize.aliases", "Aliases._conflicts",
           "for value in buffer.values:", "for value in ():", models.scattered, stage="memref"),
    Mutant("lifetimes-end-early", "plan-memory", "transforms.memref.plan_memory", "_alive_together",
           "other.last >= buffer.first", "other.last >= buffer.last", models.squares, stage="memref"),
    Mutant("last-tile-not-launched", "lift-parallel", "conversion.lift_parallel", "_Emitter.count",
           "-(-(upper - lower) // step)", "(upper - lower) // step", models.matmuls, stage="memref"),
    # down to llvm
    Mutant("fma-operands-swapped", "unroll-vectors", "transforms.vector.unroll_vectors", "_fma",
           "[cut[number] for cut in operands]", "[cut[number] for cut in operands[::-1]]", models.normalised,
           stage="llvm"),
    Mutant("tanh-loses-its-sign", "expand-math", "transforms.vector.expand_math", "_tanh",
           'b.copysign(b.select(b.compare("ogt", size, 0.625), large, small), x)',
           'b.select(b.compare("ogt", size, 0.625), large, small)', models.normalised, stage="llvm"),
    Mutant("exponential-rounded-wrongly", "expand-math", "transforms.vector.expand_math", "_reduced",
           "b.fma(n, -_LN2_LOW, r)", "b.fma(n, _LN2_LOW * 1e3, r)", models.gelu, stage="llvm"),
    Mutant("mask-one-lane-too-long", "kernels-to-llvm", f"{LLVM}.memory", "_create_mask",
           '"ult", lanes', '"ule", lanes', models.wide_rows, stage="llvm"),
    Mutant("halves-overlap", "kernels-to-llvm", f"{LLVM}.memory", "_reduction",
           "range(width, 2 * width)", "range(width - 1, 2 * width - 1)", models.wide_rows, stage="llvm"),
    Mutant("arguments-backwards", "host-to-llvm", f"{LLVM}.host", "_HostLowering.fill",
           "(array, place, element)", "(array, len(values) - 1 - place, element)", models.two_outputs, stage="llvm"),
    Mutant("every-output-is-the-first", "host-to-llvm", f"{LLVM}.host", "_output",
           "low.integer(number)", "low.integer(0)", models.two_outputs, stage="llvm"),
    # the text of LLVM IR
    Mutant("comparison-printed-backwards", "print-llvm-ir", PRINTER, "_print_fcmp",
           "{p.typed(a)}, {p.names[b]}", "{p.typed(b)}, {p.names[a]}", models.gelu, stage="ll"),
    Mutant("subtraction-printed-backwards", "print-llvm-ir", PRINTER, "_print_binary",
           "a, b = op.operands", "b, a = op.operands", models.gelu, stage="ll"),
    Mutant("shuffle-printed-off-by-one", "print-llvm-ir", PRINTER, "_print_shufflevector",
           "lanes = list(op.mask.iter_values())",
           "lanes = [max(i - 1, 0) for i in op.mask.iter_values()]", models.wide_rows, stage="ll"),
    # what only the library has
    Mutant("clang-adds-instead", "clang", "backends.cpu.toolchain", "compile_object", "ll_text.encode()",
           'll_text.replace(" fsub ", " fadd ").encode()', models.gelu, stage="so"),
    Mutant("weights-backwards", "link", "backends.cpu.library", "_pieces",
           "flat = array.reshape(-1).view(np.uint8)", "flat = array.reshape(-1)[::-1].copy().view(np.uint8)",
           models.matmuls, stage="so"),
)  # fmt: skip
