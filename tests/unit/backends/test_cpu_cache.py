"""The cache: whole entries or none, verified, private; keys that see every byte that matters."""

import os
import subprocess
import sys
import time

import onnx
import onnx.numpy_helper
import onnx.parser
import pytest

from stepwell.backends.cpu import cache as module
from stepwell.backends.cpu.cache import Cache, external_locations, key_of, model_key
from stepwell.errors import CompileError

TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[4] x) => (float[4] y) <float[4] w = {10, 20, 30, 40}> { y = Add(x, w) }
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("STEPWELL_CACHE_DIR", str(tmp_path / "cache"))


def test_objects_come_back():
    cache, key = Cache(), key_of("a")
    assert cache.object(key) is None
    cache.put_object(key, b"body")
    assert cache.object(key) == b"body" and Cache().object(key) == b"body"
    cache.put_object(key, b"")
    assert cache.object(key) == b""


def test_damaged_objects_are_dropped():
    cache, key = Cache(), key_of("a")
    path = cache._path("objects", key)
    for damage in (lambda data: data[:-1], lambda data: b"", lambda data: data[:40] + b"?" + data[41:]):
        cache.put_object(key, b"a body of some length")
        path.write_bytes(damage(path.read_bytes()))
        assert cache.object(key) is None and not path.exists()


def test_keys_see_where_parts_end():
    assert len({key_of("ab", "c"), key_of("a", "bc"), key_of("abc"), key_of("ab", "c", "")}) == 4


def test_no_partial_file_after_a_failed_write(tmp_path, monkeypatch):
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        module.write_atomically(target, b"new")
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_prune_keeps_the_recently_used():
    cache = Cache()
    keys = [key_of(str(i)) for i in range(4)]
    for age, key in enumerate(keys):
        cache.put_object(key, bytes(968))
        os.utime(cache._path("objects", key), (1000 + age, 1000 + age))
    assert cache.object(keys[0]) is not None
    cache.prune(2000)
    assert [cache.object(key) is not None for key in keys] == [True, False, False, True]


def test_a_directory_that_others_may_write_is_refused(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(CompileError, match="others may write to it"):
        Cache()
    (tmp_path / "file").write_text("")
    os.environ["STEPWELL_CACHE_DIR"] = str(tmp_path / "file" / "below")
    with pytest.raises(CompileError, match="cannot be made the cache"):
        Cache()


def aged(path):
    """Make a file look old enough for its hash to be remembered."""
    os.utime(path, (time.time() - 100, time.time() - 100))
    return path


def test_model_keys_follow_content_and_options(tmp_path):
    model = onnx.parser.parse_model(TEXT)
    onnx.save(model, tmp_path / "a.onnx")
    onnx.save(model, tmp_path / "b.onnx")
    first = model_key(aged(tmp_path / "a.onnx"), {"opt_level": 3})
    assert first and first == model_key(tmp_path / "a.onnx", {"opt_level": 3}) == model_key(
        tmp_path / "b.onnx", {"opt_level": 3}
    )
    assert first != model_key(tmp_path / "a.onnx", {"opt_level": 2})
    data = bytearray((tmp_path / "a.onnx").read_bytes())
    data[-1] ^= 1
    (tmp_path / "a.onnx").write_bytes(data)
    assert first != model_key(tmp_path / "a.onnx", {"opt_level": 3})
    assert model_key(tmp_path / "none.onnx") is None


def test_model_keys_follow_external_data(tmp_path):
    model = onnx.parser.parse_model(TEXT)
    weights = onnx.numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert external_locations((tmp_path / "m.onnx").read_bytes()) == ["w.bin"]
    aged(tmp_path / "w.bin")
    first = model_key(aged(tmp_path / "m.onnx"))
    assert first
    (tmp_path / "w.bin").write_bytes(b"\1" * (tmp_path / "w.bin").stat().st_size)
    assert model_key(tmp_path / "m.onnx") not in (None, first)
    (tmp_path / "w.bin").unlink()
    assert model_key(tmp_path / "m.onnx") is None


def test_unusual_external_data_is_not_guessed_at():
    assert external_locations(b"nothing") == []
    assert external_locations(b"..\x0a\x08location\x12\x03a/b..") == ["a/b"]
    assert external_locations(b"..\x0a\x08location\x1a\x03a/b..") is None
    assert external_locations(b"..\x0a\x08location") is None


def test_paths_out_of_the_directory_are_not_read(tmp_path):
    for location in (b"../x", b"/etc/passwd"):
        (tmp_path / "m.onnx").write_bytes(b"\x0a\x08location\x12" + bytes([len(location)]) + location)
        assert model_key(tmp_path / "m.onnx") is None


def test_keys_need_neither_onnx_nor_xdsl(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"anything")
    code = (
        "import sys; from stepwell.backends.cpu.cache import model_key; assert model_key(sys.argv[1])\n"
        "assert not {'xdsl', 'onnx'} & {name.split('.')[0] for name in sys.modules}"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.onnx")], check=True, env=environment)
