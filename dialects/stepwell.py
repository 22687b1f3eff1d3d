"""The `stepwell` dialect: the facts that a whole module carries through every level."""

from dataclasses import fields
from typing import Any

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FloatAttr, IntegerAttr, StringAttr, f64, i64
from xdsl.dialects.builtin import ModuleOp as _ModuleOp
from xdsl.ir import Attribute, Dialect, ParametrizedAttribute
from xdsl.irdl import irdl_attr_definition, param_def
from xdsl.parser import AttrParser
from xdsl.printer import Printer

from stepwell.targets import Target

TARGET_KEY = "stepwell.target"
"""The module attribute that `set-target` writes and every later pass reads."""

DIM_NAMES_KEY = "stepwell.dim_names"
"""
The module attribute with the model's own names of symbols that had to be renamed: `{batch_size = "batch size"}`.
"""


@irdl_attr_definition
class TargetAttr(ParametrizedAttribute):
    """
    The machine that the module is compiled for, every number of `stepwell.targets.Target` spelled out:
    `#stepwell.target<{cpu = "znver4", vector_bytes = 64 : i64, ...}>`.
    """

    name = "stepwell.target"
    data: DictionaryAttr = param_def(DictionaryAttr)

    @staticmethod
    def of(target: Target) -> "TargetAttr":
        entries: dict[str, Attribute] = {}
        for field in fields(Target):
            value = getattr(target, field.name)
            if isinstance(value, str):
                entries[field.name] = StringAttr(value)
            elif isinstance(value, int):
                entries[field.name] = IntegerAttr(value, i64)
            else:
                entries[field.name] = FloatAttr(value, f64)
        return TargetAttr(DictionaryAttr(entries))

    def target(self) -> Target:
        return Target(
            **{
                key: value.value.data if isinstance(value, IntegerAttr | FloatAttr) else value.data
                for key, value in self.data.data.items()
            }
        )

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> list[Attribute]:
        with parser.in_angle_brackets():
            return [parser.parse_attribute()]

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_attribute(self.data)


def target_of(module: _ModuleOp) -> Target:
    """The target that `set-target` wrote on `module`; an error names the missing pass."""
    attr = module.attributes.get(TARGET_KEY)
    assert isinstance(attr, TargetAttr), "the module has no target: run `set-target` first"
    return attr.target()


def plain_data(attr: Attribute | None) -> Any:
    """A dictionary, array, string or number attribute as Python data."""
    if attr is None:
        return None
    if isinstance(attr, DictionaryAttr):
        return {key: plain_data(value) for key, value in attr.data.items()}
    if isinstance(attr, ArrayAttr):
        return [plain_data(value) for value in attr.data]
    if isinstance(attr, IntegerAttr | FloatAttr):
        return attr.value.data
    assert isinstance(attr, StringAttr), f"no plain data for {attr}"
    return attr.data


STEPWELL = Dialect("stepwell", [], [TargetAttr])
