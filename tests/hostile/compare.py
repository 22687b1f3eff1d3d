"""Run the mutants that compile, and compare with ONNX Runtime: `python -m hostile.compare --count 600`."""

import argparse
import sys
import tempfile
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from hostile import corpus, fuzz
from hostile.box import run_boxed


def ours(seed: int, folder: Path) -> None:
    import stepwell

    data = fuzz.onnx_mutant(seed)
    model = stepwell.compile(data, cache=False)
    outputs = model(*corpus.inputs_of(onnx.ModelProto.FromString(data)).values())
    np.savez(folder / f"{seed}.ours.npz", *(outputs if isinstance(outputs, tuple) else (outputs,)))


def theirs(seed: int, folder: Path) -> None:
    import onnxruntime

    data = fuzz.onnx_mutant(seed)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(data, options)
    np.savez(
        folder / f"{seed}.theirs.npz", *session.run(None, corpus.inputs_of(onnx.ModelProto.FromString(data)))
    )


def differ(got: np.ndarray, want: np.ndarray) -> str:
    """How the arrays differ; "" where they agree within a tolerance for any order of sums."""
    if got.shape != want.shape or got.dtype != want.dtype:
        return f"{got.dtype}{got.shape}, wanted {want.dtype}{want.shape}"
    if got.dtype.kind != "f":
        return "" if np.array_equal(got, want) else f"{got.reshape(-1)[:5]}, wanted {want.reshape(-1)[:5]}"
    finite = np.isfinite(want)
    scale = np.abs(want[finite]).max(initial=0.0)
    if np.allclose(got, want, rtol=1e-3, atol=1e-5 * scale + 1e-7, equal_nan=True):
        return ""
    return f"{got.reshape(-1)[:5]}, wanted {want.reshape(-1)[:5]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.count)
    fuzz.compile_onnx(corpus.onnx_models()["gemm"].SerializeToString())
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder, bad = Path(name), 0
        for seed, outcome in zip(seeds, run_boxed([partial(ours, s, folder) for s in seeds]), strict=True):
            counts[f"{outcome.kind} {outcome.code}"] += 1
            if outcome.is_fault:
                bad += 1
                print(f"seed {seed}: {outcome.kind} {outcome.text[-600:]}", flush=True)
        made = [s for s in seeds if (folder / f"{s}.ours.npz").exists()]
        list(run_boxed([partial(theirs, s, folder) for s in made]))
        for seed in made:
            path = folder / f"{seed}.theirs.npz"
            if not path.exists():
                counts["refused by onnxruntime"] += 1
                continue
            with np.load(folder / f"{seed}.ours.npz") as got, np.load(path) as want:
                for index, key in enumerate(want.files):
                    if key not in got.files or (why := differ(got[key], want[key])):
                        print(
                            f"seed {seed}: output {index}: {why if key in got.files else 'absent'}",
                            flush=True,
                        )
                        counts["differ"] += 1
                        bad += 1
                        break
                else:
                    counts["agree"] += 1
    print(f"{options.count} mutants, {dict(counts)}, {bad} faults")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
