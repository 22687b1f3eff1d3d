"""
What passes say of their work: what they did, and what they could not do and why, by the names of the model's layers.

    if listening():
        missed(op, f"not vectorised: {reason}", kernel=name)

Nothing is said, and nothing computed for it, unless somebody listens: `with collected() as remarks: ...`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from xdsl.ir import Operation

from stepwell import diagnostics
from stepwell.diagnostics import place_of
from stepwell.errors import CompileError

KINDS = ("applied", "missed", "all")
_SHOWN_LAYERS = 4


@dataclass(frozen=True)
class Remark:
    """One sentence of a pass about one place of the program."""

    kind: str
    """`applied` or `missed`."""
    by: str
    """The pass."""
    where: str
    layers: tuple[str, ...]
    """The names of the ONNX nodes that the op stands for."""
    what: str
    values: Mapping[str, Any] = field(default_factory=dict)
    """The numbers behind the sentence, by name."""

    def __str__(self) -> str:
        numbers = ", ".join(f"{name}={_shown(value)}" for name, value in self.values.items())
        return (
            f"{self.where}: remark: {self.by}: {self.kind}: {self.what}{f' ({numbers})' if numbers else ''}"
        )

    def json(self) -> str:
        """The remark as one line of JSON."""
        facts = {
            "kind": self.kind,
            "pass": self.by,
            "where": self.where,
            "layers": self.layers,
            "what": self.what,
        }
        return json.dumps(facts | {"values": dict(self.values)})


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@dataclass
class _Listener:
    remarks: list[Remark] = field(default_factory=list)
    seen: set[tuple[str, str, str, str]] = field(default_factory=set)
    by: str = "?"


_listener: ContextVar[_Listener | None] = ContextVar("stepwell_remarks", default=None)


def listening() -> bool:
    """Whether remarks are wanted: ask before computing what only a remark needs."""
    return _listener.get() is not None


def begin_pass(name: str) -> None:
    """From here on remarks are those of the pass `name`."""
    if (listener := _listener.get()) is not None:
        listener.by = name


def applied(op: Operation, what: str, **values: Any) -> None:
    """The pass has done this at `op`."""
    _say("applied", op, what, values)


def missed(op: Operation, what: str, **values: Any) -> None:
    """The pass could not do this at `op`; the sentence says why."""
    _say("missed", op, what, values)


def _say(kind: str, op: Operation, what: str, values: Mapping[str, Any]) -> None:
    if (listener := _listener.get()) is None:
        return
    layers = layers_of(op)
    where = _where(op, layers)
    key = (listener.by, kind, where, what)
    if key not in listener.seen:  # a pass may come by the same place more than once
        listener.seen.add(key)
        listener.remarks.append(Remark(kind, listener.by, where, layers, what, values))


@contextmanager
def collected() -> Iterator[list[Remark]]:
    """The remarks of what runs inside, in order."""
    listener = _Listener()
    token = _listener.set(listener)
    try:
        yield listener.remarks
    finally:
        _listener.reset(token)


def layers_of(op: Operation) -> tuple[str, ...]:
    """The names of the ONNX nodes at the location of `op`, or of the nearest op around it that has some."""
    return diagnostics.layers_of(_named(op).location)


def _named(op: Operation) -> Operation:
    scope: Operation | None = op
    while scope is not None:
        if diagnostics.layers_of(scope.location):
            return scope
        scope = scope.parent_op()
    return op


def _where(op: Operation, layers: Sequence[str]) -> str:
    """The first layer with its place, and the names of some others."""
    where = place_of(_named(op))
    where += "".join(f" + {name}" for name in layers[1:_SHOWN_LAYERS])
    return where + (f" + {len(layers) - _SHOWN_LAYERS} more" if len(layers) > _SHOWN_LAYERS else "")


def counted(number: int, thing: str) -> str:
    """`1 op`, `2 ops`."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Choice:
    """What `--remarks` asks for: `missed`, `applied` or `all`, as text or JSON."""

    kind: str
    as_json: bool

    @classmethod
    def of(cls, text: str) -> "Choice":
        """The choice that the value of the flag spells."""
        kind, _, form = text.partition(":")
        if kind == "json" and not form:
            kind, form = "all", "json"
        if kind not in KINDS or form not in ("", "json"):
            raise CompileError(
                f"--remarks={text}: no such remarks; use missed, applied or all, with :json for a line of JSON each"
            )
        return cls(kind, form == "json")

    def text(self, remarks: Sequence[Remark]) -> str:
        """The remarks asked for, a line each."""
        chosen = [remark for remark in remarks if self.kind in ("all", remark.kind)]
        return "".join(f"{remark.json() if self.as_json else remark}\n" for remark in chosen)
