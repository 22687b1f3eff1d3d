"""How the rules of `com.microsoft` are entered, and of what ONNX Runtime takes in the default domain besides the standard."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from xdsl.ir import SSAValue

from stepwell.frontends.onnx.upgrades import Call, Emitter, Rule

CONTRIB: dict[str, Rule] = {}
"""Operator name to the rule that returns its results. Some appear in the default domain too."""

EXPERIMENTAL: dict[str, tuple[int, Rule]] = {}
"""The same in the default domain, with the opset from which the standard has an operator of that name."""

NEVER = 1 << 30


def contrib(*ops: str) -> Callable[[Rule], Rule]:
    def enter(rule: Rule) -> Rule:
        CONTRIB.update(dict.fromkeys(ops, rule))
        return rule

    return enter


def experimental(*ops: str, until: int = NEVER) -> Callable[[Rule], Rule]:
    def enter(rule: Rule) -> Rule:
        EXPERIMENTAL.update(dict.fromkeys(ops, (until, rule)))
        return rule

    return enter


def contrib_rule(op: str, domain: str, version: int) -> Rule | None:
    """The rule of an operator that no standard defines at this opset."""
    if domain == "com.microsoft":
        return CONTRIB.get(op)
    end, rule = EXPERIMENTAL.get(op, (0, None))
    return rule if not domain and version < end else None


_HINTS = {
    "accuracy_level", "chunk_size", "kv_cache_bit_width", "mask_index_type", "max_window_layers",
    "past_present_share_buffer", "storage_order", "training_mode", "weight_prepacked", "weights_prepacked",
}  # fmt: skip
"""Attributes that change how a result is computed, not which."""


class _Attributes(dict[str, Any]):
    """Attributes that know which of them have been read."""

    def __init__(self, values: dict[str, Any]):
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)

    def items(self) -> Any:
        self.read.update(self)
        return super().items()

    def keys(self) -> Any:
        self.read.update(super().keys())
        return super().keys()

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()


class _Operands(list[SSAValue | None]):
    """Operands that know which of them have been read."""

    def __init__(self, values: Sequence[SSAValue | None]):
        super().__init__(values)
        self.read: set[int] = set()

    def __getitem__(self, place: Any) -> Any:
        places = range(len(self))[place]
        self.read.update(places if isinstance(places, range) else [places])
        return super().__getitem__(place)

    def __iter__(self) -> Iterator[SSAValue | None]:
        self.read.update(range(len(self)))
        return super().__iter__()


def apply_rule(rule: Rule, call: Call, emitter: Emitter) -> list[SSAValue]:
    """
    The results of `call` by `rule`. There is no standard that says which attributes and operands an operator has, so
    what the rule did not look at is refused; what is 0 or empty means nothing.
    """
    attributes, operands = _Attributes(call.attributes), _Operands(call.operands)
    results = rule(replace(call, attributes=attributes, operands=operands), emitter)
    assert results is not None, "a rule of a contributed operator makes its results"
    ignored = attributes.read | _HINTS
    for name, value in call.attributes.items():
        if name not in ignored and not name.startswith("_") and value not in (0, "", []):
            raise emitter.missing(call, f"the attribute {name} = {value!r}", "export without it")
    for place, value in enumerate(call.operands):
        if value is not None and place not in operands.read:
            raise emitter.missing(call, f"an operand at place {place}", "leave that operand out")
    return list(results)


def add(emitter: Emitter, *values: SSAValue | None) -> SSAValue:
    first, *rest = [value for value in values if value is not None]
    for value in rest:
        (first,) = emitter.emit("Add", first, value)
    return first
