"""
What users add without touching the compiler: passes, rewrite rules, ops with their meaning and lowering, dialects, targets.

A plug-in is a Python module (or a `.pat` file of rules). What it defines is found in it; nothing has to be called:

- a subclass of `ModulePass` is a pass; with `after = "simplify-graph"` it also joins every pipeline behind that pass;
- a class under `@operator` is an op of the graph; `@evaluates` gives its meaning, `@lowers` its lowering, and with
  `ONNX_DOMAIN` nodes of that domain are imported as it;
- an xDSL `Dialect` is a dialect, a `Target` a target, and the files that `RULES` lists are passes of rewrite rules.

Installed packages name theirs under the entry point `stepwell.plugins`; a file is given with `--load-pass`.
"""

import os
import re
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from stepwell import registry
from stepwell.errors import Error

GROUP = "stepwell.plugins"
"""The group of entry points."""

_loaded: set[str] = set()
"""Files and entry points that were adopted."""
_given: dict[str, None] = {}
"""The files of `--load-pass` as they were written there, in that order."""


def installed() -> list[str]:
    """The plug-ins of installed packages, as `name=module:attribute package version`; nothing is imported."""
    if os.environ.get("STEPWELL_PLUGINS", "") == "off" or not _any_installed():
        return []
    from importlib.metadata import entry_points

    found: list[str] = []
    for entry in entry_points(group=GROUP):
        package = f" {entry.dist.name} {entry.dist.version}" if entry.dist is not None else ""
        found.append(f"{entry.name}={entry.value}{package}")
    return sorted(found)


def _any_installed() -> bool:
    """Whether some package names our group: a look into files, since `importlib.metadata` takes 30 ms to import."""
    for directory in sys.path:
        with suppress(OSError), os.scandir(directory or ".") as entries:
            for entry in entries:
                if entry.name.endswith((".dist-info", ".egg-info")):
                    with suppress(OSError), open(os.path.join(entry.path, "entry_points.txt"), "rb") as file:
                        if GROUP.encode() in file.read():
                            return True
    return False


def load_plugins() -> None:
    """Adopt the plug-ins of installed packages, once a process. `STEPWELL_PLUGINS=off` leaves them out."""
    for text in installed():
        if text in _loaded:
            continue
        name, _, value = text.partition("=")
        module_name, _, function = value.split()[0].partition(":")
        try:
            module = import_module(module_name)
            if function:
                getattr(module, function)()
        except Exception as error:
            raise Error(
                f"plug-in '{name}' ({value}) cannot be loaded: {type(error).__name__}: {error}; mend or remove the package,"
                " or set STEPWELL_PLUGINS=off"
            ) from error
        adopt(module, text)
        _loaded.add(text)


def loaded_files() -> list[str]:
    """The plug-in files that this process has adopted: they stay, so every later compilation depends on them."""
    return sorted(name for name in _loaded if os.path.isabs(name))


def given_files() -> list[str]:
    """The files of `--load-pass`, as a command that does the same has to name them."""
    return list(_given)


def load_plugin_file(path: str) -> None:
    """Adopt the plug-in in a `.py` or `.pat` file; the same file is read once a process."""
    from stepwell.transforms.rules.loading import load_file

    file = Path(path)
    if not file.exists():
        raise Error(f"{path}: there is no such file; --load-pass takes a .py or .pat file")
    if not file.is_file() or file.suffix not in (".py", ".pat"):
        raise Error(
            f"{path}: not a plug-in; --load-pass takes a Python file (.py) or a file of rewrite rules (.pat)"
        )
    if file.suffix == ".pat":
        _adopt_rules(file.resolve())
    else:
        try:
            module = load_file(file.resolve())
        except Error:
            raise
        except Exception as error:
            raise Error(f"{path}: cannot be loaded: {type(error).__name__}: {error}") from error
        adopt(module, str(file.resolve()))
    _given[path] = None


def file_fingerprint(path: str) -> str:
    """What a compilation with the plug-in in a file depends on: the bytes of the file and of those beside it."""
    from hashlib import sha256

    file = Path(path)
    digest = sha256()
    try:
        for part in sorted({file, *file.parent.glob("*.pat"), *file.parent.glob("*.py")}):
            digest.update(part.read_bytes())
    except OSError as error:
        raise Error(
            f"{path}: cannot be read: {error.strerror}; give the path of a .py or .pat file"
        ) from error
    return digest.hexdigest()


def adopt(module: ModuleType, label: str) -> None:
    """Enter what a module defines into the tables of the compiler."""
    found = _adopt_passes(module) + _adopt_ops(module) + _adopt_values(module)
    for name in getattr(module, "RULES", ()):
        _adopt_rules((Path(module.__file__ or "").parent / name).resolve())
        found += 1
    if not found and label not in _loaded:
        why = "defines no pass, and no op, dialect, target or rules"
        raise Error(f'{label}: {why}; a pass is a subclass of xdsl.passes.ModulePass with a name = "..."')
    _loaded.add(label)


def _adopt_passes(module: ModuleType) -> int:
    from xdsl.passes import ModulePass

    count = 0
    for name, value in list(vars(module).items()):
        if isinstance(value, type) and issubclass(value, ModulePass) and value.__module__ == module.__name__:
            if "name" not in vars(value):
                continue  # a base of passes
            entry = f"{module.__name__}:{name}"
            _refuse_namesake(value.name, module.__name__, registry.PASSES.get(value.name) == entry)
            registry.PASSES[value.name] = entry
            _insert(value)
            count += 1
    return count


def _refuse_namesake(name: str, where: str, is_same: bool) -> None:
    """A pass must not take the place of another one unseen."""
    if name in registry.PASSES and not is_same:
        raise Error(f"{where}: there is a pass '{name}' already; give this one another name")


def _insert(cls: Any) -> None:
    """Put a pass that says `after` into the pipelines, behind the last pass of that name."""
    from stepwell.pipelines import PIPELINES

    behind = getattr(cls, "after", None)
    if not isinstance(behind, str):
        return
    if behind not in registry.PASSES:
        raise Error(
            f"pass '{cls.name}': there is no pass '{behind}' to stand after; see stepwell-opt --list-passes"
        )
    for name, text in PIPELINES.items():
        if re.search(rf"(?<![\w-]){re.escape(cls.name)}(?![\w-])", text):
            continue
        places = list(re.finditer(rf"(?<![\w-]){re.escape(behind)}(?![\w-])(\{{[^}}]*\}})?", text))
        if places:
            end = places[-1].end()
            PIPELINES[name] = f"{text[:end]}, {cls.name}{text[end:]}"


def _adopt_ops(module: ModuleType) -> int:
    """Ops that `@operator` has defined since the dialect was made."""
    from stepwell.compat import extend_dialect
    from stepwell.dialects.graph import GRAPH, ONNX_NAMES
    from stepwell.dialects.graph.core import OPERATORS

    new = {name: cls for name, cls in OPERATORS.items() if ONNX_NAMES.get(name) is not cls}
    extend_dialect(GRAPH, list(new.values()))
    ONNX_NAMES.update(new)
    return sum(cls.__module__ == module.__name__ for cls in OPERATORS.values())


def _adopt_values(module: ModuleType) -> int:
    """The dialects and targets that a module has made."""
    from xdsl.ir import Dialect

    from stepwell.targets import Target, add_target

    count = 0
    for name, value in list(vars(module).items()):
        if isinstance(value, Dialect) and value.name not in registry.DIALECTS:
            registry.DIALECTS[value.name] = f"{module.__name__}:{name}"
            count += 1
        elif isinstance(value, Target):
            add_target(value)
            count += 1
    return count


def _adopt_rules(path: Path) -> None:
    from stepwell.compat import new_context
    from stepwell.transforms.rules import load_rules, rules_pass

    load_rules(path, new_context(registry.DIALECTS))  # what is wrong in it is said now
    cls = rules_pass(path)
    _refuse_namesake(cls.name, str(path), str(path) in _loaded)
    registry.PASSES[cls.name] = cls
    _insert(cls)
    _loaded.add(str(path))
