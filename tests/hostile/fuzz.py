"""Compile seeded mutants of valid models and IR: `python -m hostile.fuzz onnx --count 5000 --seed 1`.

Every mutant must compile or give one error: no traceback, fault of ours (status 3), crash, hang or flood of text.
"""

import argparse
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

from hostile import corpus
from hostile.box import Outcome, run_boxed
from hostile.mutate import mutate_bytes, mutate_model, mutate_text

MAX_MESSAGE = 1200
"""Characters of a message: three excerpts of 200 with their escapes, and the words around them."""


def onnx_mutant(seed: int) -> bytes:
    rng = random.Random(f"onnx {seed}")
    models = corpus.onnx_models()
    proto = models[rng.choice(sorted(models))]
    if seed % 3 == 0:
        others = [other.SerializeToString() for other in models.values()]
        return mutate_bytes(proto.SerializeToString(), rng, others)
    return mutate_model(proto, rng).SerializeToString()


def compile_onnx(data: bytes) -> None:
    from stepwell.compiler import Compilation, Options

    compilation = Compilation(Options(target="x86-64-v3"))
    compilation.read(data)
    compilation.lower_to("llvm")
    compilation.llvm_ir()


def ir_mutant(seed: int) -> tuple[str, str]:
    """A mutant of IR text, and the pipeline to apply to it."""
    from stepwell.pipelines import LEVELS

    rng = random.Random(f"ir {seed}")
    lit, dumps = corpus.lit_files(), corpus.level_dumps()
    if seed % 2:
        text, pipeline = lit[rng.choice(sorted(lit))]
        others = [part for part, _ in lit.values()]
    else:
        name = rng.choice(sorted(dumps))
        text, others = dumps[name], list(dumps.values())
        after = LEVELS[LEVELS.index(name.rsplit(".", 1)[1]) + 1 :]
        pipeline = ",".join(f"{level}-O3" for level in after)
    return mutate_text(text, rng, others), pipeline


def optimise_ir(text: str, pipeline: str) -> None:
    from stepwell.errors import Error, InternalError, UnsupportedError
    from stepwell.tools.stepwell_opt import main

    said = StringIO()
    status = main(["-p", pipeline], StringIO(text), StringIO(), said)
    if status == 3:
        for name in re.findall(r"/\S*/stepwell-reproducer-\w+", said.getvalue()):
            for path in Path(name).parent.glob(f"{Path(name).name}*"):
                path.unlink()
        main(["-p", pipeline, "--debug"], StringIO(text), StringIO(), said)
    if status:
        raise {1: Error, 2: UnsupportedError, 3: InternalError}[status](said.getvalue())


def cases(kind: str, seeds: range) -> list[Callable[[], None]]:
    if kind == "onnx":
        return [lambda seed=seed: compile_onnx(onnx_mutant(seed)) for seed in seeds]
    return [lambda seed=seed: optimise_ir(*ir_mutant(seed)) for seed in seeds]


def faults(kind: str, seeds: range, counts: Counter | None = None) -> Iterator[tuple[int, Outcome]]:
    """The seeds whose mutants are not handled as they should, and how."""
    corpus.onnx_models()
    if kind == "ir":
        corpus.lit_files(), corpus.level_dumps()
    compile_onnx(corpus.onnx_models()["gemm"].SerializeToString())  # imports come before the fork
    for seed, outcome in zip(seeds, run_boxed(cases(kind, seeds)), strict=True):
        if counts is not None:
            counts[outcome.kind if outcome.kind != "error" else f"exit {outcome.code}"] += 1
        long = outcome.kind == "error" and (
            len(outcome.text) > MAX_MESSAGE or outcome.text.strip().count("\n") > 3
        )
        if outcome.is_fault or long:
            yield seed, outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("onnx", "ir"))
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--debug", action="store_true", help="tracebacks of faults")
    parser.add_argument("--save", type=Path, help="write the mutants that fail into this directory")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    started, found = time.perf_counter(), 0
    for seed, outcome in faults(options.kind, range(options.seed, options.seed + options.count), counts):
        found += 1
        print(f"--- seed {seed}: {outcome.kind} {outcome.code}\n{outcome.text}", flush=True)
        if options.save:
            options.save.mkdir(parents=True, exist_ok=True)
            mutant = onnx_mutant(seed) if options.kind == "onnx" else ir_mutant(seed)[0].encode()
            (options.save / f"{seed}.{options.kind}").write_bytes(mutant)
    print(f"{options.count} mutants, {dict(counts)}, {found} faults, {time.perf_counter() - started:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
