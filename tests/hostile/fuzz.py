"""Compile seeded mutants of valid models and IR: `python -m hostile.fuzz onnx --count 5000 --seed 1`.

Every mutant, of pipelines, rules and LLVM IR too, must compile or give one error: no traceback, fault of ours (status 3), crash, hang or flood of text.
"""

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

from hostile import corpus
from hostile.box import Case, Outcome, outcome_of, run_boxed
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
    flags = ["-p", pipeline, "--no-crash-reproducer"]
    status = main(flags, StringIO(text), StringIO(), said)
    if status == 3:
        main([*flags, "--debug"], StringIO(text), StringIO(), said)
    if status:
        raise {1: Error, 2: UnsupportedError, 3: InternalError}[status](said.getvalue())


def pipeline_mutant(seed: int) -> str:
    """A mutant of the text of a pipeline."""
    from stepwell.pipelines import PIPELINES, print_pipeline, resolve_pipeline

    rng = random.Random(f"pipeline {seed}")
    texts = [*PIPELINES.values(), *PIPELINES]
    name = rng.choice(sorted(PIPELINES))
    text = rng.choice(
        (
            PIPELINES[name],
            f"{name}  // a comment\n, func.func(cse, dce)",
            print_pipeline(resolve_pipeline(name)),
            "builtin.module(set-target{target=x86-64-v3 threads=2 fp=strict}, func.func(canonicalize,cse),dce)",
            'specialise-dims{dims=batch:4,"a b:7"}, rules{names=a,b}, canonicalize',
        )
    )
    return mutate_text(text, rng, texts)


def read_pipeline(text: str) -> None:
    """Resolve a pipeline; what is accepted has a canonical text that reads back."""
    from stepwell.errors import Error, InternalError
    from stepwell.tools.stepwell_opt import main

    out, said = StringIO(), StringIO()
    if status := main([f"--pipeline={text}", "--print-pipeline"], StringIO(""), out, said):
        raise {1: Error, 3: InternalError}[status](said.getvalue())
    again = StringIO()
    if main([f"--pipeline={out.getvalue().strip()}", "--print-pipeline"], StringIO(""), again, said):
        raise InternalError(f"its own text is refused: {said.getvalue()}")
    if again.getvalue() != out.getvalue():
        raise InternalError(f"not canonical: {out.getvalue()!r}, then {again.getvalue()!r}")


def pat_mutant(seed: int) -> str:
    """A mutant of a file of rules: one of its parts, so that mistakes behind it are reached too."""
    rng = random.Random(f"pat {seed}")
    files = corpus.rule_files()
    text = files[rng.choice(sorted(files))]
    parts = text.split("\n\n")
    first = rng.randrange(len(parts))
    return mutate_text("\n\n".join(parts[first : first + 3]), rng, list(files.values()))


def read_rules(text: str) -> None:
    """Read rules and make patterns of them."""
    from tempfile import TemporaryDirectory

    from stepwell.errors import Error, InternalError, UnsupportedError
    from stepwell.tools.stepwell_translate import main

    said = StringIO()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.pat"
        path.write_text(text, encoding="utf-8", errors="replace")
        status = main([str(path), "--to", "python"], StringIO(""), StringIO(), said)
    if status:
        raise {1: Error, 2: UnsupportedError, 3: InternalError}[status](said.getvalue())


def ll_mutant(seed: int) -> str:
    """A mutant of textual LLVM IR."""
    rng = random.Random(f"ll {seed}")
    files = corpus.llvm_ir()
    return mutate_text(files[rng.choice(sorted(files))], rng, list(files.values()))


def read_ll(text: str) -> None:
    """Read LLVM IR as `stepwell-translate` does."""
    from stepwell.errors import Error, InternalError, UnsupportedError
    from stepwell.tools.stepwell_translate import main

    said = StringIO()
    if status := main(["--from", "ll", "--to", "ir"], StringIO(text), StringIO(), said):
        raise {1: Error, 2: UnsupportedError, 3: InternalError}[status](said.getvalue())


KINDS: dict[str, tuple[Callable, Callable]] = {
    "pipeline": (pipeline_mutant, read_pipeline),
    "pat": (pat_mutant, read_rules),
    "ll": (ll_mutant, read_ll),
}


def cases(kind: str, seeds: range) -> list[Case]:
    if kind == "onnx":
        return [lambda seed=seed: compile_onnx(onnx_mutant(seed)) for seed in seeds]
    if kind in KINDS:
        make, read = KINDS[kind]
        return [lambda seed=seed: read(make(seed)) for seed in seeds]
    return [lambda seed=seed: optimise_ir(*ir_mutant(seed)) for seed in seeds]


def faults(kind: str, seeds: range, counts: Counter | None = None) -> Iterator[tuple[int, Outcome]]:
    """The seeds whose mutants are not handled as they should, and how."""
    corpus.onnx_models()
    if kind == "ir":
        corpus.lit_files(), corpus.level_dumps()
    if kind in KINDS:
        make, read = KINDS[kind]
        outcome_of(lambda: read(make(0)))
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
    parser.add_argument("kind", choices=("onnx", "ir", *KINDS))
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
            if options.kind == "onnx":
                mutant = onnx_mutant(seed)
            elif options.kind == "ir":
                mutant = ir_mutant(seed)[0].encode()
            else:
                mutant = KINDS[options.kind][0](seed).encode(errors="replace")
            (options.save / f"{seed}.{options.kind}").write_bytes(mutant)
    print(f"{options.count} mutants, {dict(counts)}, {found} faults, {time.perf_counter() - started:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
