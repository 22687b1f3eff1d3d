"""How the rules of `com.microsoft` are entered."""

from collections.abc import Callable

from xdsl.ir import SSAValue

from stepwell.frontends.onnx.upgrades import Emitter, Rule

CONTRIB: dict[str, Rule] = {}
"""Operator name to the rule that returns its results. Some appear in the default domain too."""

DEFAULT_DOMAIN = {"SimplifiedLayerNormalization"}
"""Those of them that ONNX Runtime writes into the default domain."""


def contrib(*ops: str) -> Callable[[Rule], Rule]:
    def enter(rule: Rule) -> Rule:
        CONTRIB.update(dict.fromkeys(ops, rule))
        return rule

    return enter


def add(emitter: Emitter, *values: SSAValue | None) -> SSAValue:
    first, *rest = [value for value in values if value is not None]
    for value in rest:
        (first,) = emitter.emit("Add", first, value)
    return first
