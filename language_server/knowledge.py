"""What the compiler's own docstrings and definitions say: of operations, passes, attributes."""

import inspect
from dataclasses import fields

from xdsl.ir import Operation
from xdsl.irdl import IRDLOperation, OptionalDef, VariadicDef

from stepwell.compat import StepwellContext, load_entry
from stepwell.pipelines import PIPELINES
from stepwell.registry import PASSES


class Knowledge:
    """Looks things up, and imports what they stand in when they are first asked for."""

    def __init__(self, ctx: StepwellContext):
        self.ctx = ctx

    def dialects(self) -> list[str]:
        """The names of all dialects."""
        return sorted({*self.ctx.registered_dialect_names, *(d.name for d in self.ctx.loaded_dialects)})

    def operations(self, dialect: str) -> dict[str, type[Operation]]:
        """The operations of a dialect by name; none if there is no such dialect."""
        if dialect not in self.dialects():
            return {}
        if dialect not in {d.name for d in self.ctx.loaded_dialects}:
            self.ctx.load_registered_dialect(dialect)
        return {op.name: op for op in self.ctx.loaded_ops if op.name.partition(".")[0] == dialect}

    def operation(self, name: str) -> type[Operation] | None:
        """The class of an operation."""
        return self.ctx.get_optional_op(name) if "." in name else None

    def describe_operation(self, name: str) -> str | None:
        """The documentation of an operation: what it takes and gives, and its docstring."""
        cls = self.operation(name)
        if cls is None:
            return None
        text = [f"**{cls.name}**"]
        if issubclass(cls, IRDLOperation):
            definition = cls.get_irdl_definition()
            takes = ", ".join(_counted(n, d) for n, d in definition.operands)
            gives = ", ".join(_counted(n, d) for n, d in definition.results)
            text[0] += f" ({takes})" + (f" -> ({gives})" if gives else "")
        if document := own_document(cls):
            text.append(document)
        if keys := self.attributes(name):
            text.append("attributes: " + ", ".join(f"`{key}`" for key in keys))
        return "\n\n".join(text)

    def attributes(self, name: str) -> list[str]:
        """The names of the attributes and properties that an operation knows."""
        cls = self.operation(name)
        if cls is None or not issubclass(cls, IRDLOperation):
            return []
        definition = cls.get_irdl_definition()
        keys = [*definition.properties, *definition.attributes]
        return [key for key in keys if not key.endswith(("SegmentSizes", "segment_sizes"))]

    def passes(self) -> list[str]:
        """Passes and named pipelines."""
        return sorted({*PASSES, *PIPELINES})

    def describe_pass(self, name: str) -> str | None:
        """The documentation of a pass and its options, or the passes of a named pipeline."""
        if name in PIPELINES:
            return f"**{name}**\n\n`{' '.join(PIPELINES[name].split())}`"
        if name not in PASSES:
            return None
        entry = PASSES[name]
        cls = load_entry(entry) if isinstance(entry, str) else entry
        text = [f"**{name}**", own_document(cls)]
        if options := [f"`{f.name}`: {f.type}" for f in fields(cls)]:
            text.append("options: " + ", ".join(options))
        return "\n\n".join(part for part in text if part)


def own_document(cls: type) -> str:
    """The docstring of a class itself, not of one that it inherits from; a dataclass's made-up one is none."""
    document = cls.__dict__.get("__doc__") or ""
    return "" if document.startswith(f"{cls.__name__}(") else inspect.cleandoc(document)


def _counted(name: str, definition: object) -> str:
    if isinstance(definition, OptionalDef):
        return f"{name}?"
    return f"{name}..." if isinstance(definition, VariadicDef) else name
