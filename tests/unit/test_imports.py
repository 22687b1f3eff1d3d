"""The shape of the tree: who imports whom, what the registry promises, links and packages."""

import ast
import importlib
import re
from inspect import getdoc
from pathlib import Path

import pytest
from xdsl.ir import Dialect
from xdsl.passes import ModulePass

from stepwell.compat import AbsentModuleError, load_entry
from stepwell.registry import BACKENDS, DIALECTS, FILE_BACKENDS, FRONTENDS, PASSES

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "stepwell"
PACKAGES = (
    "backends",
    "conversion",
    "dialects",
    "explore",
    "frontends",
    "interpreter",
    "language_server",
    "runtime",
    "tools",
    "transforms",
)

# A module may import what stands in its own line or in one above it.
ORDER = (
    ("errors", "files", "diagnostics", "remarks", "resources", "compat", "dominance", "effects", "verification", "ir_files", "rewriting", "targets"),
    ("dialects",),
    ("interpreter",),
    ("transforms",),
    ("conversion",),
    ("frontends", "backends"),
    ("runtime",),
    ("registry",),
    ("pipeline_text", "pipelines", "plugins", "skeletons", "costs", "reproducers"),
    ("comparison", "execution", "predicates", "reduction", "native_check", "sampling", "checking", "compiler", "session", "worker", "__init__"),
    ("explore", "language_server"),
    ("tools",),
)  # fmt: skip
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}

ABSENT: set[str] = set()
"""Registry entries that are not built yet. Entries may only leave this set."""

TABLES = {
    "DIALECTS": DIALECTS,
    "PASSES": PASSES,
    "FRONTENDS": FRONTENDS,
    "BACKENDS": BACKENDS,
    "FILE_BACKENDS": FILE_BACKENDS,
}
ENTRIES = [(table, name, entry) for table, entries in TABLES.items() for name, entry in entries.items()]


def modules():
    """Every module of the package: its dotted name without `stepwell.`, and its file."""
    for path in sorted(SOURCE.glob("*.py")):
        yield path.stem, path
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(part for part in parts if part != "__init__"), path


def imports_of(path: Path):
    """The stepwell modules that a file imports, with the line; type-checking imports do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            skipped.update(inner for statement in node.body for inner in ast.walk(statement))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "stepwell":
            names = [node.module.removeprefix("stepwell").removeprefix(".")]
            if not names[0]:
                names = [alias.name if alias.name in RANK else "__init__" for alias in node.names]
            for name in names:
                yield name, node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "stepwell":
                    yield alias.name.removeprefix("stepwell").removeprefix(".") or "__init__", node.lineno


def test_every_module_has_a_rank():
    assert {name.split(".")[0] for name, _ in modules()} <= set(RANK)


def test_imports_point_one_way():
    wrong = []
    for name, path in modules():
        own = name.split(".")[0] or "__init__"
        for target, line in imports_of(path):
            other = target.split(".")[0]
            if RANK[other] > RANK[own]:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {own} imports {other}")
            if {own, other} == {"frontends", "backends"}:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: frontends and backends know each other")
    assert wrong == []


def test_private_parts_of_xdsl_are_touched_in_compat_only():
    users = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for name, path in modules()
        if name != "compat"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("xdsl")
        if any(alias.name.startswith("_") for alias in node.names)
    ]
    assert users == []


@pytest.mark.parametrize(("table", "name", "entry"), ENTRIES, ids=[f"{t}-{n}" for t, n, _ in ENTRIES])
def test_registry_entry(table, name, entry):
    module, _, attribute = entry.partition(":")
    assert attribute, "an entry is module:name"
    try:
        value = load_entry(entry)
    except AbsentModuleError:
        assert f"{table}: {name}" in ABSENT, f"{entry} cannot be loaded"
        pytest.skip("not built yet")
    assert f"{table}: {name}" not in ABSENT, "it is built now: take it out of ABSENT"
    if table == "DIALECTS":
        assert isinstance(value, Dialect) and value.name == name
    elif table == "PASSES":
        assert issubclass(value, ModulePass) and value.name == name
        assert (getdoc(value) or "").strip(), "a pass says what it does"
        assert importlib.import_module(value.__module__).__doc__, "a pass file says what it is for"
        stem = value.__module__.rsplit(".", 1)[-1]
        snake = name.replace("-", "_")
        assert stem == snake or f".{snake}" in f".{module}" or "to_llvm" in module, "file and pass agree"
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)
    else:
        assert callable(value) and (getdoc(value) or "").strip()


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_are_linked(package):
    link = SOURCE / package
    assert link.is_symlink() and link.resolve() == ROOT / package
    assert not str(link.readlink()).startswith("/"), "relative, so that a checkout can move"


def test_every_code_directory_is_a_package():
    lacking = {
        str(path.parent.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    }
    assert lacking == set()
