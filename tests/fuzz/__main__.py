"""
Random models on stepwell and on ONNX Runtime: `python -m tests.fuzz --generator own --seed 0 --count 100`.

Every model that differs, crashes or breaks stepwell is saved with its inputs; `--reduce DIR` makes one of them smaller,
`--replay DIR...` runs saved ones again.
"""

import argparse
import sys
import time
from pathlib import Path

from tests.fuzz import nnsmith
from tests.fuzz.oracle import Case
from tests.fuzz.running import Tally, replay, run_seeds, warm_up


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--generator", choices=("own", "nnsmith"), default="own")
    add(
        "--seed",
        type=int,
        default=0,
        help="the first seed; of NNSmith's, those below 10,000 are for development",
    )
    add("--count", type=int, default=100)
    add("--minutes", type=float, default=1e9, help="stop after so many minutes")
    add("--save", type=Path, default=Path("fuzz-failures"), help="where the models go that fail")
    add("--verbose", action="store_true", help="a line for every model")
    add("--corpus", type=Path, help="models that NNSmith made before; new ones are added")
    add("--reduce", type=Path, metavar="DIR", help="reduce the failing model in DIR")
    add("--replay", type=Path, nargs="+", metavar="DIR", help="run saved models again")
    options = parser.parse_args()
    warm_up()
    if options.reduce:
        from tests.fuzz.reduction import reduce_case

        small = reduce_case(Case.load(options.reduce))
        small.save(options.reduce / "reduced")
        print(f"{options.reduce / 'reduced'}: {replay(small)}")
        return 0
    if options.replay:
        tally = Tally()
        for directory in options.replay:
            verdict = replay(Case.load(directory))
            tally.count(verdict)
            print(f"{directory}: {verdict.kind} {verdict.stage}: {verdict.detail[:600]}", flush=True)
        return 1 if tally.bad else 0
    seeds = range(options.seed, options.seed + options.count)
    if options.generator == "nnsmith":
        corpus = options.corpus or options.save / "nnsmith"
        nnsmith.generate(corpus, seeds)
        cases = nnsmith.cases(corpus, seeds)
    else:
        cases = None
    tally, started = Tally(), time.monotonic()
    for seed, verdict in run_seeds(seeds, options.save, cases, options.minutes):
        tally.count(verdict)
        if verdict.is_bad or verdict.kind == "known":
            print(f"--- {seed}: {verdict.kind} in {verdict.stage}\n{verdict.detail[-1500:]}", flush=True)
        elif options.verbose:
            print(f"{seed}: {verdict.kind} {verdict.detail[:200]}", flush=True)
    print(tally.report(), f"{time.monotonic() - started:.0f} s")
    return 1 if tally.bad else 0


if __name__ == "__main__":
    sys.exit(main())
