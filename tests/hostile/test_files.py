"""A failure leaves no file behind: no part of an output, no sidecar, no temporary file; and says it in a line."""

import os
import resource
from io import StringIO

import numpy as np
import pytest
from hostile import corpus

from stepwell.tools import stepwell, stepwell_opt, stepwell_translate

BIG = 1 << 20


def run(main, *arguments):
    said = StringIO()
    try:
        status = main([str(a) for a in arguments], stdout=StringIO(), stderr=said)
    except SystemExit as stop:  # pragma: no cover
        pytest.fail(f"SystemExit {stop.code}")
    lines = [line for line in said.getvalue().split("\n") if line and not line.startswith("stepwell: ")]
    return status, lines


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((64, 65)).astype(np.float32)}
    proto = corpus.model(
        [corpus._node("MatMul", "x w", "y")], [("x", 1, ["b", 64])], [("y", 1, ["b", 65])], weights
    )
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return folder / "m.onnx"


@pytest.fixture
def full_disk():
    """No file may grow beyond a few bytes."""
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("emit", ["graph", "llvm", "ll", "asm", "obj", "so"])
@pytest.mark.parametrize("old", [None, b"old"])
def test_a_full_disk(tmp_path, model, full_disk, emit, old, capfd):
    out = tmp_path / "out"
    out.mkdir()
    if old is not None:
        (out / "file").write_bytes(old)
    status, lines = run(stepwell.main, "compile", model, "--emit", emit, "-o", out / "file")
    assert status == 1 and 1 <= len(lines) <= 2, lines
    assert os.listdir(out) == (["file"] if old else [])
    assert not old or (out / "file").read_bytes() == old


def test_a_full_disk_for_outputs(tmp_path, model, full_disk):
    out = tmp_path / "out"
    status, lines = run(
        stepwell.main, "run", model, "--random", "--dim", "b=100", "--output-dir", out, "--no-cache"
    )
    assert status == 1 and len(lines) == 1, lines
    assert not out.exists() or os.listdir(out) == []


@pytest.mark.parametrize("path", ["no/such/folder/o.ir", "in", "in/m.onnx/o.ir", "x" * 300, "a\0b"])
@pytest.mark.parametrize("tool", ["compile", "opt", "translate"])
def test_places_that_cannot_be_written(tmp_path, model, tool, path):
    (tmp_path / "t.ir").write_text("func.func @main() { func.return }")
    out = str(tmp_path / path)
    if tool == "compile":
        status, lines = run(stepwell.main, "compile", model, "--emit", "tensor", "-o", out)
    elif tool == "opt":
        status, lines = run(stepwell_opt.main, tmp_path / "t.ir", "-o", out)
    else:
        status, lines = run(stepwell_translate.main, model, "-o", out)
    assert status == 1 and len(lines) == 1, lines
    assert sorted(os.listdir(tmp_path)) == ["in", "t.ir"] and os.listdir(tmp_path / "in") == ["m.onnx"]


@pytest.mark.parametrize(
    "name",
    ["with space.onnx", "quo'te\".onnx", "-o.onnx", "new\nline.onnx", "größe.onnx", "$(id).onnx", "%s.onnx"],
)
def test_file_names(tmp_path, model, name, monkeypatch):
    path = model.rename(model.with_name(name))
    monkeypatch.chdir(path.parent)
    status, lines = run(stepwell.main, "compile", path, "-o", f"{tmp_path}/{name}.so")
    assert status == 0, lines
    status, lines = run(stepwell.main, "run", f"{tmp_path}/{name}.so", "--random", "--dim", "b=2")
    assert status == 0, lines
    path.write_bytes(b"broken")
    status, lines = run(stepwell.main, "compile", path, "-o", tmp_path / "b.so")
    assert status == 1 and len(lines) == 1 and lines[0].isprintable(), lines


@pytest.mark.parametrize("value", ["b=0", "b=-1", "b=1e9", "b=999999999999", "c=4", "b=", "=", "b=4=4"])
def test_dims(tmp_path, model, value):
    status, lines = run(stepwell.main, "compile", model, "--dim", value, "-o", tmp_path / "d.so")
    assert status == (0 if value == "b=0" else 1), lines
    assert status == 0 or (len(lines) == 1 and not (tmp_path / "d.so").exists())


def test_nothing_is_read_of_a_device(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    for path in (tmp_path / "pipe.onnx", "/dev/zero", tmp_path):
        status, lines = run(stepwell.main, "compile", path, "-o", tmp_path / "x.so")
        assert status == 1 and len(lines) == 1, lines


def test_a_broken_npy(tmp_path, model):
    for data in (b"", b"\x93NUMPY\x01\x00\xff\xff", bytes(100)):
        (tmp_path / "x.npy").write_bytes(data)
        status, lines = run(stepwell.main, "run", model, "--input", f"x={tmp_path}/x.npy")
        assert status == 1 and len(lines) == 1, lines
