"""The page of a compilation: what it holds, and what it does in a real browser."""

import json
import re
import zlib
from base64 import b64decode
from io import StringIO

import numpy as np
import onnx
import pytest

from stepwell.compiler import Compilation, Options
from stepwell.explore import record, write_page
from stepwell.explore.page import data_of, page_of
from stepwell.tools.stepwell import main
from tests.small_models import MODELS
from tests.unit.explore.browser import Browser, find_browser

LEVELS = ["model", "graph", "tensor", "kernels", "loops", "memref", "llvm", "ll", "asm"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("explore") / "net.onnx"
    onnx.save(MODELS["conv_net"](), path)
    return path


@pytest.fixture(scope="module")
def recording(model):
    made = record(str(model), Options(), "<net> & co")
    made.measure(lambda inputs: {"x": np.zeros((1, 3, 16, 16), np.float32)}, runs=2)
    return made


@pytest.fixture(scope="module")
def data(recording):
    return data_of(recording)


@pytest.fixture(scope="module")
def page(recording, tmp_path_factory):
    path = tmp_path_factory.mktemp("explore") / "page.html"
    assert write_page(recording, path) == path.stat().st_size
    return path


def last_step(data, level):
    return dict([parts for stage, _, _, parts in data["steps"] if stage == level][-1])


def layers_at(data, level):
    """The names of the layers that some line of the level belongs to."""
    found = set()
    for chunk in last_step(data, level).values():
        for number, _ in data["chunks"][chunk]["l"]:
            found.update(data["layers"][layer][0] for layer in data["sets"][number])
    return found


@pytest.mark.parametrize("level", LEVELS)
def test_every_layer_is_found_at_every_level(data, level):
    names = {name for name, _, _ in data["layers"]}
    # Flatten is a reshape: it is gone where tensors have become kernels and bytes.
    gone = set() if level in ("model", "graph", "tensor") else {"f"}
    assert names - gone <= layers_at(data, level) | ({"g", "f"} if level == "graph" else set())


def test_text_is_what_the_compiler_writes(data, model):
    compilation = Compilation(Options())
    compilation.read(str(model))
    compilation.lower_to("kernels")
    text, _ = compilation.ir_text()
    squeezed = re.sub(r"\s+", " ", text)
    for name, chunk in last_step(data, "kernels").items():
        if name != "module":
            assert re.sub(r"\s+", " ", data["chunks"][chunk]["t"]) in squeezed


def test_every_line_has_an_entry_and_steps_share_texts(data):
    for chunk in data["chunks"]:
        assert sum(count for _, count in chunk["l"]) == chunk["t"].count("\n") + 1
    uses = [chunk for _, _, _, parts in data["steps"] for _, chunk in parts]
    assert len(set(uses)) == len(data["chunks"]) < len(uses) / 2


def test_kernels_have_code_and_times(data):
    llvm, assembly = last_step(data, "ll"), last_step(data, "asm")
    for launch in data["launches"]:
        assert launch["kernel"] in llvm and launch["kernel"] in assembly
        assert launch["modelled_ns"] > 0 and launch["measured_ns"] >= 0
    assert data["measured"]["run_ns"] >= sum(launch["measured_ns"] for launch in data["launches"])
    conv = next(launch for launch in data["launches"] if launch["kernel"] == "conv_0")
    assert "fma" in data["chunks"][assembly["conv_0"]]["t"] and conv["operations"] > 8 * 8 * 8 * 54


def test_buffers_that_live_together_do_not_overlap(data):
    buffers = data["memory"]["buffers"]
    assert len(buffers) > 3 and data["memory"]["unknown"] == 0
    for a in buffers:
        assert 0 <= a["offset"] <= a["offset"] + a["size"] <= data["memory"]["bytes"]
        assert 0 <= a["first"] <= a["last"] < data["memory"]["launches"]
        for b in buffers:
            if a is not b and a["first"] <= b["last"] and b["first"] <= a["last"]:
                assert a["offset"] + a["size"] <= b["offset"] or b["offset"] + b["size"] <= a["offset"]


def test_unknown_extents(tmp_path):
    data = data_of(record(MODELS["conv_net_batch"](), Options(), "net"))
    # One small constant tensor has a known place, the activations have none.
    assert data["memory"]["unknown"] >= 5 and sum(b["size"] for b in data["memory"]["buffers"]) <= 64
    assert all(launch["measured_ns"] is None for launch in data["launches"])


def test_page_is_one_safe_file(recording):
    text = page_of(recording)
    assert "&lt;net&gt; &amp; co" in text and "<net>" not in text
    assert not re.search(r"(src|href)\s*=|@import|url\(", text)
    packed = re.search(r'<script id="data" type="text/plain">([A-Za-z0-9+/=]+)</script>', text)
    assert packed and json.loads(zlib.decompress(b64decode(packed[1])))["title"] == "<net> & co"


def test_command(model, tmp_path):
    out, err = StringIO(), StringIO()
    path = tmp_path / "net.html"
    assert main(["explore", str(model), "--run", "-o", str(path)], out, err) == 0
    assert path.stat().st_size < 200_000 and f"{path}: 0.1 MB" in err.getvalue()
    assert main(["explore", str(model), "-o", str(tmp_path / "no" / "x.html")], out, err) == 1


def test_a_module_from_a_lower_level(model, tmp_path):
    compilation = Compilation(Options())
    compilation.read(str(model))
    compilation.lower_to("llvm")
    compilation.write_ir(tmp_path / "low.ir")
    data = data_of(record(str(tmp_path / "low.ir"), Options(), "low"))
    assert [stage for stage, *_ in data["steps"]] == ["model", "ll", "asm"]
    assert all(launch["modelled_ns"] is None for launch in data["launches"])


# In the browser


@pytest.fixture(scope="module")
def browser():
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium on PATH (apt-get install chromium, or set STEPWELL_BROWSER)")
    with Browser(program) as opened:
        yield opened


@pytest.fixture
def opened(browser, page):
    browser.events.clear()
    browser.open(page.as_uri())
    yield browser
    assert browser.errors() == []


def layer_named(name):
    return f"[...document.querySelectorAll('.layer')].find(l => l.firstChild.data === '{name}')"


def test_page_asks_for_nothing(opened, page):
    assert opened.requests() == [page.as_uri()]
    assert opened.evaluate("document.querySelector('h1').textContent") == "<net> & co"
    assert opened.evaluate("document.querySelectorAll('.layer').length") == 9


def test_a_layer_is_shown_at_every_level_and_back(opened):
    opened.evaluate("state.columns = levels.map((_, i) => i), show()")
    opened.evaluate(f"{layer_named('c1')}.click()")
    for level in LEVELS:
        lines = opened.evaluate(
            f"[...document.querySelectorAll('.column[data-level={level}] .l.on')].map(l => l.textContent)"
        )
        assert lines, level
        if level in ("model", "graph"):
            assert any("graph.conv" in line and "group = 8" in line for line in lines)
    place = opened.evaluate(
        "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {"
        "const column = document.querySelector('.column[data-level=llvm]');"
        "const line = column.querySelector('.l.on').getBoundingClientRect(), box = column.getBoundingClientRect();"
        "done(line.top >= box.top && line.bottom <= box.bottom); })))"
    )
    assert place, "the first line of the layer is in sight"
    # From a line of assembly back to the layer, its place in the list, and its line in the model.
    opened.evaluate("state.layer = null, show()")
    assert opened.evaluate("document.querySelectorAll('.l.on').length") == 0
    opened.evaluate(
        "(card => { card.open = true; card.dispatchEvent(new Event('toggle')); card.querySelector('.l').click(); })"
        "(document.querySelector('.column[data-level=asm] details[data-part=conv_1]'))"
    )
    assert opened.evaluate("document.querySelector('.layer[aria-selected=true]').firstChild.data") == "c1"
    shown = "[...document.querySelectorAll('.column[data-level=model] .l.on')].map(l => l.textContent)"
    assert sum("graph.conv" in line for line in opened.evaluate(shown)) == 1
    assert opened.evaluate("document.querySelector('#selected button').textContent") == "c1"


def test_columns_come_and_go(opened):
    assert opened.evaluate("[...document.querySelectorAll('.column')].map(c => c.dataset.level)") == [
        "graph",
        "kernels",
    ]
    opened.evaluate("document.querySelectorAll('.column button')[0].click()")
    opened.evaluate(
        "(s => { s.value = 0; s.dispatchEvent(new Event('change')); })(document.querySelector('.column select'))"
    )
    assert opened.evaluate("[...document.querySelectorAll('.column')].map(c => c.dataset.level)") == [
        "model",
        "tensor",
        "kernels",
    ]
    opened.evaluate("document.querySelectorAll('.column')[1].querySelectorAll('button')[1].click()")
    assert opened.evaluate("[...document.querySelectorAll('.column')].map(c => c.dataset.level)") == [
        "model",
        "kernels",
    ]


def test_passes_show_what_they_changed(opened):
    opened.evaluate("document.querySelector('[data-tab=passes]').click()")
    quiet = opened.evaluate("[...document.querySelectorAll('.quiet')].map(q => q.textContent)")
    loud = opened.evaluate("[...document.querySelectorAll('details[data-part]')].map(d => d.dataset.part)")
    assert any("changed nothing" in line for line in quiet) and "pack-weights" in loud and "vectorise" in loud
    assert not any(line.startswith("vectorise") for line in quiet)
    assert opened.evaluate("document.querySelectorAll('.l').length") == 0, (
        "nothing is made before it is asked for"
    )
    opened.evaluate(
        "(d => { d.open = true; d.dispatchEvent(new Event('toggle')); })(document.querySelector('details[data-part=fold-unit-reshapes]') || document.querySelector('details[data-part=pack-weights]'))"
    )
    assert opened.evaluate("document.querySelectorAll('.l.add').length") > 0
    assert opened.evaluate("document.querySelectorAll('.l.del').length") > 0


def test_remarks_stand_with_their_pass_and_their_layer(opened, data):
    said = [(data["steps"][step][1].split("{")[0], text) for step, _, text, _ in data["remarks"]]
    assert said and {kind for _, kind, _, _ in data["remarks"]} <= {"applied", "missed"}
    by, text = said[0]
    opened.evaluate("document.querySelector('[data-tab=passes]').click()")
    opened.evaluate(
        f"(d => {{ d.open = true; d.dispatchEvent(new Event('toggle')); }})(document.querySelector('details[data-part^={by}]'))"
    )
    assert text in opened.evaluate("document.querySelector('.remark').textContent")
    about = next(i for i, (_, _, _, s) in enumerate(data["remarks"]) if data["sets"][s])
    layer = data["sets"][data["remarks"][about][3]][0]
    opened.evaluate(f"document.querySelector('[data-layer=\"{layer}\"]').click()")
    shown = opened.evaluate("[...document.querySelectorAll('#selected .remark')].map(r => r.textContent)")
    assert any(data["remarks"][about][2] in line for line in shown)


def test_kernels_are_listed_and_sorted(opened, data):
    opened.evaluate("document.querySelector('[data-tab=kernels]').click()")
    assert opened.evaluate("document.querySelectorAll('tbody tr').length") == len(data["launches"])
    opened.evaluate("[...document.querySelectorAll('th')].find(t => t.textContent === 'MFLOP').click()")
    assert "conv_0" in opened.evaluate("document.querySelector('tbody tr').textContent")
    opened.evaluate("document.querySelector('tbody tr').click()")
    assert opened.evaluate("state.tab") == "levels"
    assert opened.evaluate("document.querySelector('.layer[aria-selected=true]').firstChild.data") == "c0"


def test_memory_is_drawn(opened, data):
    opened.evaluate("document.querySelector('[data-tab=memory]').click()")
    assert opened.evaluate("document.querySelectorAll('svg rect').length") == len(data["memory"]["buffers"])
    assert opened.evaluate(
        "[...document.querySelectorAll('svg rect')].every(r => r.getBBox().height > 0 && r.getBBox().width > 0)"
    )


def test_search(opened):
    opened.evaluate(
        "(s => { s.value = 'soft'; s.dispatchEvent(new Event('input')); })(document.getElementById('search'))"
    )
    assert opened.evaluate("[...document.querySelectorAll('.layer')].filter(l => !l.hidden).length") == 1


def longest_common(a, b):
    best = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            best[i + 1][j + 1] = best[i][j] + 1 if x == y else max(best[i][j + 1], best[i + 1][j])
    return best[-1][-1]


def test_differences_are_true_and_least(opened):
    rng = np.random.default_rng(0)
    pairs = [([*"abcabba"], [*"cbabac"]), ([], []), ([], ["a"]), (["a"], [])]
    for _ in range(60):
        pairs.append(tuple([str(v) for v in rng.integers(0, 4, rng.integers(0, 14))] for _ in range(2)))
    results = opened.evaluate(f"{json.dumps(pairs)}.map(([a, b]) => diffLines(a, b))")
    for (a, b), edits in zip(pairs, results, strict=True):
        assert [text for sign, text in edits if sign != "-"] == list(b)
        assert [text for sign, text in edits if sign != "+"] == list(a)
        assert sum(sign == " " for sign, _ in edits) == longest_common(a, b)
    whole = opened.evaluate("diffLines(['x', 'a', 'b', 'y'], ['x', 'c', 'd', 'e', 'y'], 2)")
    assert [sign for sign, _ in whole] == [" ", "-", "-", "+", "+", "+", " "]


def test_renumbered_lines_are_equal(opened):
    edits = opened.evaluate("diffLines(['%1 = f %0', '%2 = g %1'], ['%1 = f %0', '%2 = h', '%3 = g %1'])")
    assert [sign for sign, _ in edits] == [" ", "+", " "]
