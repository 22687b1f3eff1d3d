"""Compiled models called from Python: results, checks, threads, memory, forks."""

import gc
import hashlib
import os
import stat
import subprocess
import sys
import threading
import time

import numpy as np
import onnx.numpy_helper
import onnx.parser
import pytest

import stepwell
from stepwell.errors import RunError
from stepwell.runtime import load
from stepwell.runtime.model import shape_function

BIAS = np.array([10, 20, 30, 40], np.float32)


@pytest.fixture
def affine(build):
    return load(build("affine"))


def random_rows(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(-8, 8, (n, 1000)).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 3, 1000, 7])
def test_run_and_call(affine, batch):
    x = np.random.default_rng(batch).normal(size=(batch, 4)).astype(np.float32)
    assert np.array_equal(affine.run({"x": x})["y"], 2 * x + BIAS)
    assert np.array_equal(affine(x), 2 * x + BIAS)


def test_empty_batch(affine):
    assert affine(np.zeros((0, 4), np.float32)).shape == (0, 4)


def test_signature(affine):
    assert [(i.name, i.dtype, i.shape) for i in affine.inputs] == [("x", "float32", ("batch", 4))]
    assert affine.metadata == {"producer": "by hand", "quote": 'a "\\ ?? \u00e9'}
    assert affine.threads == 2
    assert repr(affine) == "<stepwell.Model (x: float32[batch, 4]) -> (y: float32[batch, 4])>"


def test_signature_json_in_the_library_is_the_manifest_s(affine):
    import ctypes
    import json

    text = affine._library.handle.stepwell_signature_json
    text.restype = ctypes.c_char_p
    assert json.loads(text()) == affine.signature


def test_strided_unaligned_and_read_only_inputs(affine):
    big = np.arange(64, dtype=np.float32).reshape(8, 8)
    for x in (big[::2, ::2], big[:4, :4].T, big[::-1, 4:], np.broadcast_to(np.float32(3), (2, 4))):
        assert np.array_equal(affine(x), 2 * x + BIAS)
    raw = np.zeros(33, np.uint8)
    x = raw[1:].view(np.float32).reshape(2, 4)
    assert x.ctypes.data % 4 and np.array_equal(affine(x), np.tile(BIAS, (2, 1)))
    x = np.ones((2, 4), np.float32)
    x.flags.writeable = False
    assert np.array_equal(affine(x), 2 * x + BIAS)


class _Exporter:
    """Anything with DLPack's two methods, such as a torch tensor."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_dlpack_objects(affine):
    x = np.ones((2, 4), np.float32)
    assert np.array_equal(affine(_Exporter(x)), 2 * x + BIAS)


GOOD = np.zeros((2, 4), np.float32)


@pytest.mark.parametrize(
    ("feed", "parts"),
    [
        ({}, ["missing x", "expected x"]),
        ({"x": GOOD, "z": GOOD}, ["unknown z", "expected x"]),
        ({"z": GOOD}, ["missing x", "unknown z"]),
        (GOOD, ["ndarray", "expected a dict of x"]),
        ({"x": GOOD.astype(np.float64)}, ["'x'", "float64", "expected float32", "astype"]),
        ({"x": GOOD.astype(">f4")}, ["'x'", ">f4", "expected float32"]),
        ({"x": GOOD[0]}, ["rank 1", "expected 2", "[batch, 4]"]),
        ({"x": np.zeros((2, 5), np.float32)}, ["axis 1", "5", "expected 4"]),
        ({"x": [[1.0]]}, ["a list", "np.asarray"]),
        ({"x": None}, ["a NoneType"]),
    ],
)
def test_wrong_inputs_are_explained(affine, feed, parts):
    with pytest.raises(RunError) as caught:
        affine.run(feed)
    assert all(part in str(caught.value) for part in parts), str(caught.value)
    assert np.array_equal(affine(GOOD), GOOD + BIAS)


def test_wrong_number_of_arguments(affine):
    with pytest.raises(RunError, match=r"2 inputs, expected 1 \(x\)"):
        affine(GOOD, GOOD)


def test_output_of_data_dependent_shape(build):
    model = load(build("positives"))
    x = np.array([1, -1, 2, 0, 5, -3], np.float32)
    first = model(x)
    assert first.tolist() == [1, 2, 5]
    assert model(x[:2]).tolist() == [1]
    assert first.tolist() == [1, 2, 5]
    with pytest.raises(RunError, match="no element is positive here"):
        model(-np.abs(x))
    assert model(x).tolist() == [1, 2, 5]


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("spin", [True, False])
def test_same_bits_for_any_number_of_threads(build, threads, spin):
    x = np.random.default_rng(0).normal(size=(300, 1000)).astype(np.float32)
    want = load(build("rows"), threads=1)(x)
    model = load(build("rows"), threads=threads, spin=spin, poison=True)
    for _ in range(50):
        assert np.array_equal(model(x), want)


def test_same_bits_compiled_for_any_number_of_threads():
    """For many threads the rows of a long product are divided, which changes no sum."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(2048, 512)).astype(np.float32)
    net = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> net (float[120, 2048] x) => (float[120, 512] y)'
        "{ h = MatMul (x, w)  y = Relu (h) }"
    )
    net.graph.initializer.append(onnx.numpy_helper.from_array(w, "w"))
    x = rng.normal(size=(120, 2048)).astype(np.float32)
    one = stepwell.compile(net, threads=1)
    want = one(x)
    np.testing.assert_allclose(want, np.maximum(x @ w, 0), rtol=1e-3, atol=1e-3)
    tiles = {1: _tiles(one, x)}
    for threads in (3, 16):
        model = stepwell.compile(net, threads=threads)
        assert np.array_equal(model(x), want)
        tiles[threads] = _tiles(model, x)
    assert tiles[1] == tiles[3] < 16 <= tiles[16]


def _tiles(model: stepwell.Model, x: np.ndarray) -> int:
    (run,) = model.profile({"x": x}, runs=1).runs
    return sum(event.tiles for event in run if event.site >= 0)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinity of threads")
def test_a_worker_keeps_off_the_callers_processor(build):
    """A scheduler may queue it behind the caller, where it helps nobody; but it stays where the caller may be."""
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("one processor")
    before = set(os.listdir("/proc/self/task"))
    model = load(build("rows"), threads=2)
    own = min(allowed)
    try:
        os.sched_setaffinity(0, {own})  # of this thread only
        model(random_rows(300))
        (worker,) = set(os.listdir("/proc/self/task")) - before
        assert os.sched_getaffinity(int(worker)) == {own}, "there is no other processor: left alone"
        os.sched_setaffinity(0, allowed)
        os.sched_setaffinity(0, {own, max(allowed)})
        for _ in range(200):
            assert np.array_equal(model(random_rows(300)), random_rows(300).sum(1) + np.arange(300))
        assert os.sched_getaffinity(int(worker)) in ({own}, {max(allowed)}), "one of the two is the caller's"
    finally:
        os.sched_setaffinity(0, allowed)


def test_results_of_rows(build):
    model = load(build("rows"))
    for n in (1, 2, 64, 333):
        x = random_rows(n)
        assert np.array_equal(model(x), x.sum(1) + np.arange(n))


def test_calls_from_many_threads(build):
    model, errors = load(build("rows"), threads=2), []

    def call(seed: int) -> None:
        for n in range(1, 40):
            x = random_rows(n + seed)
            if not np.array_equal(model(x), x.sum(1) + np.arange(n + seed)):
                errors.append((seed, n))

    workers = [threading.Thread(target=call, args=(seed,)) for seed in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors


def test_call_after_fork(build):
    model, x = load(build("rows"), threads=2), random_rows(200)
    want = model(x)
    for _ in range(5):
        child = os.fork()
        if child == 0:
            os._exit(0 if np.array_equal(model(x), want) and np.array_equal(model(x), want) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert np.array_equal(model(x), want)


def test_beside_torch(build):
    """In turns and at the same time with torch on two OpenMP threads, both right."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(2)
    model, x = load(build("rows"), threads=2), random_rows(200)
    a = torch.arange(256 * 256, dtype=torch.float32).reshape(256, 256) % 7
    ours, theirs = model(x), a @ a
    errors = []

    def check(times: int) -> None:
        for _ in range(times):
            if not (torch.equal(a @ a, theirs) and np.array_equal(model(x), ours)):
                errors.append("in turns")

    check(200)
    workers = [threading.Thread(target=check, args=(100,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for _ in range(300):
        if not np.array_equal(model(x), ours):
            errors.append("at the same time")
    for worker in workers:
        worker.join()
    assert not errors


def test_a_call_of_a_small_model_costs_microseconds(affine):
    """3 to 5 us of CPU time from Python; twice that is allowed, for slower machines, and the fastest of many counts."""
    x, seconds = np.ones((1, 4), np.float32), []
    for _ in range(100):
        begin = time.thread_time()
        for _ in range(200):
            affine.run({"x": x})
        seconds.append((time.thread_time() - begin) / 200)
    assert min(seconds) < 10e-6


def test_bad_thread_counts(build):
    for threads in (0, -1, 257, 1.5):
        with pytest.raises(RunError, match="expected 1 to 256"):
            load(build("rows"), threads=threads)


def test_one_library_loaded_twice(build):
    first, second = load(build("affine")), load(build("affine"))
    assert np.array_equal(first(GOOD), second(GOOD))
    del first
    gc.collect()
    assert np.array_equal(second(GOOD), GOOD + BIAS)


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_load_and_unload_leak_nothing(build):
    def cycle(times: int) -> None:
        for _ in range(times):
            load(build("rows"), threads=2)(random_rows(20))
        gc.collect()

    cycle(50)
    before, files = _resident_bytes(), len(os.listdir("/proc/self/fd"))
    cycle(300)
    assert _resident_bytes() - before < 2 << 20
    assert len(os.listdir("/proc/self/fd")) == files


def test_runs_leak_nothing(affine):
    x = np.ones((64, 4), np.float32)
    for _ in range(1000):
        affine(x)
    before = _resident_bytes()
    for _ in range(20000):
        affine(x)
    assert _resident_bytes() - before < 1 << 20


def test_a_replaced_file_is_another_model(build, tmp_path):
    """The loader knows libraries by name: the new file under an old name must not give the old code."""
    path = tmp_path / "m.so"
    load(build("affine")).save(path)
    first = load(path)
    load(build("rows")).save(path)
    second = load(path)
    assert np.array_equal(second(np.ones((2, 1000), np.float32)), [1000, 1001])
    assert np.array_equal(first(GOOD), GOOD + BIAS)
    for _ in range(20):  # descriptors and addresses are used again
        load(build("affine")).save(path)
        load(path)(GOOD)
        load(build("rows")).save(path)
        load(path)(np.ones((1, 1000), np.float32))


def test_save_after_the_file_is_gone(build, tmp_path):
    load(build("affine")).save(tmp_path / "m.so")
    model = load(tmp_path / "m.so")
    (tmp_path / "m.so").unlink()
    model.save(tmp_path / "n.so")
    assert np.array_equal(load(tmp_path / "n.so")(GOOD), GOOD + BIAS)


def test_save_and_load(affine, tmp_path):
    affine.save(tmp_path / "saved.so")
    assert np.array_equal(load(tmp_path / "saved.so")(GOOD), GOOD + BIAS)
    assert os.listdir(tmp_path) == ["saved.so"]
    with pytest.raises(RunError, match="No such file"):
        affine.save(tmp_path / "none" / "saved.so")


def test_exit_with_a_live_model_is_clean(build):
    code = (
        "import sys, threading, numpy as np; from stepwell.runtime import load\n"
        "m = load(sys.argv[1], threads=3); x = np.ones((500, 1000), np.float32); m(x)\n"
        "def f():\n  while True: m(x)\n"
        "for _ in range(2): threading.Thread(target=f, daemon=True).start()\n"
    )
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code, str(build("rows"))], check=True, timeout=60)


class TestLoadingRefuses:
    """What is not ours is not opened, since opening runs code."""

    @pytest.fixture
    def copy(self, affine, tmp_path):
        affine.save(tmp_path / "m.so")
        return tmp_path / "m.so"

    def refused(self, path, message):
        with pytest.raises(RunError, match=message):
            load(path)

    def edit_manifest(self, path, old, new):
        data = path.read_bytes()
        end = len(data) - 48
        start = end - int.from_bytes(data[-16:-8], "little")
        text = data[start:end].replace(old, new)
        assert text != data[start:end]
        path.write_bytes(data[:start] + text + hashlib.sha256(text).digest() + data[-16:])

    def test_a_missing_file(self, tmp_path):
        self.refused(tmp_path / "none.so", "No such file")

    def test_a_directory_and_a_fifo(self, tmp_path):
        self.refused(tmp_path, "not a regular file")
        os.mkfifo(tmp_path / "fifo")
        self.refused(tmp_path / "fifo", "not a regular file")

    def test_another_kind_of_file(self, tmp_path):
        for data in (b"", b"x" * 100, b"x" * 40 + (1 << 40).to_bytes(8, "little") + b"STEPWELL"):
            (tmp_path / "x").write_bytes(data)
            self.refused(tmp_path / "x", "not a model that stepwell compiled")

    def test_a_flipped_bit(self, copy):
        data = bytearray(copy.read_bytes())
        for at, message in (
            (100, "not those that"),
            (len(data) // 3, "not those that"),
            (-200, "not a model"),
        ):
            damaged = bytearray(data)
            damaged[at] ^= 1
            copy.write_bytes(damaged)
            self.refused(copy, message)

    def test_a_cut(self, copy):
        copy.write_bytes(copy.read_bytes()[:-1])
        self.refused(copy, "cut short")

    def test_another_abi(self, copy):
        self.edit_manifest(copy, b'{"abi_version": 1', b'{"abi_version": 9')
        self.refused(copy, "version 9 of the interface, expected 1")

    def test_a_cpu_without_the_features(self, copy):
        self.edit_manifest(copy, b'"sse4_1"', b'"sse9_9"')
        self.refused(copy, "a CPU with sse9_9")

    def test_a_file_or_directory_that_anyone_may_write(self, copy):
        copy.chmod(0o777)
        self.refused(copy, "anyone may write to it")
        copy.chmod(0o755)
        copy.parent.chmod(0o777)
        self.refused(copy, "anyone may replace it")
        copy.parent.chmod(0o777 | stat.S_ISVTX)
        load(copy)


def test_shape_function():
    symbols = {"h": 7, "batch": 3}
    known = set(symbols)
    assert shape_function((2, "batch", "12*batch", "(h + 1) floordiv 2"), known)(symbols) == (2, 3, 36, 4)
    assert shape_function(("max(h, 9)", "h mod 4", "min(h, batch)"), known)(symbols) == (9, 3, 3)
    assert shape_function((), known)(symbols) == ()
    assert shape_function(("Dim.0 + 1", "a$b"), {"Dim.0", "a$b"})({"Dim.0": 4, "a$b": 2}) == (5, 2)
    for extent in ("s3", "h + s3", "__import__('os')", "h.x", "h[0]", "h +", "lambda"):
        assert shape_function((extent,), known) is None


def test_many_symbols_are_checked_in_c(build):
    """
    The C side holds a C caller to the same rules; here its message is reached by going round Python's check.
    """
    model = load(build("affine"))
    frame = model._new_frame()
    frame.words[0] = 0  # kind: absent
    assert model._library.run(*frame.arguments) == 1
    assert "expected a tensor of float32" in model._library.error_text(frame.context)
    model._library.destroy(frame.context)


def test_shapes_that_change_from_call_to_call(affine):
    for rows in (3, 1, 3, 7, 0, 7):
        x = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4)
        assert np.array_equal(affine(x), 2 * x + BIAS)
        with pytest.raises(RunError, match="axis 1"):
            affine(np.zeros((rows, 5), np.float32))
        assert np.array_equal(affine(x), 2 * x + BIAS)


def test_symbols_are_checked_when_one_input_keeps_its_shape(build):
    model = load(build("sums"))
    two, three = np.ones((2, 3), np.float32), np.ones((3, 3), np.float32)
    assert model(two, two)[0].shape == (2, 3)
    for a, b in ((two, three), (three, two), (two, three)):
        with pytest.raises(RunError, match="'n' is"):
            model(a, b)
    assert model(three, three)[0].shape == (3, 3)
