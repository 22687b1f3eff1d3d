"""
Files of rules as patterns and as passes. A file is compiled as Python compiles its own: once, and the code is kept in
`__pycache__`, so that a compilation of a model reads no grammar.
"""

import importlib.util
import marshal
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, make_dataclass
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation
from xdsl.passes import ModulePass
from xdsl.pattern_rewriter import RewritePattern

from stepwell.dialects.graph.core import OPERATORS
from stepwell.errors import CompileError
from stepwell.rewriting import rewrite
from stepwell.transforms.graph.emitter import functions_of, remove_dead_ops, update_function_type
from stepwell.transforms.rules.running import Rule, Site


@dataclass(frozen=True)
class Rules:
    """The patterns of one file."""

    path: Path
    source: str
    """The generated Python; empty where its code came from the cache."""
    classes: tuple[type[Rule], ...]

    def patterns(self, ctx: Context) -> list[RewritePattern]:
        """The patterns, for one run over a module."""
        site = Site(ctx)
        return [cls(site) for cls in self.classes]


class OpFinder:
    """Finds op classes by name: in the Context, which knows the ops of plug-ins too."""

    def __init__(self, ctx: Context):
        self.ctx = ctx

    def __call__(self, name: str) -> type[Operation] | None:
        allowed, self.ctx.allow_unregistered = self.ctx.allow_unregistered, False
        try:
            return self.ctx.get_optional_op(name) or self._newest(name)
        finally:
            self.ctx.allow_unregistered = allowed

    def _newest(self, name: str) -> type[Operation] | None:
        """An op of the graph that was defined after the dialect was read, by a module that the rules use."""
        return next((op for op in OPERATORS.values() if op.name == name), None)

    @property
    def names(self) -> Mapping[str, Iterable[str]]:
        """The ops of each dialect, for messages."""
        found: dict[str, list[str]] = {}
        for name in self.ctx.registered_dialect_names:
            dialect = self.ctx.get_optional_dialect(name)
            found[name] = [] if dialect is None else [op.name for op in dialect.operations]
        return found


def generate_rules(path: Path, text: str, ctx: Context) -> str:
    """The readable Python of the rules in `text`, which came from `path`."""
    from stepwell.transforms.rules.generation import generate
    from stepwell.transforms.rules.syntax import parse_rules

    return generate(parse_rules(text, str(path)), OpFinder(ctx), lambda module: use_module(module, path))


def load_rules(path: Path, ctx: Context) -> Rules:
    """The patterns of a file of rules; what is wrong in it is a `RuleError` with its line."""
    try:
        data = path.read_bytes()
        stamp = (str(path.resolve()), data, path.stat().st_mtime_ns)
    except OSError as error:
        raise CompileError(
            f"{path}: cannot be read: {error.strerror}; give the path of a .pat file"
        ) from error
    known = _LOADED.get(stamp)
    if known is None:
        known = _LOADED[stamp] = _load(path, data, ctx)
    return known


_LOADED: dict[tuple[str, bytes, int], Rules] = {}


def _load(path: Path, data: bytes, ctx: Context) -> Rules:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CompileError(f"{path}: is not UTF-8: {error.reason}; save it as UTF-8") from error
    cache, key = _cache_file(path), _key(path, data)
    code, source = _cached(cache, key), ""
    if code is None:
        source = generate_rules(path, text, ctx)
        code = compile(source, f"<{path.name}>", "exec")
        _keep(cache, key, code)
    else:
        for module in _used(text):
            use_module(module, path)
    namespace: dict[str, Any] = {"__name__": f"stepwell_rules_{path.stem}"}
    exec(code, namespace)
    return Rules(path, source, tuple(namespace["RULES"]))


def _used(text: str) -> list[str]:
    """The modules that a file names by `use`, without the grammar."""
    lines = [line.split("//")[0].split() for line in text.split("\n")]
    return [words[1].strip('"') for words in lines if len(words) == 2 and words[0] == "use"]


def use_module(name: str, path: Path) -> None:
    """Import a module of native functions: by its dotted name, or a file beside `path`."""
    if not name.endswith(".py"):
        importlib.import_module(name)
        return
    load_file((path.parent / name).resolve())


def load_file(path: Path) -> Any:
    """
    The module of the Python file at `path`, executed once; classes and functions find their module by its name. A file
    that has changed since is an error: what it defined is in use.
    """
    name = f"stepwell_plugin_{path.stem}"
    if (known := sys.modules.get(name)) is not None and getattr(known, "__file__", None) == str(path):
        if vars(known).get("__stamp__") != _stamp(path):
            raise ImportError(f"{path} has changed since this process has loaded it; start the process anew")
        return known
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    vars(module)["__stamp__"] = _stamp(path)
    sys.modules[name] = module  # dataclasses and inspect look a class's module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


# The code of rules, beside that of Python's own modules


def _cache_file(path: Path) -> Path:
    return Path(importlib.util.cache_from_source(str(path.with_suffix(".pat.py"))))


@cache
def _compiler_key() -> bytes:
    """The compiler of rules itself, and the Python whose byte code it makes."""
    here = Path(__file__).parent
    parts = [
        (here / name).read_bytes()
        for name in ("generation.py", "natives.py", "pat.lark", "running.py", "syntax.py")
    ]
    return importlib.util.source_hash(b"\0".join(parts)) + importlib.util.MAGIC_NUMBER


def _key(path: Path, data: bytes) -> bytes:
    helpers = [path.parent / name for name in _used(data.decode("utf-8")) if name.endswith(".py")]
    parts = [data, *(helper.read_bytes() for helper in helpers if helper.is_file())]
    return importlib.util.source_hash(b"\0".join(parts)) + _compiler_key()


def _cached(cache: Path, key: bytes) -> CodeType | None:
    with suppress(OSError, ValueError, EOFError, TypeError):
        data = cache.read_bytes()
        if data.startswith(key):
            code = marshal.loads(data[len(key) :])
            return code if isinstance(code, CodeType) else None
    return None


def _keep(cache: Path, key: bytes, code: CodeType) -> None:
    """As Python does for its modules: where the directory cannot be written, nothing is kept."""
    from stepwell.files import write_atomically

    if sys.dont_write_bytecode or not os.access(cache.parent.parent, os.W_OK):
        return
    with suppress(OSError):
        cache.parent.mkdir(exist_ok=True)
        write_atomically(cache, key + marshal.dumps(code))


# Rules as a pass


def apply_patterns(module: ModuleOp, ctx: Context, patterns: list[RewritePattern]) -> bool:
    """Rewrite the functions of a module until no pattern matches, and drop the ops of the graph that are then dead."""
    changed = False
    for function in functions_of(module):
        again = remove_dead_ops(function.body)
        while rewrite(function.body, patterns):
            again = True
            # A rule may ask whether a value has one reader, so the dead go before the next look.
            if not remove_dead_ops(function.body):
                break
        if again:
            update_function_type(function)
            changed = True
    return changed


def rules_pass(path: Path, name: str | None = None) -> type[ModulePass]:
    """A pass that applies the rules of a file; it is named after the file, its first comment says what it does."""
    text = path.read_text(encoding="utf-8")
    title = [line[2:].strip() for line in text.split("\n\n")[0].split("\n") if line.startswith("//")]
    title = title or [f"Apply the rules of {path.name}."]

    def apply(self: Any, ctx: Context, op: ModuleOp) -> None:
        apply_patterns(op, ctx, load_rules(path, ctx).patterns(ctx))

    words = [line.split("//")[0].split() for line in text.split("\n")]
    after = next((line[1] for line in words if len(line) == 2 and line[0] == "after"), None)
    document = (
        "\n".join(title)
        + "\nRequires: verified IR. Ensures: no rule of the file matches; no unused pure op of the graph."
    )
    members = {
        "name": name or path.stem.replace("_", "-"),
        "apply": apply,
        "after": after,
        "__doc__": document,
    }
    return make_dataclass("RulesPass", [], bases=(ModulePass,), namespace=members, frozen=True)
