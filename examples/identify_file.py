"""
Say what kind of content files hold: Google's magika model, compiled by stepwell, in magika's own program.

    python examples/identify_file.py README.md pyproject.toml

Needs `pip install magika`, which brings the model (a network over the first and last bytes of a file) and
onnxruntime, the engine that it runs on otherwise.
"""

import sys
import time
from pathlib import Path
from statistics import median

import magika.magika
import onnxruntime
from magika import Magika

import stepwell


class Recorded:
    """A session that remembers what it was last run on."""

    def __init__(self, session):
        self.session = session

    def run(self, names, feeds):
        self.last = names, feeds
        return self.session.run(names, feeds)

    def again(self) -> float:
        """Seconds of one more run, warm and with the other engine's threads at rest."""
        time.sleep(0.005)
        self.session.run(*self.last)
        started = time.perf_counter()
        self.session.run(*self.last)
        return time.perf_counter() - started


def identifier(engine) -> Magika:
    """Magika with its network run by `engine`, a class with onnxruntime's InferenceSession interface."""
    magika.magika.rt.InferenceSession = engine
    program = Magika()
    program._onnx_session = Recorded(program._onnx_session)
    return program


def main(paths: list[str]) -> int:
    reference = identifier(onnxruntime.InferenceSession)
    started = time.perf_counter()
    ours = identifier(stepwell.InferenceSession)
    seconds = time.perf_counter() - started
    print(f"stepwell: model ready in {seconds:.1f} s (compiled the first time, from the cache after that)")
    differences = 0
    for path in paths:
        found, expected = ours.identify_path(Path(path)), reference.identify_path(Path(path))
        differences += found.output.label != expected.output.label
        print(
            f"{path}: {found.output.description} ({found.score:.1%} sure);"
            f" onnxruntime says {expected.output.description} ({expected.score:.1%})"
        )
    sessions = {"stepwell": ours._onnx_session, "onnxruntime": reference._onnx_session}
    if all(hasattr(session, "last") for session in sessions.values()):
        times = {name: [] for name in sessions}
        for _ in range(100):
            for name, session in sessions.items():
                times[name].append(session.again())
        ms = {name: median(values) * 1e3 for name, values in times.items()}
        ratio = ms["onnxruntime"] / ms["stepwell"]
        print(
            f"one file, on all processors: stepwell {ms['stepwell']:.2f} ms,"
            f" onnxruntime {ms['onnxruntime']:.2f} ms: {ratio:.2f} times its speed"
        )
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or [__file__]))
