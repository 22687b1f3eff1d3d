"""
Models from NNSmith 0.1.0, where it is installed: in this environment, or in the one whose Python `STEPWELL_NNSMITH` names.

    pip install nnsmith==0.1.0 torch==2.13.0+cpu onnx==1.23.2 onnxruntime==1.31.1 onnxscript setuptools

Run as a program it is the generating half, and imports nothing of stepwell. NNSmith of 2023 meets a torch of 2026: the
exporter that it was written for is asked for by name, and `onnx._serialize` is put back.
"""

import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fuzz.oracle import Case

_OPSET, _MOST_ELEMENTS, _SECONDS = 14, 65_536, 20.0
"""Of a model: its opset, the elements of a tensor, and the time that it may take (the solver ignores its own limit)."""


def python() -> str | None:
    """The Python that has NNSmith; None if there is none."""
    if given := os.environ.get("STEPWELL_NNSMITH"):
        return given
    return sys.executable if find_spec("nnsmith") and find_spec("torch") else None


def generate(corpus: Path, seeds: Sequence[int], max_nodes: int = 10, include: str = "") -> None:
    """Make the models of those seeds that `corpus` lacks."""
    missing = [seed for seed in seeds if not (corpus / str(seed)).exists()]
    if not missing:
        return
    interpreter = python()
    if interpreter is None:
        raise SystemExit("NNSmith is not installed here; name a Python that has it in STEPWELL_NNSMITH")
    corpus.mkdir(parents=True, exist_ok=True)
    arguments = [str(corpus), str(max_nodes), include, *map(str, missing)]
    subprocess.run([interpreter, __file__, *arguments], check=True, stdout=sys.stderr)


def cases(corpus: Path, seeds: Sequence[int]) -> "dict[int, Case]":
    """The models of the seeds that could be made, with their inputs."""
    import numpy as np

    from tests.fuzz.oracle import Case

    found = {}
    for seed in seeds:
        path = corpus / str(seed) / "io.npz"
        if path.exists():
            with np.load(path) as file:
                feeds = {name[3:]: file[name] for name in file.files if name.startswith("in.")}
            found[seed] = Case((path.parent / "model.onnx").read_bytes(), [feeds])
    return found


# --- in the environment of NNSmith -----------------------------------------------------------------


def _prepare(cache: Path) -> None:
    os.environ["XDG_CACHE_HOME"] = str(cache)  # which operators ONNX Runtime takes is found out once
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    import onnx
    import torch
    import torch.onnx

    onnx._serialize = lambda model: model.SerializeToString()  # pyright: ignore
    real = torch.onnx.export

    def export(*args: Any, **options: Any) -> Any:
        return real(*args, **{**options, "dynamo": False, "opset_version": _OPSET})

    torch.onnx.export = export
    torch.set_num_threads(1)


def _main(corpus: Path, max_nodes: int, include: str, seeds: list[int]) -> None:
    _prepare(corpus / "cache")
    from nnsmith.abstract.extension import activate_ext
    from nnsmith.backends.factory import BackendFactory
    from nnsmith.materialize import Model
    from nnsmith.narrow_spec import auto_opset
    from nnsmith.util import op_filter

    kind = Model.init("onnx", backend_target="cpu")
    kind.add_seed_setter()
    factory = BackendFactory.init("onnxruntime", target="cpu", optmax=False)
    operators = op_filter(
        auto_opset(kind, factory, vulops=False), include.split(",") if include else None, None
    )
    activate_ext(opset=operators, factory=factory)
    for seed in seeds:
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            outcome = _make(corpus / str(seed), seed, kind, operators, max_nodes)
            os.write(writer, outcome.encode())
            os._exit(0)
        os.close(writer)
        ready, _, _ = select.select([reader], [], [], _SECONDS)
        outcome = os.read(reader, 4096).decode() if ready else "too slow"
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if outcome != "made":
            shutil.rmtree(corpus / str(seed), ignore_errors=True)
        record = {"seed": seed, "outcome": outcome or "died", "time": round(time.time())}
        with open(corpus / "index.jsonl", "a") as index:
            index.write(json.dumps(record) + "\n")


def _make(directory: Path, seed: int, kind: Any, operators: Any, max_nodes: int) -> str:
    import numpy as np
    import onnx
    import torch
    from nnsmith.graph_gen import model_gen

    try:
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        graph = model_gen(
            opset=operators, method="symbolic-cinit", seed=seed, max_elem_per_tensor=_MOST_ELEMENTS,
            max_nodes=max_nodes, timeout_ms=10_000,
        )  # fmt: skip
        model = kind.from_gir(graph.make_concrete())
        model.refine_weights()
        oracle = model.make_oracle()
        onnx.checker.check_model(model.native_model, full_check=True)
        directory.mkdir()
        onnx.save(model.native_model, str(directory / "model.onnx"))
        np.savez_compressed(
            directory / "io.npz", **{f"in.{name}": value for name, value in oracle.input.items()}
        )
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    return "made"


if __name__ == "__main__":
    del sys.path[0]  # this directory: the file has the name of the package that it imports
    _main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], [int(seed) for seed in sys.argv[4:]])
