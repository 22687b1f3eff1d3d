"""The `stepwell` dialect: the facts that a whole module carries through every level."""

import re
from dataclasses import MISSING, fields
from typing import Any

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FloatAttr, IntegerAttr, StringAttr, f64, i64
from xdsl.dialects.builtin import ModuleOp as _ModuleOp
from xdsl.ir import Attribute, Dialect, ParametrizedAttribute
from xdsl.irdl import irdl_attr_definition, param_def
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from stepwell.diagnostics import compile_error
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
    data: DictionaryAttr = param_def()

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
        return Target(**{key: _plain(value) for key, value in self.data.data.items()})

    def verify(self) -> None:
        entries = {key: _plain(value) for key, value in self.data.data.items()}
        known = {field.name: field for field in fields(Target)}
        if unknown := sorted(entries.keys() - known.keys()):
            raise VerifyException(f"a target has no {unknown[0][:40]!r}; its entries are {', '.join(known)}")
        for name, field in known.items():
            if name not in entries:
                if field.default is MISSING:
                    raise VerifyException(f"the target lacks {name}; set-target writes all of them")
                continue
            value = entries[name]
            if field.type is not type(value) and str(field.type) != type(value).__name__:
                raise VerifyException(f"{name} of the target must be of type {field.type}")
            if isinstance(value, str) and not _WORD.fullmatch(value):
                raise VerifyException(f"{name} of the target is no name of letters, digits and ._+-")
            if isinstance(value, int | float) and not 0 < value < _MOST:
                raise VerifyException(
                    f"{name} of the target is {value}; it must be above 0 and below {_MOST}"
                )
        if entries["vector_bytes"] not in (16, 32, 64) or not 8 <= entries["vector_registers"] <= 64:
            raise VerifyException("a target has vectors of 16, 32 or 64 bytes, and 8 to 64 registers")
        if entries["threads"] > 256 or entries.get("fp", "default") not in ("default", "strict", "fast"):
            raise VerifyException("a target has 1 to 256 threads, and fp is default, strict or fast")

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> list[Attribute]:
        with parser.in_angle_brackets():
            return [parser.parse_attribute()]

    def print_parameters(self, printer: Printer) -> None:
        with printer.in_angle_brackets():
            printer.print_attribute(self.data)


_WORD = re.compile(r"[A-Za-z0-9._+-]{1,64}")
_MOST = 1 << 48
"""Above every size and rate of a machine."""


def _plain(value: Attribute) -> Any:
    return value.value.data if isinstance(value, IntegerAttr | FloatAttr) else getattr(value, "data", None)


def target_of(module: _ModuleOp) -> Target:
    """The target that `set-target` wrote on `module`; an error names the missing pass."""
    attr = module.attributes.get(TARGET_KEY)
    if not isinstance(attr, TargetAttr):
        raise compile_error(module, "the module has no target", "run set-target first")
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
