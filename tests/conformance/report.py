"""
Run the backend tests of the onnx package and print what passes, by family.

    python -m tests.conformance.report                       all, results in build/conformance.json
    python -m tests.conformance.report -f cast -f quantized  some families
    python -m tests.conformance.report -k 'resize.*cubic'    some tests
    python -m tests.conformance.report --failed              what did not pass the last time
    python -m tests.conformance.report --variant symbolic    no extent known; or constant: all inputs but the first known
    python -m tests.conformance.report --target aarch64      code of another machine, under emulation if need be
    python -m tests.conformance.report --table               only print the last results
"""

import argparse
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from tests.conformance import expectations
from tests.conformance.cases import all_cases, in_sample
from tests.conformance.families import NAMES
from tests.conformance.running import Result, run_cases
from tests.conformance.variants import PUBLISHED, VARIANTS, differs
from tests.foreign import FOREIGN_TARGET, missing, tensors_only

_SAVE_EVERY = 25
STATUSES = ("pass", "unsupported", "refused", "fault", "wrong", "crash", "timeout")


def table(results: Iterable[Result]) -> str:
    """Markdown: a row a family, a column a status, and the median seconds a test."""
    results = list(results)
    rows = [f"| family | tests | {' | '.join(STATUSES)} | s |", f"| --- |{' ---: |' * (len(STATUSES) + 2)}"]
    for family in (*NAMES, "all"):
        members = [r for r in results if family in (r.family, "all")]
        if not members:
            continue
        counts = Counter(r.status for r in members)
        median = sorted(r.seconds for r in members)[len(members) // 2]
        cells = " | ".join(str(counts[s] or "") for s in STATUSES)
        rows.append(f"| {family} | {len(members)} | {cells} | {median:.2f} |")
    return "\n".join(rows)


def _load(path: Path) -> dict[str, Result]:
    if not path.exists():
        return {}
    return {entry["name"]: Result(**entry) for entry in json.loads(path.read_text())}


def _reason(detail: str) -> str:
    """What is wrong, without the place and what to do."""
    return detail.split(" error: ")[-1].split("; ")[0][:160]


def _save(path: Path, known: dict[str, Result]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(result) for result in known.values()], indent=0))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-f", "--family", action="append", choices=NAMES, help="only this family")
    parser.add_argument("-k", "--match", help="only tests whose name matches this regular expression")
    parser.add_argument("-j", "--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("-O", "--opt-level", type=int, default=3)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds a test")
    parser.add_argument("--variant", choices=VARIANTS, default=PUBLISHED, help="how the models are asked")
    parser.add_argument("--target", default="native", help="native, x86-64-v3, aarch64 (under QEMU), ...")
    parser.add_argument("--one-in", type=int, default=1, help="only one test in so many")
    parser.add_argument("--failed", action="store_true", help="only what did not pass the last time")
    parser.add_argument("--table", action="store_true", help="print the last results, run nothing")
    parser.add_argument("--expect", action="store_true", help="write the last failures as those expected")
    parser.add_argument("--shrink", action="store_true", help="take what passes off the expected failures")
    parser.add_argument("--results", type=Path, help="default: build/conformance-VARIANT.json")
    arguments = parser.parse_args()
    variant = arguments.variant
    foreign = arguments.target == FOREIGN_TARGET
    if foreign and (why := missing()):
        parser.error(f"--target {arguments.target}: {why}")
    kind = "".join(f"-{word}" for word in (variant, arguments.target) if word not in (PUBLISHED, "native"))
    path = arguments.results or Path(f"build/conformance{kind}.json")
    known = _load(path)
    cases = all_cases().values()
    chosen = [
        case
        for case in cases
        if (not arguments.family or case.family in arguments.family)
        and (not arguments.match or re.search(arguments.match, case.name))
        and (not arguments.failed or case.name not in known or known[case.name].status != "pass")
        and in_sample(case.name, arguments.one_in)
        and differs(case, variant)
        and not (foreign and not tensors_only(case.model()))
    ]
    if arguments.table:
        print(table(known[case.name] for case in chosen if case.name in known))
        return 0
    if arguments.expect:
        failed = [r for r in known.values() if r.status != "pass"]
        expectations.write({r.name: f"{r.status}: {_reason(r.detail)}" for r in failed}, variant)
        return 0
    started, count = time.monotonic(), 0

    def say(result: Result) -> None:
        nonlocal count
        count += 1
        known[result.name] = result
        if count % _SAVE_EVERY == 0:
            _save(path, known)
        if result.status != "pass":
            print(f"{result.status:12}{result.name}: {result.detail}", flush=True)
        elif sys.stderr.isatty():
            print(f"\r{count}/{len(chosen)}", end="\r", file=sys.stderr)

    results = run_cases(
        chosen,
        arguments.workers,
        arguments.limit,
        say,
        variant,
        opt_level=arguments.opt_level,
        target=arguments.target,
    )
    _save(path, known)
    print(f"\n{table(results)}\n\n{time.monotonic() - started:.0f} s with {arguments.workers} workers")
    expected = expectations.read(variant)
    if arguments.shrink:
        passed = {result.name for result in results if result.status == "pass"}
        kept = {
            name: why for name, why in expected.items() if name not in passed or expectations.may_pass(why)
        }
        expectations.write(kept, variant)
    surprises = expectations.surprises(results, expected)
    print("\n".join(surprises[:20]) if surprises else "as expected")
    return 1 if surprises and not arguments.shrink else 0


if __name__ == "__main__":
    sys.exit(main())
