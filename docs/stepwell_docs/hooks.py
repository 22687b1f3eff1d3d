"""What mkdocs calls while it builds the site: it adds the generated pages and expands the patterns of `nav`."""

import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]


def on_files(files: Any, config: Any) -> Any:
    """Add the reference pages; they exist only in the site, so they cannot be out of date."""
    sys.path[:0] = [
        str(ROOT / "docs"),
        str(ROOT / "src"),
    ]  # mkdocs puts back what a hook changes while it is loaded
    from stepwell_docs.reference import reference_pages

    for path, text in reference_pages().items():
        files.append(File.generated(config, path, content=text))
    config.nav = expanded(config.nav, sorted(file.src_uri for file in files.documentation_pages()))
    return files


def expanded(nav: Any, pages: list[str]) -> Any:
    """`nav` with each pattern replaced by the pages that it matches in its own directory."""
    named = set(_plain_names(nav))

    def matches(pattern: str) -> list[str]:
        folder = pattern.rpartition("/")[0]
        return [
            page
            for page in pages
            if page.rpartition("/")[0] == folder and fnmatchcase(page, pattern) and page not in named
        ]

    def walk(entry: Any) -> list[Any]:
        if isinstance(entry, str):
            return matches(entry) if "*" in entry else [entry]
        if isinstance(entry, list):
            return [item for part in entry for item in walk(part)]
        ((title, inner),) = entry.items()
        if isinstance(inner, str) and "*" not in inner:
            return [entry]
        found = walk(inner)
        return [{title: found}] if found else []

    return walk(nav)


def _plain_names(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [] if "*" in nav else [nav]
    parts = nav if isinstance(nav, list) else list(nav.values())
    return [name for part in parts for name in _plain_names(part)]
