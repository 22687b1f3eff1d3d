"""Rewrite rules as text: `.pat` files, compiled to ordinary patterns for the one rewrite driver. See `docs/rules.md`."""

from stepwell.transforms.rules.loading import Rules, load_rules, rules_pass
from stepwell.transforms.rules.natives import native

__all__ = ["Rules", "load_rules", "native", "rules_pass"]
