"""Profiles: every launch is there with the layers it computes, its time and its counts; nothing is noted unasked."""

import json

import numpy as np
import pytest

import stepwell
from stepwell.errors import RunError
from stepwell.runtime.profile import Event, Profile, Site
from tests.small_models import MODELS


@pytest.fixture(scope="module")
def net():
    return stepwell.compile(MODELS["conv_net"](), cache=False)


def image():
    return np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)


def test_every_layer_of_the_model_is_in_the_profile(net):
    profile = net.profile({"x": image()}, runs=3)
    layers = {layer for row in profile.rows() for layer in row.site.layers}
    # Flatten moves nothing, so no kernel computes it.
    assert layers == {"c0", "r0", "p0", "c1", "a1", "g", "d", "y"}
    assert len(profile.runs) == 3


def test_counts_are_those_of_the_layers(net):
    rows = net.profile({"x": image()}, runs=1).rows()
    conv = next(row.site for row in rows if row.site.kernel.startswith("conv_0"))
    outputs = 8 * 8 * 8
    assert conv.operations is not None and conv.bytes is not None
    # 27 products and sums an output, then the bias or ReLU once or twice.
    assert outputs * 2 * 27 <= conv.operations <= outputs * (2 * 27 + 2)
    weights, padded = 8 * 27 * 4, 3 * 18 * 18 * 4
    assert outputs * 4 + weights <= conv.bytes <= 2 * outputs * 4 + 2 * (weights + padded)
    dense = next(row.site for row in rows if row.site.layers == ("d",))
    assert 2 * 8 * 10 <= (dense.operations or 0) <= 2 * 8 * 10 + 20


def test_times_are_within_the_run_and_in_order(net):
    profile = net.profile({"x": image()}, runs=2)
    for run in profile.runs:
        whole, *launches = run
        assert whole.site == -1 and launches
        assert [event.site for event in launches] == sorted(event.site for event in launches)
        last = whole.begin_ns
        for event in launches:
            assert last <= event.begin_ns <= event.end_ns <= whole.end_ns
            last = event.end_ns
    assert sum(row.ns for row in profile.rows()) <= profile.run_ns


def test_tiles_of_all_threads_are_the_launch(build):
    model = stepwell.load(build("rows"), threads=2)
    x = np.ones((500, 1000), np.float32)
    profile = model.profile({"x": x}, runs=4)
    for run in profile.runs:
        for site in (0, 1):
            assert sum(event.tiles for event in run if event.site == site) == 500
            parts = [event for event in run if event.site == site]
            # The caller's part is the whole launch, however late it came to work itself.
            assert parts[0].thread == 0
            assert all(parts[0].begin_ns <= p.begin_ns <= p.end_ns <= parts[0].end_ns for p in parts)
    threads = {event.thread for run in profile.runs for event in run}
    assert threads <= {0, 1} and 0 in threads


def test_unknown_launches_are_still_timed(build):
    """A library whose manifest names no launches."""
    rows = stepwell.load(build("rows")).profile({"x": np.ones((9, 1000), np.float32)}, runs=1).rows()
    assert [row.site.kernel for row in rows] == ["launch 0", "launch 1"]
    assert rows[0].gflops is None


def test_unknown_extents_have_times_but_no_rates():
    model = stepwell.compile(MODELS["mlp_batch"](), cache=False)
    rows = model.profile({"x": np.ones((3, 20), np.float32)}, runs=1).rows()
    assert {layer for row in rows for layer in row.site.layers} >= {"m0", "t", "n", "y"}
    assert all(row.site.operations is None for row in rows if row.site.kernel.startswith("matmul"))


def test_a_plain_run_notes_nothing(net):
    frame = net._frames[0]
    net.run({"x": image()})
    assert net._library.events(frame.context) == []


def test_wrong_inputs_and_counts_are_refused(net):
    with pytest.raises(RunError, match="missing x"):
        net.profile({})
    with pytest.raises(RunError, match="1 or more"):
        net.profile({"x": image()}, runs=0)


def profile_by_hand() -> Profile:
    sites = [Site("conv_0", ("conv", "relu"), 2000, 500), Site("border_0", (), None, None)]
    runs = [
        [Event(-1, 0, 0, 10_000 + k, 0), Event(0, 0, 0, 1000 * k, 3), Event(0, 1, 10, 900, 5), Event(1, 0, 5000, 5100, 1)]
        for k in (4, 2, 3)
    ]  # fmt: skip
    return Profile(sites, runs)


def test_table():
    table = profile_by_hand().table()
    conv = next(line for line in table.split("\n") if "conv_0" in line)
    assert conv.split() == ["2.00", "20.0%", "1.0", "0.2", "0.00", "conv_0", "conv", "+", "relu"]
    assert "7.90  79.0%" in table and "between launches" in table
    short = profile_by_hand().table(limit=1)
    assert "border_0" not in short and "1 more launches" in short


def test_chrome_trace():
    trace = json.loads(profile_by_hand().chrome_trace())
    slices = [entry for entry in trace["traceEvents"] if entry["ph"] == "X"]
    assert len(slices) == 12
    conv = next(entry for entry in slices if entry["name"] == "conv + relu" and entry["tid"] == 1)
    assert conv["ts"] == 0.01 and conv["dur"] == 0.89 and conv["args"]["tiles"] == 5
    assert {entry["args"]["name"] for entry in trace["traceEvents"] if entry["ph"] == "M"} == {
        "caller",
        "worker 1",
    }
