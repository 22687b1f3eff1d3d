"""
Whole models side by side with other engines.

    python -m benchmarks.compare --models resnet50,bert_base --peers ort,openvino --threads 1,2

Every engine runs in a process of its own, in interleaved rounds, so that noise of the machine meets all of
them; figures are medians, ratios are peer time / stepwell time (above 1: stepwell is faster). Outputs are compared
before anything is timed. A JSON line per model and thread count is appended to the history file, a table is printed
at the end, and `--plot ratios.svg` draws it.
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
from rich.console import Console
from rich.table import Table

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
        row["difference"] = differences(
            {peer: engine.ask(output=True)["digest"] for peer, engine in engines.items()}
        )
        times: dict[str, list[float]] = {peer: [] for peer in engines}
        end = time.monotonic() + seconds * max(1, len(engines))
        while engines and (time.monotonic() < end or len(times[next(iter(times))]) < 5):
            for peer, engine in engines.items():
                times[peer].append(engine.ask(run=1)["seconds"])
        row["ms"] = {peer: median(values) * 1e3 for peer, values in times.items()}
    finally:
        for engine in engines.values():
            engine.close()
    return row


def differences(digests: dict[str, list[float]]) -> dict[str, float]:
    """The largest difference of each engine's output from stepwell's, relative to stepwell's largest value."""
    if "stepwell" not in digests:
        return {}
    ours = np.array(digests["stepwell"])
    scale = np.abs(ours).max() + 1e-30
    return {peer: float(np.abs(np.array(digest) - ours).max() / scale) for peer, digest in digests.items()}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS), help="names of the zoo or .onnx files")
    parser.add_argument("--peers", default="ort", help=f"of {', '.join(p for p in PEERS if p != 'stepwell')}")
    parser.add_argument("--threads", default="1", help="thread counts, such as 1,2")
    parser.add_argument("--seconds", type=float, default=5.0, help="seconds per engine")
    parser.add_argument("--history", default="benchmarks/history.jsonl", help="where results are appended")
    parser.add_argument(
        "--plot", type=Path, help="a picture of the ratios (.svg, .png, .pdf; needs matplotlib)"
    )
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
    Console().print(table_of(rows, peers))
    for threads in sorted({row["threads"] for row in rows}):
        mean = geometric_mean([row for row in rows if row["threads"] == threads])
        if mean is not None:
            print(f"{threads} threads: geometric mean of best peer / stepwell {mean:.3f}")
    if options.plot:
        plot(rows, options.plot)
    return 0


def best_ratio(row: dict[str, Any]) -> float | None:
    """The fastest peer's time over ours."""
    others = [ms for peer, ms in row["ms"].items() if peer != "stepwell"]
    return min(others) / row["ms"]["stepwell"] if others and "stepwell" in row["ms"] else None


def geometric_mean(rows: list[dict[str, Any]]) -> float | None:
    """Of the best peers' times over ours, where there is a peer; None without any."""
    ratios = [log(ratio) for row in rows if (ratio := best_ratio(row)) is not None]
    return exp(sum(ratios) / len(ratios)) if ratios else None


def table_of(rows: list[dict[str, Any]], peers: list[str]) -> Table:
    """A row per model and thread count: our milliseconds, each peer's time over ours, the best one's."""
    table = Table("model", "threads", "stepwell ms", *peers, "best peer")
    for row in rows:
        ours = row["ms"].get("stepwell")
        ratios = [f"{row['ms'][p] / ours:.2f}" if ours and p in row["ms"] else "fails" for p in peers]
        best = best_ratio(row)
        own = f"{ours:.2f}" if ours else "fails"
        table.add_row(row["model"], str(row["threads"]), own, *ratios, "" if best is None else f"{best:.2f}")
    return table


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars of each peer's time over ours, a group per model, a picture per thread count, side by side."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    counts = sorted({row["threads"] for row in rows})
    height = 1 + 0.5 * len({row["model"] for row in rows})
    figure, axes = pyplot.subplots(1, len(counts), figsize=(6 * len(counts), height), squeeze=False)
    for axis, threads in zip(axes[0], counts, strict=True):
        shown = [row for row in rows if row["threads"] == threads and "stepwell" in row["ms"]]
        peers = sorted({peer for row in shown for peer in row["ms"]} - {"stepwell"})
        bar = 0.8 / max(1, len(peers))
        for i, peer in enumerate(peers):
            places = [j + i * bar for j, row in enumerate(shown) if peer in row["ms"]]
            ratios = [row["ms"][peer] / row["ms"]["stepwell"] for row in shown if peer in row["ms"]]
            axis.barh(places, ratios, bar, label=peer)
        axis.set_yticks([j + 0.4 - bar / 2 for j in range(len(shown))], [row["model"] for row in shown])
        axis.axvline(1, color="black", linewidth=1)
        axis.invert_yaxis()
        axis.set(title=f"{threads} threads", xlabel="peer's time / stepwell's (above 1: stepwell is faster)")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path)


def line_of(row: dict[str, Any], peers: list[str]) -> str:
    texts = []
    for peer in ["stepwell", *peers]:
        if peer in row["ms"]:
            difference = row.get("difference", {}).get(peer, 0.0)
            warning = f" (differs {difference:.0e})" if difference > 1e-3 else ""
            texts.append(f"{peer} {row['ms'][peer]:.2f} ms{warning}")
        else:
            texts.append(f"{peer} fails: {row['errors'].get(peer, '?')[:120]}")
    ratio = best_ratio(row)
    end = f" | best peer / stepwell {ratio:.2f}" if ratio is not None else ""
    return f"{row['model']:22} {row['threads']}T  " + ", ".join(texts) + end


if __name__ == "__main__":
    sys.exit(main())
