"""
Rules tested from their own declaration: random programs that a rule matches, run before and after it.

Operands get random types that the rule's constraints allow, a few values (small integers, -0.0, infinities, NaN: an exact
rule keeps every bit) and symbolic extents; literals become constants; what `sample` names gets the value that it says. A
program that the rule does not match is thrown away; a rule that matches none is an error.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from xdsl.context import Context
from xdsl.dialects import arith
from xdsl.dialects.builtin import (
    AnyFloat,
    FloatAttr,
    FunctionType,
    IndexType,
    IntegerAttr,
    IntegerType,
    ModuleOp,
    TensorType,
    f32,
    f64,
    i1,
    i8,
    i32,
    i64,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue
from xdsl.utils.exceptions import PassFailedException, VerifyException

from stepwell.dialects.graph import ConstantOp, GraphOp, symbol, tensor_type
from stepwell.dialects.graph.types import ui8
from stepwell.errors import Error, InternalError
from stepwell.interpreter import interpret
from stepwell.resources import constant_attr, dtype_of
from stepwell.rewriting import rewrite
from stepwell.transforms.rules.generation import sample_code, tensor_pattern
from stepwell.transforms.rules.loading import OpFinder, load_rules
from stepwell.transforms.rules.natives import NATIVES
from stepwell.transforms.rules.running import Rule, Site
from stepwell.transforms.rules.syntax import (
    Absent,
    Infix,
    ListOf,
    Name,
    Number,
    Numbers,
    Operand,
    OpPattern,
    RuleFile,
    RuleText,
    Text,
    parse_rules,
)

_ATTEMPTS = 400
"""Programs that are tried for one rule and op; about one in three satisfies the usual conditions."""
_ELEMENTS: dict[str, tuple[Attribute, ...]] = {
    "any": (f32, i32, i64, i8),
    "number": (f32, f32, i32, ui8),
    "float": (f32, f32, f64),
    "int": (i32, i8, ui8, i64),
    "uint": (ui8,),
    "bool": (i1,),
    "integer": (i8, i32, i64, IndexType(), i1),
    "index": (IndexType(),),
}
_SIGNLESS = {"int": (i8, i32, i64), "uint": (i8, i32), "number": (i32, f32), "any": (i32, f32)}


class RuleFault(Error):
    """A rule changes what a program computes, or matches nothing that can be made from its declaration."""


class _Unfit(Exception):
    """This random program does not fit the rule; try another."""


@dataclass
class _Program:
    """A function that computes the left side of a rule."""

    module: ModuleOp
    inputs: list[np.ndarray]
    root: Operation


@dataclass
class Check:
    """The test of one rule, for one op of its family."""

    file: RuleFile
    rule: RuleText
    pattern: type[Rule]
    member: str
    ctx: Context
    seed: int = 0
    fired: int = field(default=0, init=False)

    def __str__(self) -> str:
        return f"{self.rule.name}-{self.member}" if self.rule.families else self.rule.name

    def run(self, programs: int = 12) -> None:
        """Try the rule on so many programs that it matches; a `RuleFault` says what went wrong."""
        refused: dict[str, int] = {}
        for attempt in range(_ATTEMPTS):
            if self.fired == programs:
                return
            try:
                self._try(np.random.default_rng((self.seed, attempt)), attempt)
                self.fired += 1
            except _Unfit as error:
                refused[str(error)] = refused.get(str(error), 0) + 1
        if self.fired < min(programs, 3):
            often = max(refused, key=lambda reason: refused[reason])
            raise self._fault(
                f"matched {self.fired} of {_ATTEMPTS} random programs (most often: {often}); say with `sample` what fits"
            )

    def _fault(self, why: str) -> RuleFault:
        return RuleFault(f"{self.file.source.name}:{self.rule.line}: rule '{self}': {why}")

    def _try(self, rng: np.random.Generator, attempt: int) -> None:
        program = _Builder(self, rng).program()
        before = self._interpret(program)
        text = str(program.module)
        try:
            if not rewrite(program.module, [self.pattern(Site(self.ctx))]):
                raise _Unfit("the rule does not match")
        except InternalError as error:
            raise self._fault(f"does not come to an end: {error}") from error
        try:
            program.module.verify()
        except VerifyException as error:
            raise self._fault(f"the result is invalid: {error}\n{text}") from error
        after = self._interpret(program)
        if self.rule.tolerance:
            judge = _Builder(self, np.random.default_rng((self.seed, attempt)), wide=True).program()
            self._compare_within(self._interpret(judge), after, text)
            return
        for old, new in zip(before, after, strict=True):
            if old.dtype != new.dtype or old.shape != new.shape or not _same_bits(old, new):
                raise self._fault(
                    f"changes the result from {_short(old)} to {_short(new)} of\n{text}\nto\n{program.module}"
                )

    def _compare_within(self, judges: list[Any], after: list[Any], text: str) -> None:
        for judge, new in zip(judges, after, strict=True):
            wanted = np.asarray(judge, np.float64)
            error = np.abs(np.asarray(new, np.float64) - wanted)
            if not np.all(error <= self.rule.tolerance * np.maximum(1.0, np.abs(wanted))):
                raise self._fault(
                    f"is off by {float(error.max()):.3g}, more than fp {self.rule.tolerance} allows, in\n{text}"
                )

    def _interpret(self, program: _Program) -> list[Any]:
        try:
            return interpret(program.module, program.inputs, self.ctx)
        except (PassFailedException, ValueError, IndexError, TypeError, ArithmeticError) as error:
            raise _Unfit(f"the interpreter refuses the program: {error}") from error


def checks_of(path: Path, ctx: Context) -> Iterator[Check]:
    """A check for each rule of a file and each op of its family."""
    classes = {cls.RULE: cls for cls in load_rules(path, ctx).classes}
    file = parse_rules(path.read_text(encoding="utf-8"), str(path))
    for rule in file.rules:
        for member, _ in rule.families.get(rule.pattern.name, ((rule.pattern.name, 0),)):
            yield Check(file, rule, classes[rule.name], member, ctx)


class _Builder:
    def __init__(self, check: Check, rng: np.random.Generator, wide: bool = False):
        self.check, self.rule, self.rng, self.wide = check, check.rule, rng, wide
        self.find = OpFinder(check.ctx)
        self.block = Block()
        self.inputs: list[np.ndarray] = []
        self.values: dict[str, Any] = {}
        rank = int(rng.integers(0, 4)) if rng.integers(8) else 4
        self.shape = [int(d) for d in rng.integers(1, 4, rank)]
        self.symbolic = bool(rng.integers(4) == 0)
        self.default: Attribute | None = None
        self.families = {
            name: members[rng.integers(len(members))][0] for name, members in check.rule.families.items()
        }
        if check.rule.pattern.name in self.families:
            self.families[check.rule.pattern.name] = check.member
        self.values.update(self.families)

    def program(self) -> _Program:
        self._samples()
        root = self._op(self.rule.pattern)
        for i, name in enumerate(self.rule.outcomes):
            self.values[name] = root.results[i] if i < len(root.results) else None
        read = [
            r for i, r in enumerate(root.results) if i == 0 or not isinstance(self._replacement(i), Absent)
        ]
        self.block.add_op(ReturnOp(*read))
        type = FunctionType.from_lists([a.type for a in self.block.args], [r.type for r in read])
        module = ModuleOp([FuncOp("main", type, Region(self.block))])
        try:
            module.verify()
        except VerifyException as error:
            raise _Unfit(f"the program is invalid: {_line(error)}") from error
        return _Program(module, self.inputs, root)

    def _replacement(self, index: int) -> Any:
        return self.rule.replacements[index] if index < len(self.rule.replacements) else Absent()

    # Values

    def _samples(self) -> None:
        """Evaluate the `sample` clauses; names of operands that they read get their values first."""
        operands = {o.name: o for o in _operands(self.rule.pattern)}
        sampled = {sample.name for sample in self.rule.samples}
        for sample in self.rule.samples:
            for name in _names(sample.value):
                if name in operands and name not in self.values and name not in sampled:
                    self.values[name] = self._operand(operands[name])
            code, imports = sample_code(self.rule, self.check.file.source, sample.value, self.values)
            functions = {
                n.function.__name__: n.function
                for n in NATIVES.values()
                if (n.function.__name__, n.function.__module__) in imports
            }
            value = eval(code, {**functions, "rng": self.rng, **self.values})
            if isinstance(value, list) and sample.name in operands and operands[sample.name].kind == "rest":
                value = [np.asarray(item) for item in value]
            self.values[sample.name] = value

    def _operand(self, operand: Operand) -> SSAValue | None:
        if operand.kind == "constant":
            return self._constant(self._array(self._type(None), special=False), self._type(None))
        return self._argument(self._type(operand.type))

    def _type(self, constraint: str | None) -> Attribute:
        """A random type that a constraint allows."""
        is_graph = self.check.member.startswith("graph.")
        if constraint is None:
            if self.default is None:
                self.default = self._element("any" if not is_graph else "number")
            element = self.default
            if not is_graph:
                return element
            if not self.rng.integers(8):
                element = self.default = i1
            return self._tensor(list(self.shape), element)
        found = tensor_pattern(constraint)
        if found is None:
            self.default = self._element(constraint)
            return self.default
        shape, kind = found
        extents = list(self.shape)
        if shape is not None:
            extents = [int(self.rng.integers(1, 4)) if d is None else d for d in shape]
        return self._tensor(extents, self._element(kind))

    def _element(self, kind: str) -> Attribute:
        is_graph = self.check.member.startswith("graph.")
        choices = _ELEMENTS.get(kind) or (self.check.ctx and _parse_type(kind),)
        if not is_graph:
            choices = _SIGNLESS.get(kind, choices)
        chosen = choices[self.rng.integers(len(choices))]
        return f64 if self.wide and isinstance(chosen, AnyFloat) else chosen

    def _tensor(self, extents: list[int], element: Attribute) -> TensorType:
        dims: list[Any] = list(extents)
        if self.symbolic and dims:
            dims[0] = symbol(f"n{dims[0]}")
        if self.check.member.startswith("graph."):
            return tensor_type(dims, element)
        return TensorType(element, extents)

    def _argument(self, type: Attribute) -> SSAValue:
        """A new argument of the function, and its input."""
        self.inputs.append(self._array(type, special=not self.rule.tolerance))
        return self.block.insert_arg(type, len(self.block.args))

    def _array(self, type: Attribute, special: bool) -> np.ndarray:
        """Values for a type: small integers and, where every bit has to be kept, what floats have besides."""
        element = type.element_type if isinstance(type, TensorType) else type
        shape: list[int] = []
        if isinstance(type, TensorType):
            names = {f"n{d}": d for d in range(10)}
            listed = type.get_shape()
            shape = [self._extent(type, i, names) if d < 0 else d for i, d in enumerate(listed)]
        dtype = dtype_of(element)
        low = 0 if dtype.kind in "ub" else -3
        values = self.rng.integers(low, 2 if dtype.kind == "b" else 4, shape).astype(dtype)
        if isinstance(element, AnyFloat):
            if self.rule.tolerance:
                # The same numbers in every width: multiples of 1/16.
                return (self.rng.integers(-64, 65, shape) / 16).astype(dtype)
            if special and dtype != ml_dtypes.bfloat16:
                mask = self.rng.integers(0, 6, shape)
                specials = self.rng.choice(np.array([-0.0, np.inf, -np.inf, np.nan, 0.5]), size=shape)
                values = np.where(mask == 0, specials, values).astype(dtype)
        elif special and dtype.kind in "iu":
            limits = np.iinfo(dtype)
            mask = self.rng.integers(0, 6, shape)
            values = np.where(
                mask == 0, self.rng.choice(np.array([limits.min, limits.max], dtype), size=shape), values
            ).astype(dtype)
        return np.asarray(values)

    def _extent(self, type: TensorType, axis: int, names: Mapping[str, int]) -> int:
        from stepwell.dialects.graph import dims_of

        return names[str(dims_of(type)[axis])]

    def _constant(self, array: np.ndarray, type: Attribute) -> SSAValue:
        if isinstance(type, TensorType):
            op: Any = ConstantOp.build([], {"value": constant_attr(array, self.check.ctx, type.element_type)})
        elif isinstance(type, IntegerType | IndexType):
            width = 64 if isinstance(type, IndexType) else type.width.data
            value = int(array)
            op = arith.ConstantOp(
                IntegerAttr(value - (1 << width) if value >> (width - 1) == 1 else value, type)
            )
        else:
            op = arith.ConstantOp(FloatAttr(float(array), type))  # pyright: ignore
        self.block.add_op(op)
        return op.results[0]

    # Ops

    def _op(self, pattern: OpPattern) -> Operation:
        name = self.families.get(pattern.name, pattern.name)
        cls = self.find(name)
        assert cls is not None, f"{name} was found when the rule was compiled"
        operands = self._operands(pattern)
        attributes = {key: self._attribute(cls, key, value) for key, value, _ in pattern.attributes}
        for key in _UNSAMPLED.get(name, ()):
            attributes.setdefault(key, self._attribute(cls, key, Name("_", 0)))
        try:
            if issubclass(cls, GraphOp):
                wanted = (
                    len(self.rule.outcomes) if pattern is self.rule.pattern and self.rule.outcomes else None
                )
                if name == "graph.split":
                    attributes["num_outputs"], wanted = 1, 1
                op: Operation = cls.build(operands, attributes, outputs=wanted)
            else:
                present = [value for value in operands if value is not None]
                properties = {key: value for key, value in attributes.items() if isinstance(value, Attribute)}
                op = cls.create(operands=present, result_types=[present[0].type], properties=properties)
                defaults = cls.get_irdl_definition().properties  # pyright: ignore
                for key, definition in defaults.items():
                    if key not in op.properties and definition.default_value is not None:
                        op.properties[key] = definition.default_value
        except (
            VerifyException,
            ArithmeticError,
            ValueError,
            LookupError,
            AttributeError,
            TypeError,
            AssertionError,
        ) as error:
            raise _Unfit(f"{name} cannot be made: {_line(error)}") from error
        self.block.add_op(op)
        if pattern.label is not None:
            self.values[pattern.label] = op.results[0]
        return op

    def _operands(self, pattern: OpPattern) -> list[SSAValue | None]:
        found: list[SSAValue | None] = []
        like: SSAValue | None = None
        # Names first, so that a literal knows the type of what stands beside it.
        order = sorted(range(len(pattern.operands)), key=lambda i: isinstance(pattern.operands[i], Numbers))
        made: dict[int, list[SSAValue | None]] = {}
        for i in order:
            operand = pattern.operands[i]
            if isinstance(operand, Numbers):
                made[i] = [self._literal(operand, like)]
                if operand.label is not None:
                    self.values[operand.label] = made[i][0]
            elif isinstance(operand, OpPattern):
                made[i] = [self._op(operand).results[0]]
            elif operand.kind == "rest":
                made[i] = self._rest(operand)
            else:
                made[i] = [self._named(operand)]
            like = like or next((v for v in made[i] if v is not None), None)
        for i in range(len(pattern.operands)):
            found += made[i]
        if pattern.is_commutative and self.rng.integers(2):
            found.reverse()
        return found

    def _named(self, operand: Operand) -> SSAValue | None:
        if operand.name in self.values and operand.name != "_":
            value = self.values[operand.name]
            if isinstance(value, np.ndarray):
                value = self.values[operand.name] = self._constant(value, _kind_of(value))
            return value
        value = None
        if operand.kind != "optional":
            value = self._operand(operand)
        self.values[operand.name] = value
        return value

    def _rest(self, operand: Operand) -> list[SSAValue | None]:
        if operand.name not in self.values:
            count = int(self.rng.integers(0, 3))
            # Half of the time constants, since many a rule looks at what is known.
            known, type = (
                bool(self.rng.integers(2)),
                tensor_type([int(self.rng.integers(1, 3))][: self.rng.integers(2)], i64),
            )
            self.values[operand.name] = [
                self._constant(self._array(type, special=False), type)
                if known
                else self._argument(self._type(None))
                for _ in range(count)
            ]
        listed = self.values[operand.name]
        found = [self._constant(v, _kind_of(v)) if isinstance(v, np.ndarray) else v for v in listed]
        self.values[operand.name] = found
        return found

    def _literal(self, numbers: Numbers, like: SSAValue | None) -> SSAValue:
        number = numbers.numbers[self.rng.integers(len(numbers.numbers))].value
        type = like.type if like is not None else f32
        element = type.element_type if isinstance(type, TensorType) else type
        if isinstance(number, bool):
            element = i1
        elif isinstance(number, float) != isinstance(element, AnyFloat):
            raise _Unfit(f"{number} is no {element}")
        if not isinstance(type, TensorType):
            return self._constant(np.array(number).astype(dtype_of(element)), element)
        shape = [[], [1], [max(d, 1) for d in type.get_shape()]][self.rng.integers(3)]
        if isinstance(number, bool) or any(d < 0 for d in type.get_shape()):
            shape = []
        return self._constant(np.full(shape, number).astype(dtype_of(element)), tensor_type(shape, element))

    def _attribute(self, cls: type[Operation], key: str, value: Any) -> Any:
        if isinstance(value, Name):
            if value.name in self.values:
                return self.values[value.name]
            sampler = _ATTRIBUTES.get(key)
            return None if sampler is None else sampler(self.rng, len(self.shape))
        if isinstance(value, Number):
            return value.value
        if isinstance(value, Text):
            return value.text
        return (
            [item.value for item in value.items if isinstance(item, Number)]
            if isinstance(value, ListOf)
            else None
        )


_UNSAMPLED = {
    "graph.transpose": ("perm",), "graph.flatten": ("axis",), "graph.concat": ("axis",), "graph.cast": ("to",),
    "graph.gather": ("axis",), "graph.average_pool": ("kernel_shape",), "graph.max_pool": ("kernel_shape",),
    "graph.split": ("axis",), "graph.constant_of_shape": ("value",),
}  # fmt: skip
"""Attributes that an op needs, or that make a difference, although a rule does not name them."""

_ATTRIBUTES = {
    "perm": lambda rng, rank: [int(axis) for axis in rng.permutation(rank)],
    "axis": lambda rng, rank: int(rng.integers(-rank, rank)) if rank else 0,
    "kernel_shape": lambda rng, rank: [int(n) for n in rng.integers(1, 4, max(rank - 2, 1))],
    "value": lambda rng, rank: np.array([rng.integers(-3, 4)], np.int64),
    "to": lambda rng, rank: (f32, i32, i64, ui8, i1, f64)[rng.integers(6)],
}


def _kind_of(array: np.ndarray) -> TensorType:
    return tensor_type(array.shape, i1 if array.dtype.kind == "b" else i64)


def _operands(pattern: OpPattern) -> Iterator[Operand]:
    for operand in pattern.operands:
        if isinstance(operand, OpPattern):
            yield from _operands(operand)
        elif isinstance(operand, Operand):
            yield operand


def _names(value: Any) -> Iterator[str]:
    """The names that an expression reads."""
    if isinstance(value, Name):
        yield value.name
    elif isinstance(value, Infix):
        for part in value.parts:
            yield from _names(part)
    elif isinstance(value, ListOf):
        for item in value.items:
            yield from _names(item)
    else:
        for part in getattr(value, "arguments", ()):
            yield from _names(part)


def _parse_type(text: str) -> Attribute:
    from xdsl.dialects import builtin

    found = getattr(builtin, text, None)
    if not isinstance(found, Attribute):
        raise _Unfit(f"no random values of type {text}")
    return found


def _same_bits(old: np.ndarray, new: np.ndarray) -> bool:
    """Equal bit for bit, but for the payload of NaN."""
    if old.dtype.kind not in "fV":
        return bool(np.array_equal(old, new))
    a, b = old.astype(np.float64), new.astype(np.float64)
    return bool(
        np.array_equal(a, b, equal_nan=True)
        and np.array_equal(np.signbit(a) & ~np.isnan(a), np.signbit(b) & ~np.isnan(b))
    )


def _short(array: np.ndarray) -> str:
    text = f"{array.dtype} {array.tolist()}"
    return text if len(text) < 200 else f"{text[:200]}..."


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:120]
