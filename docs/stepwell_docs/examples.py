"""An example for each graph op: the first of ONNX's own tests of the operator, imported and printed."""

import re
import warnings
from functools import cache
from typing import Any


@cache
def graph_examples() -> dict[str, str]:
    """Op name to its line in the IR; ops with regions, and those without a test, have none."""
    from onnx.backend.test.case.node import collect_testcases

    from stepwell.compat import new_context
    from stepwell.dialects.graph import snake_case
    from stepwell.registry import DIALECTS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    first: dict[str, Any] = {}
    for case in cases:
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].domain == "":
            first.setdefault(nodes[0].op_type, case.model)
    examples = {}
    for operator, model in first.items():
        name = f"graph.{snake_case(operator)}"
        line = _imported_line(model, name, new_context(DIALECTS))
        if line is not None:
            examples[name] = line
    return examples


_MAX_LENGTH = 800


def _imported_line(model: Any, name: str, ctx: Any) -> str | None:
    from xdsl.utils.exceptions import PassFailedException

    from stepwell.compat import print_module
    from stepwell.errors import Error
    from stepwell.frontends.onnx import import_onnx

    try:
        text = print_module(import_onnx(model, ctx, {}))
    except (Error, PassFailedException):
        return None  # a test of something that is not supported is no example
    match = re.search(rf"^\s*((?:%\S+(?:, %\S+)* = )?{re.escape(name)}(?![\w.]).*)$", text, re.MULTILINE)
    return match[1] if match and not match[1].endswith("{") and len(match[1]) <= _MAX_LENGTH else None
