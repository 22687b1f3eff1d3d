"""How the rules of `com.microsoft` are entered, and of what ONNX Runtime takes in the default domain besides the standard."""

from collections.abc import Callable

from xdsl.ir import SSAValue

from stepwell.frontends.onnx.upgrades import Emitter, Rule

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


def add(emitter: Emitter, *values: SSAValue | None) -> SSAValue:
    first, *rest = [value for value in values if value is not None]
    for value in rest:
        (first,) = emitter.emit("Add", first, value)
    return first
