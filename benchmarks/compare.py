"""
Whole models side by side with other engines.

    python -m benchmarks.compare --models resnet50,bert_base --peers ort,openvino --threads 1,2

Every engine runs in a process of its own, in interleaved rounds, so that noise of the machine meets all of
them; figures are medians, ratios are peer time / stepwell time (above 1: stepwell is faster). Outputs are compared
before anything is timed. A JSON line per model and thread count is appended to the history file.
"""

import argparse
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from math import exp, log
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.peers import PEERS
from benchmarks.zoo import MODELS, model_files


class Engine:
    """A peer in its own process, spoken to in lines of JSON."""

    def __init__(self, peer: str, model: Path, inputs: Path, threads: int):
        self.peer = peer
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peers", peer, str(model), str(inputs), str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.prepared = self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        return {"error": f"ended with {self.process.wait()}"}

    def ask(self, **command: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self._reply()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def compare(name: str, peers: list[str], threads: int, seconds: float) -> dict[str, Any]:
    """Times of stepwell and `peers` on one model, in milliseconds, and the disagreement of their outputs."""
    model, inputs = model_files(name)
    saved = model.with_suffix(".npz")
    if not saved.exists():
        np.savez(saved, **inputs)
    engines: dict[str, Engine] = {}
    row: dict[str, Any] = {"model": name, "threads": threads, "ms": {}, "errors": {}, "compile_s": {}}
    try:
        for peer in ["stepwell", *peers]:
            engine = Engine(peer, model, saved, threads)
            if "error" in engine.prepared:
                row["errors"][peer] = engine.prepared["error"]
                engine.close()
            else:
                engines[peer] = engine
                row["compile_s"][peer] = engine.prepared["seconds"]
        times: dict[str, list[float]] = {peer: [] for peer in engines}
        end = time.monotonic() + seconds * max(1, len(engines))
        while engines and (time.monotonic() < end or len(times[next(iter(times))]) < 5):
            for peer, engine in engines.items():
                times[peer].append(engine.ask(run=1)["seconds"])
        row["ms"] = {peer: median(values) * 1e3 for peer, values in times.items()}
        outputs = {peer: engine.ask(output=True)["digest"] for peer, engine in engines.items()}
        if "stepwell" in outputs:
            ours = np.array(outputs["stepwell"])
            for peer, values in outputs.items():
                difference = np.abs(np.array(values) - ours).max() / (np.abs(ours).max() + 1e-30)
                row.setdefault("difference", {})[peer] = float(difference)
    finally:
        for engine in engines.values():
            engine.close()
    return row


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS), help="names of the zoo or .onnx files")
    parser.add_argument("--peers", default="ort", help=f"of {', '.join(p for p in PEERS if p != 'stepwell')}")
    parser.add_argument("--threads", default="1", help="thread counts, such as 1,2")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds per engine")
    parser.add_argument("--history", default="benchmarks/history.jsonl", help="where results are appended")
    options = parser.parse_args(argv)
    peers = [p for p in options.peers.split(",") if p]
    for peer in peers:
        if peer not in PEERS:
            parser.error(f"unknown peer {peer}")
    rows = []
    for threads in (int(t) for t in options.threads.split(",")):
        for name in options.models.split(","):
            row = compare(name, peers, threads, options.seconds)
            row["when"] = datetime.now(UTC).isoformat(timespec="seconds")
            rows.append(row)
            with open(options.history, "a") as history:
                history.write(json.dumps(row) + "\n")
            print(line_of(row, peers), flush=True)
    ratios = [log(r) for row in rows if (r := best_ratio(row)) is not None]
    if ratios:
        print(
            f"geometric mean of best peer / stepwell over {len(ratios)} runs: {exp(sum(ratios) / len(ratios)):.3f}"
        )
    return 0


def best_ratio(row: dict[str, Any]) -> float | None:
    """The fastest peer's time over ours."""
    others = [ms for peer, ms in row["ms"].items() if peer != "stepwell"]
    return min(others) / row["ms"]["stepwell"] if others and "stepwell" in row["ms"] else None


def line_of(row: dict[str, Any], peers: list[str]) -> str:
    texts = []
    for peer in ["stepwell", *peers]:
        if peer in row["ms"]:
            difference = row.get("difference", {}).get(peer, 0.0)
            warning = f" (differs {difference:.0e})" if difference > 1e-3 else ""
            texts.append(f"{peer} {row['ms'][peer]:.2f} ms{warning}")
        else:
            texts.append(f"{peer} fails: {row['errors'].get(peer, '?')[:60]}")
    ratio = best_ratio(row)
    end = f" | best peer / stepwell {ratio:.2f}" if ratio is not None else ""
    return f"{row['model']:22} {row['threads']}T  " + ", ".join(texts) + end


if __name__ == "__main__":
    sys.exit(main())
