"""The site builds without a warning, needs no network to be read, and its generated pages hold what the code has."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.snippets import ROOT

sys.path.append(str(ROOT / "docs"))

from stepwell_docs.reference import lit_example, reference_pages

from stepwell.compat import load_entry
from stepwell.pipelines import PIPELINES
from stepwell.registry import DIALECTS, PASSES


@pytest.fixture(scope="module")
def pages():
    return reference_pages()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[docs]'")
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install -e '.[docs]'")
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(directory)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return directory


class _Links(HTMLParser):
    """What a page links to, what it loads, and its anchors."""

    def __init__(self, text: str):
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = {key: value or "" for key, value in attrs}
        if "id" in values:
            self.anchors.add(values["id"])
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag in ("script", "img", "iframe") and "src" in values:
            self.loads.append(values["src"])
        elif tag == "link" and values.get("rel") in ("stylesheet", "preload", "preconnect", "icon"):
            self.loads.append(values.get("href", ""))


@pytest.mark.slow
def test_links_lead_somewhere_and_nothing_is_fetched(site):
    found = {path: _Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert len(found) > 50
    wrong = []
    for path, page in found.items():
        wrong += [f"{path.name} loads {url}" for url in page.loads if urlsplit(url).netloc]
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path not in ("", ".") else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                wrong.append(f"{path.name} links to {link}")
            elif parts.fragment and target in found and unquote(parts.fragment) not in found[target].anchors:
                wrong.append(f"{path.name} links to {link}: no such anchor")
    assert not wrong, "\n".join(wrong)
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet.name


@pytest.mark.slow
def test_every_page_is_in_the_navigation(site):
    index = (site / "index.html").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        path = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        assert f'href="{path}"' in index or path == "index.html", f"{path} cannot be reached"


def test_every_op_and_pass_has_its_section(pages):
    operations = "\n".join(text for path, text in pages.items() if path.startswith("reference/ops/"))
    for name, entry in DIALECTS.items():
        for op in load_entry(entry).operations:
            assert f"## {op.name} {{" in operations or f"| `{op.name}` |" in operations, (
                f"{op.name} of {name}"
            )
    for name in PASSES:
        assert f"\n## {name}\n" in pages["reference/passes.md"]
    for name in PIPELINES:
        assert f"| `{name}` |" in pages["reference/pipelines.md"]


def test_every_dialect_says_why_it_is_there():
    from stepwell_docs.operations import rationale_of

    for name in DIALECTS:
        path = ROOT / "docs" / "dialects" / rationale_of(name)[1]
        assert path.exists(), (
            f"write {path.relative_to(ROOT)}: why the dialect exists, its invariants, what it must not say"
        )


def test_op_pages_say_what_the_code_says(pages):
    conv = pages["reference/ops/graph-contraction.md"].split("## graph.conv {")[1].split("\n## ")[0]
    assert "| operand | `b` | optional |" in conv and "| attribute | `group` |  | `1` |" in conv
    assert "Traits: Pure." in conv and "onnx__Conv.html" in conv
    assert re.search(r"```mlir\n%\d+ = graph.conv %", conv)
    assert "Write `stepwell.target" in pages["reference/passes.md"].split("\n## set-target\n")[1]
    for command in ("stepwell compile", "stepwell bench", "stepwell-opt", "stepwell-translate"):
        assert f"## {command}\n\n```text\nusage: " in pages["reference/commands.md"]
    assert "| 2 | `stepwell.UnsupportedError` |" in pages["reference/exit-codes.md"]
    assert (
        "int stepwell_run(" in pages["reference/c.md"]
        and "## stepwell.compile" in pages["reference/python.md"]
    )


def test_examples_of_ops_read_back():
    """An example is a line of IR: it parses, with its operands as arguments."""
    from stepwell_docs.examples import graph_examples

    from stepwell.compat import new_context, parse_module

    examples = graph_examples()
    assert len(examples) > 150
    ctx = new_context(DIALECTS)
    for name, line in examples.items():
        head, _, types = line.rpartition(" : (")
        operands = re.findall(r"%[\w$.-]+", head.partition(" = ")[2])
        kinds = _split(types.split(") -> ")[0]) if operands else []
        arguments = dict(zip(operands, kinds, strict=True))
        text = ", ".join(f"{operand}: {kind}" for operand, kind in arguments.items())
        parse_module(ctx, f"func.func @main({text}) {{\n{line}\nfunc.return\n}}"), name


def _split(types: str) -> list[str]:
    """The types of a list; commas inside brackets do not part them."""
    parts, depth = [""], 0
    for character in types:
        depth += {"<": 1, "[": 1, ">": -1, "]": -1}.get(character, 0)
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def test_passes_have_an_example():
    without = [name for name in PASSES if lit_example(name) is None]
    assert len(without) < len(PASSES) / 3, without


def test_nav_patterns_take_each_page_once():
    hooks = pytest.importorskip("stepwell_docs.hooks", reason="mkdocs is not installed", exc_type=ImportError)
    nav = [{"A": ["a.md", "x/*.md"]}, {"B": ["*.md", {"C": "none/*.md"}]}, "b.md"]
    pages = ["a.md", "b.md", "c.md", "x/1.md", "x/2.md", "y/3.md"]
    assert hooks.expanded(nav, pages) == [{"A": ["a.md", "x/1.md", "x/2.md"]}, {"B": ["c.md"]}, "b.md"]
