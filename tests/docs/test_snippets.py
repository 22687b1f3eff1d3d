"""Every command, script and expected output in the tutorial and the how-to pages is what the code does."""

import pytest

from tests.docs.snippets import ROOT, Mismatch, blocks_of, matches, run_pages

DOCS = ROOT / "docs"
SINGLE = [DOCS / "getting-started.md", *sorted((DOCS / "how-to").glob("*.md"))]
TUTORIAL = sorted((DOCS / "tutorial").glob("*.md"))


@pytest.mark.slow
@pytest.mark.parametrize("page", SINGLE, ids=lambda page: page.stem)
def test_page(page, tmp_path):
    run_pages([page], tmp_path)


@pytest.mark.slow
def test_tutorial(tmp_path):
    assert len(TUTORIAL) == 7
    run_pages(TUTORIAL, tmp_path)


def test_commands_have_an_expected_output():
    for page in TUTORIAL:
        blocks = [block for block in blocks_of(page) if block.title is None]
        assert any(block.expected for block in blocks), f"{page.name} shows no output"


def test_ellipsis():
    assert matches("a ... z\nend", "a b c z  \nend\n")
    assert matches("...\nx", "1\n2\nx")
    assert not matches("a", "a b")
    assert not matches("a ... z", "a b c")


def test_a_wrong_page_is_found(tmp_path):
    page = ROOT / "docs" / "levels.md"  # only its place counts
    from tests.docs import snippets

    environment = snippets._environment(tmp_path)
    block = snippets.Block(f"{page}:1", "sh", None, "echo 1; echo 2 >&2", "1\n3")
    with pytest.raises(Mismatch, match="prints\n1\n2"):
        snippets._run(block, tmp_path, environment)
    with pytest.raises(Mismatch, match="status 1"):
        snippets._run(snippets.Block("x:1", "sh", None, "false | true"), tmp_path, environment)
