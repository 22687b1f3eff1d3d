"""Operators of `com.microsoft` that exporters write, expressed by operators of the standard."""

from stepwell.frontends.onnx.contrib import (
    attention,
    embedding,
    experimental,
    experts,
    layers,
    movement,
    quantised,
    recurrence,
)
from stepwell.frontends.onnx.contrib.rules import CONTRIB, EXPERIMENTAL, apply_rule, contrib_rule

__all__ = [
    "CONTRIB",
    "EXPERIMENTAL",
    "apply_rule",
    "attention",
    "contrib_rule",
    "embedding",
    "experimental",
    "experts",
    "layers",
    "movement",
    "quantised",
    "recurrence",
]
