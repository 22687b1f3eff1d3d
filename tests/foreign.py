"""Compiled models of AArch64 on a machine that is none: a C program under QEMU's user-mode emulation calls them."""

import subprocess
import tempfile
from functools import cache
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np

from stepwell.backends.cpu.manifest import read_manifest
from stepwell.backends.cpu.signature import DTYPES
from stepwell.compiler import Options, compile_to_file

FOREIGN_TARGET = "aarch64"
_SOURCE = Path(__file__).with_name("run_foreign.c")
_INCLUDE = Path(__file__).resolve().parents[1] / "runtime" / "c"
_EMULATOR = next((path for name in ("qemu-aarch64", "qemu-aarch64-static") if (path := which(name))), None)
_ROOT = Path("/usr/aarch64-linux-gnu")
"""Where Debian's libc6-arm64-cross puts the C library that the emulated program loads."""
_LIMIT_S = 120


def missing() -> str | None:
    """Why AArch64 cannot be run here; None: it can."""
    import importlib.util

    if importlib.util.find_spec("ziglang") is None:
        return "no ziglang, which compiles for AArch64"
    if _EMULATOR is None:
        return "no qemu-aarch64 (Debian: qemu-user)"
    if not (_ROOT / "lib" / "ld-linux-aarch64.so.1").exists():
        return "no C library of AArch64 (Debian: libc6-arm64-cross)"
    return None


@cache
def _program() -> Path:
    """The program, once a process; its folder goes with the process's temporary files."""
    import ziglang

    zig = Path(ziglang.__file__).parent / "zig"
    folder = Path(tempfile.mkdtemp(prefix="stepwell-foreign-"))
    command = [zig, "cc", "-target", "aarch64-linux-gnu.2.28", "-O1", f"-I{_INCLUDE}", _SOURCE, "-ldl", "-o"]
    subprocess.run([*map(str, command), str(folder / "run_foreign")], check=True, timeout=_LIMIT_S)
    return folder / "run_foreign"


class ForeignModel:
    """A model compiled for AArch64, with `run` as a `stepwell.Model` has it; tensors only."""

    def __init__(self, model: Any, threads: int = 1, **options: Any):
        self._folder = tempfile.TemporaryDirectory(prefix="stepwell-foreign-")
        self._library = Path(self._folder.name) / "model.so"
        self._threads = threads
        compile_to_file(
            model, self._library, Options(**{"target": FOREIGN_TARGET, "threads": threads, **options})
        )
        signature = read_manifest(self._library)["signature"]
        self._inputs, self._outputs = signature["inputs"], signature["outputs"]

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        given, wanted = (Path(self._folder.name) / name for name in ("inputs", "outputs"))
        with given.open("wb") as file:
            file.write(np.array([len(self._inputs), len(self._outputs)], np.int32).tobytes())
            for slot in self._inputs:
                array = np.asarray(inputs[slot["name"]])
                head = (*DTYPES[slot["dtype"]], array.ndim)
                file.write(np.array(head, np.int32).tobytes())
                file.write(np.array([*array.shape, array.nbytes], np.int64).tobytes())
                file.write(array.tobytes())
        command = [str(_EMULATOR), "-L", str(_ROOT), str(_program()), str(self._library)]
        done = subprocess.run(
            [*command, str(self._threads), str(given), str(wanted)],
            capture_output=True, text=True, timeout=_LIMIT_S,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"status {done.returncode}: {done.stderr.strip()[:300]}")
        data = memoryview(wanted.read_bytes())
        return {slot["name"]: array for slot, array in zip(self._outputs, self._read(data), strict=True)}

    def _read(self, data: memoryview) -> list[np.ndarray]:
        import ml_dtypes

        arrays = []
        for slot in self._outputs:
            dtype = np.dtype(getattr(ml_dtypes, slot["dtype"], slot["dtype"]))
            *_, rank = np.frombuffer(data[:12], np.int32)
            *shape, size = np.frombuffer(data[12:][: 8 * (rank + 1)], np.int64)
            data = data[12 + 8 * (rank + 1) :]
            arrays.append(np.frombuffer(data[:size], dtype).reshape(shape).copy())
            data = data[size:]
        assert not data, "the program wrote more than its outputs"
        return arrays


def tensors_only(model: Any) -> bool:
    """Whether every input and output of an ONNX model is a tensor of numbers."""
    import onnx

    slots = [*model.graph.input, *model.graph.output]
    return all(
        slot.type.WhichOneof("value") == "tensor_type"
        and slot.type.tensor_type.elem_type != onnx.TensorProto.STRING
        for slot in slots
    )
