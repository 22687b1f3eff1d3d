"""
What each optimisation is worth: a model compiled as it is and without one of them, run in turns.

    python -m benchmarks.ablation --models resnet50,minilm
    python -m benchmarks.ablation --models unet --without winograd,packing

Printed is the CPU time of a run without the optimisation over that of one with all, the median of interleaved rounds on one
thread (with --threads 2: wall time, on a machine that does nothing else): 1.20 means that the optimisation saves a sixth of the
time, - that the code is the same without it.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import stepwell
from benchmarks.zoo import MODELS, Inputs, model_files
from stepwell.compiler import Compilation, Options
from stepwell.pipelines import Stage

SWITCHES: dict[str, dict[str, dict[str, Any] | None]] = {
    "winograd": {"choose-convolution": None},
    "layouts": {"assign-layouts": None, "choose-convolution": None},
    "packing": {"pack-weights": None},
    "element-wise fusion": {"fuse-elementwise": None},
    "kernels of several ops": {"form-kernels": {"fuse": False}},
    "attention": {"form-kernels": {"attention": False}},
    "windows": {"form-kernels": {"windows": False}},
    "row factors": {"move-row-factors": None},
    "slices in kernels": {"absorb-slices": None},
    "in place": {"plan-memory": {"in_place": False}},
    "merged products": {"merge-products": None},
    "fused loops": {"fuse-loops": None},
    "loops over rows": {"loop-over-rows": None},
    "pairs and threes": {"pack-weights": {"pairs": False, "three_registers": False}},
    "tall tiles": {"pack-weights": {"tall_tiles": False}, "assign-schedules": {"tall_tiles": False}},
    "rows outside": {"assign-schedules": {"rows_outside": False}},
    "whole tiles": {"version-masked-tiles": None},
    "prefetch": {"kernels-to-llvm": {"prefetch": False}},
}
"""Optimisation to the passes that are left out (None) or run with other options."""


@dataclass
class _Without(Compilation):
    """A compilation with some passes left out or given other options."""

    changes: "dict[str, dict[str, Any] | None] | None" = None

    def _stages(self, level: str) -> list[Stage]:
        changes, stages = self.changes or {}, []
        for stage in super()._stages(level):
            change = changes.get(stage.instance.name, {})
            if change is not None:
                stages.append(replace(stage, instance=replace(stage.instance, **change)))  # pyright: ignore
        return stages


def build(path: Path, changes: dict[str, dict[str, Any] | None], folder: Path) -> Path:
    """The library of the model at `path`, compiled with `changes` to its pipeline."""
    out = folder / f"model{len(list(folder.iterdir()))}.so"
    compilation = _Without(Options(), changes=changes)
    compilation.read(str(path))
    compilation.build(out)
    return out


def worth(
    path: Path, inputs: Inputs, names: list[str], seconds: float, threads: int = 1
) -> dict[str, tuple[float, float]]:
    """
    Of each optimisation in `names`: the ratio of times, and the largest difference of results over the largest result.
    Those without which the code is the same are left out.
    """
    with tempfile.TemporaryDirectory() as folder:
        whole = build(path, {}, Path(folder))
        models = {"": stepwell.load(whole, threads=threads)}
        for name in names:
            library = build(path, SWITCHES[name], Path(folder))
            if library.read_bytes() != whole.read_bytes():
                models[name] = stepwell.load(library, threads=threads)
        want = next(iter(models[""].run(inputs).values())).astype(np.float64)
        scale = max(float(np.abs(want).max()), 1e-300)
        differences = {}
        for name, model in models.items():
            got = next(iter(model.run(inputs).values())).astype(np.float64)
            differences[name] = float(np.abs(got - want).max()) / scale
        clock = time.thread_time if threads == 1 else time.perf_counter
        times: dict[str, list[float]] = {name: [] for name in models}
        end = time.process_time() + seconds * len(models)
        while time.process_time() < end or len(times[""]) < 5:
            for name, model in models.items():
                started = clock()
                model.run(inputs)
                times[name].append(clock() - started)
    ratios = {
        name: median(a / b for a, b in zip(times[name], times[""], strict=True)) for name in models if name
    }
    return {name: (ratio, differences[name]) for name, ratio in ratios.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS), help="names of the zoo or .onnx files")
    parser.add_argument("--without", default=",".join(SWITCHES), help=f"of {', '.join(SWITCHES)}")
    parser.add_argument("--seconds", type=float, default=2.0, help="CPU seconds of measuring an optimisation")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    names = options.without.split(",")
    if unknown := [name for name in names if name not in SWITCHES]:
        parser.error(f"unknown: {', '.join(unknown)}; use some of {', '.join(SWITCHES)}")
    print(f"| model | {' | '.join(names)} |\n| --- |{' ---: |' * len(names)}", flush=True)
    for name in options.models.split(","):
        path, inputs = model_files(name)
        found = worth(path, inputs, names, options.seconds, options.threads)
        cells = (f"{found[switch][0]:.2f}" if switch in found else "-" for switch in names)
        print(f"| {path.stem} | {' | '.join(cells)} |", flush=True)
        for switch, (_, difference) in found.items():
            if difference > 1e-3:
                print(f"{path.stem} without {switch}: results differ by {difference:.0e}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
