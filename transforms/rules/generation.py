"""
From a file of rules to readable Python: one `Rule` class a rule, whose `match_and_rewrite` is straight-line code.

What does not match leaves by `return`, or inside the loop over the orders of a commutative op by `continue`, which tries
the next order.
"""

import builtins
import keyword
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from xdsl.ir import Operation
from xdsl.irdl import OptionalDef, VariadicDef

from stepwell.dialects.graph import GraphOp
from stepwell.transforms.rules.natives import NATIVES, Native
from stepwell.transforms.rules.syntax import (
    Absent,
    Binding,
    Call,
    Expression,
    Infix,
    Item,
    ListOf,
    Name,
    Not,
    Number,
    Numbers,
    Operand,
    OpPattern,
    Rest,
    RuleError,
    RuleFile,
    RuleText,
    Source,
    Text,
    did_you_mean,
)

FindOp = Callable[[str], type[Operation] | None]
"""Finds the class of an op by its name."""

_RESERVED = {"op", "site", "rewriter", "self", "listed"}
_COMMUTATIVE = {
    f"{dialect}.{name}"
    for dialect, names in {
        "graph": "add and bitwise_and bitwise_or bitwise_xor equal max mean min mul or sum xor",
        "arith": "addf addi andi maximumf maxnumf maxsi maxui minimumf minnumf minsi minui mulf muli ori xori",
    }.items()
    for name in names.split()
}
"""Ops whose operands may stand in any order."""

_ELEMENT = r"(?:any|number|float|int|uint|bool|[A-Za-z_]\w*)"
_TENSOR = re.compile(rf"tensor<(?:(\*)x|((?:(?:\?|\d+)x)*))({_ELEMENT})>")
_SCALARS = {"int", "uint", "integer", "float", "bool", "number", "index", "any"}
_SCALAR = re.compile(r"(ui|i|si|f)\d+|bf16|f8\w+")


def class_name(rule: str) -> str:
    """`drop-identity` is `DropIdentity`."""
    return "".join(word.capitalize() for word in rule.split("-"))


def tensor_pattern(text: str) -> tuple[tuple[int | None, ...] | None, str] | None:
    """Extents (None: any; no tuple: any rank) and kind of element of `tensor<2x?xf32>`; None if that is no such text."""
    if (match := _TENSOR.fullmatch(text)) is None:
        return None
    shape = None
    if match[1] is None:
        shape = tuple(None if part == "?" else int(part) for part in match[2].split("x") if part)
    return shape, match[3]


@dataclass
class _Op:
    """The classes that an op name of a rule stands for, and how the code tells them."""

    classes: tuple[type[Operation], ...]
    code: str
    """What `isinstance` takes, or `type(op)` for a family that is bound already."""

    @property
    def is_graph(self) -> bool:
        return issubclass(self.classes[0], GraphOp)


def generate(file: RuleFile, find_op: FindOp, load: Callable[[str], None]) -> str:
    """The Python source of the patterns of `file`; `load` imports a module named by `use`."""
    for module, at in file.uses:
        try:
            load(module)
        except (ImportError, OSError, SyntaxError) as error:
            raise file.source.error(at, f"'{module}' cannot be loaded: {error}") from error
    rules = [_RuleWriter(rule, file.source, find_op) for rule in file.rules]
    bodies = ["\n".join(rule.write()) for rule in rules]
    imports: dict[str, set[str]] = {
        "stepwell.transforms.rules.running": {"Rule", *(n for r in rules for n in r.running)}
    }
    for rule in rules:
        for name, module in rule.imports:
            imports.setdefault(module, set()).add(name)
    lines = [
        f'"""Generated from {_shown(file.source.name)}: {file.title.splitlines()[0] if file.title else "rewrite rules."}"""',
        "",
    ]
    lines += [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(imports.items())]
    listed = ", ".join(class_name(rule.name) for rule in file.rules)
    return "\n".join([*lines, "", "", "\n\n\n".join(bodies), "", "", f"RULES = [{listed}]", ""])


def _shown(name: str) -> str:
    """A file name in generated text, which must not depend on where the file lies."""
    return name.replace("\\", "/").rsplit("/", 1)[-1]


class _RuleWriter:
    def __init__(self, rule: RuleText, source: Source, find_op: FindOp):
        self.rule, self.source, self.find_op = rule, source, find_op
        self.lines: list[str] = []
        self.depth = 2
        self.loops = 0
        self.bound: dict[str, str] = {}
        """Names of the rule and what they stand for: `value`, `values`, `maybe`, `array`, `other`."""
        self.imports: set[tuple[str, str]] = set()
        self.running: set[str] = set()
        self.counter = 0
        self.families: dict[str, str] = {}
        """The code of the class that a name of a family stands for, once an op of it was matched."""

    # The class

    def write(self) -> list[str]:
        rule = self.rule
        root = self.op(rule.pattern.name, rule.pattern.at)
        if rule.pattern.name in rule.families:
            self.families[rule.pattern.name] = "type(op)"
        classes = ", ".join(c for c in self.class_names(root.classes))
        head = [f"# {line}" for line in rule.law]
        head += [f"class {class_name(rule.name)}(Rule):"]
        head += [f'    """Rule `{rule.name}`, {_shown(self.source.name)}:{rule.line}."""', ""]
        head += [f'    RULE = "{rule.name}"']
        head += [f"    op_class = {classes if len(root.classes) == 1 else f'({classes})'}"]
        if rule.benefit != 1:
            head += [f"    benefit = {rule.benefit}"]
        head += ["", "    def match_and_rewrite(self, op, rewriter):", "        site = self.site"]
        self.match_op(rule.pattern, "op", root)
        self.match_outcomes(root)
        for condition in rule.conditions:
            self.condition(condition)
        self.rewrite(root)
        return head + self.lines

    def emit(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def fail_if(self, condition: str) -> None:
        self.emit(f"if {condition}:")
        self.emit("    continue" if self.loops else "    return")

    def error(self, at: int, message: str) -> RuleError:
        return self.source.error(at, message)

    def use(self, name: str) -> str:
        self.running.add(name)
        return name

    def fresh(self, stem: str) -> str:
        self.counter += 1
        return f"{stem}{self.counter}"

    # Names

    def variable(self, name: str) -> str:
        clashes = keyword.iskeyword(name) or name in _RESERVED or name in NATIVES or hasattr(builtins, name)
        return f"{name}_" if clashes or re.fullmatch(r"(inner|listed|made)\d+", name) else name

    def bind(self, name: str, kind: str, code: str, at: int) -> None:
        """Bind a name of the left side; one that is bound already must be the same value."""
        if name == "_":
            return
        variable = self.variable(name)
        if name in self.bound:
            self.fail_if(
                f"{variable} is not {code}" if kind in ("value", "maybe") else f"{variable} != {code}"
            )
            return
        self.bound[name] = kind
        if variable != code:
            self.emit(f"{variable} = {code}")

    def op(self, name: str, at: int) -> _Op:
        if name in self.rule.families:
            classes = tuple(self.op_class(member, place) for member, place in self.rule.families[name])
            if name in self.families:
                return _Op(classes, self.families[name])
            names = ", ".join(self.class_names(classes))
            return _Op(classes, f"({names})" if len(classes) > 1 else names)
        cls = self.op_class(name, at)
        return _Op((cls,), self.class_names((cls,))[0])

    def op_class(self, name: str, at: int) -> type[Operation]:
        cls = self.find_op(name) if "." in name else None
        if cls is None:
            dialect = name.partition(".")[0]
            hint = f"; a family is declared by `for {name} in graph.relu | graph.abs`"
            if "." in name:
                hint = did_you_mean(name, _known_ops(self.find_op, dialect))
            raise self.error(at, f"there is no op '{name}'{hint}")
        return cls

    def class_names(self, classes: Sequence[type[Operation]]) -> list[str]:
        found: list[str] = []
        for cls in classes:
            module = (
                "stepwell.dialects.graph"
                if cls.__module__.startswith("stepwell.dialects.graph.")
                else cls.__module__
            )
            name = cls.__name__
            other = [m for n, m in self.imports if n == name and m != module]
            if other or (
                not issubclass(cls, GraphOp) and module != "stepwell.dialects.graph" and _is_graph_name(name)
            ):
                alias = f"{module.rsplit('.', 1)[-1].capitalize()}{name}"
                self.imports.add((f"{name} as {alias}", module))
                name = alias
            else:
                self.imports.add((name, module))
            found.append(name)
        return found

    # The left side

    def match_op(self, pattern: OpPattern, op: str, found: _Op) -> None:
        """Code that leaves unless the op in variable `op`, which is of the right class, matches."""
        if pattern.label is not None:
            self.bind(pattern.label, "value", f"{op}.results[0]", pattern.at)
        self.match_attributes(pattern, op, found)
        operands = pattern.operands
        low, high = _operand_counts(found.classes)
        at_least = sum(
            isinstance(o, Numbers | OpPattern) or o.kind in ("named", "constant") for o in operands
        )
        has_rest = any(isinstance(o, Operand) and o.kind == "rest" for o in operands)
        if at_least > high or (len(operands) < low and not has_rest):
            takes = str(low) if low == high else f"{low} to {high if high < 1000 else 'any number'}"
            raise self.error(pattern.at, f"'{pattern.name}' takes {takes} operands, not {len(operands)}")
        if pattern.is_commutative:
            if len(operands) != 2 or has_rest:
                raise self.error(
                    pattern.at, "only ops with two operands are matched as commutative; write both"
                )
            for cls in found.classes:
                if cls.name not in _COMMUTATIVE:
                    raise self.error(pattern.at, f"'{cls.name}' is not commutative; take the word out")
        if low == high and not has_rest:
            codes = [f"{op}.operands[{i}]" for i in range(len(operands))]
            listed = f"{op}.operands"
        else:
            listed = self.fresh("listed")
            self.emit(f"{listed} = {op}.{'operand_list()' if found.is_graph else 'operands'}")
            wanted = len(operands) - has_rest
            optional = sum(isinstance(o, Operand) and o.kind == "optional" for o in operands)
            if has_rest:
                if wanted - optional > 0:
                    self.fail_if(f"len({listed}) < {wanted - optional}")
            elif optional:
                self.fail_if(f"not {wanted - optional} <= len({listed}) <= {wanted}")
            else:
                self.fail_if(f"len({listed}) != {wanted}")
            codes = []
            for i, operand in enumerate(operands):
                is_optional = isinstance(operand, Operand) and operand.kind == "optional"
                codes.append(
                    f"{listed}[{i}] if len({listed}) > {i} else None" if is_optional else f"{listed}[{i}]"
                )
        if pattern.is_commutative:
            one, two = self.fresh("inner"), self.fresh("inner")
            self.emit(f"for {one}, {two} in (({codes[0]}, {codes[1]}), ({codes[1]}, {codes[0]})):")
            self.depth += 1
            self.loops += 1
            codes = [one, two]
        may_lack = low != high
        # Cheap tests first: names, then numbers and inner ops.
        order = sorted(range(len(operands)), key=lambda i: not isinstance(operands[i], Operand))
        for i in order:
            operand = operands[i]
            if isinstance(operand, Operand) and operand.kind == "rest":
                if i != len(operands) - 1:
                    raise self.error(operand.at, f"'{operand.name}...' must stand last")
                self.bind(operand.name, "values", f"{listed}[{i}:]", operand.at)
            else:
                self.match_operand(operand, codes[i], may_lack)

    def match_operand(self, operand: Operand | Numbers | OpPattern, code: str, may_lack: bool) -> None:
        if isinstance(operand, Numbers):
            numbers = ", ".join(_number(number) for number in operand.numbers)
            self.fail_if(f"not site.is_number({code}, {numbers})")
            if operand.label is not None:
                self.bind(operand.label, "value", code, operand.at)
        elif isinstance(operand, OpPattern):
            found = self.op(operand.name, operand.at)
            inner = self.fresh("inner")
            guard = f" if {code} is not None else None" if may_lack else ""
            self.emit(f"{inner} = {code}.owner{guard}")
            is_bound = found.code.startswith("type(")
            self.fail_if(
                f"type({inner}) is not {found.code}" if is_bound else f"not isinstance({inner}, {found.code})"
            )
            if operand.name in self.rule.families:
                self.families[operand.name] = f"type({inner})" if not is_bound else found.code
            self.match_op(operand, inner, found)
        else:
            if operand.kind == "constant":
                self.bind(operand.name, "array", f"site.value({code})", operand.at)
                self.fail_if(f"{self.variable(operand.name)} is None")
                return
            is_optional = operand.kind == "optional"
            self.bind(operand.name, "maybe" if is_optional else "value", code, operand.at)
            if may_lack and not is_optional and operand.name != "_":
                self.fail_if(f"{self.variable(operand.name)} is None")
            if operand.type is not None:
                self.match_type(operand)

    def match_type(self, operand: Operand) -> None:
        text, variable = operand.type or "", self.variable(operand.name)
        if operand.name == "_":
            raise self.error(operand.at, "an operand with a type needs a name; write `x : type`")
        if text.startswith("tensor"):
            found = tensor_pattern(text)
            if found is None:
                message = f"'{text}' is no type of a rule; write as tensor<?x3xf32>, tensor<*xfloat>, with an element type or"
                raise self.error(operand.at, f"{message} one of any, number, float, int, uint, bool")
            self.fail_if(f'not {self.use("is_tensor")}({variable}, {found[0]}, "{found[1]}")')
        elif text in _SCALARS or _SCALAR.fullmatch(text):
            self.fail_if(f'not {self.use("is_kind")}({variable}.type, "{text}")')
        else:
            hint = (
                did_you_mean(text, _SCALARS)
                or "; use a scalar type such as i32, int, float, index, or tensor<...>"
            )
            raise self.error(operand.at, f"'{text}' is no type of a rule{hint}")

    def match_attributes(self, pattern: OpPattern, op: str, found: _Op) -> None:
        for name, value, at in pattern.attributes:
            self.check_attribute(name, at, found)
            code = f'{op}.get("{name}")' if found.is_graph else f'{op}.properties.get("{name}")'
            if isinstance(value, Name):
                self.bind(value.name, "other", code, value.at)
            elif isinstance(value, Number | Text | ListOf | Absent):
                wanted = (
                    f"({', '.join(map(self.expression, value.items))},)"
                    if isinstance(value, ListOf)
                    else self.expression(value)
                )
                self.fail_if(f"{code} is not None" if isinstance(value, Absent) else f"{code} != {wanted}")
            else:
                raise self.error(
                    at, "an attribute that is matched is a name or a literal; put conditions into `where`"
                )

    def check_attribute(self, name: str, at: int, found: _Op) -> None:
        for cls in found.classes:
            definition = cls.get_irdl_definition()  # pyright: ignore[reportAttributeAccessIssue]
            known = [
                k for k in (*definition.properties, *definition.attributes) if not k.endswith("SegmentSizes")
            ]
            if name not in known:
                hint = did_you_mean(name, known) or (
                    f"; it has {', '.join(known)}" if known else "; it has none"
                )
                raise self.error(at, f"'{cls.name}' has no attribute '{name}'{hint}")

    def match_outcomes(self, found: _Op) -> None:
        names = self.rule.outcomes
        definition = [cls.get_irdl_definition().results for cls in found.classes]  # pyright: ignore
        fixed = all(len(d) == 1 and not isinstance(d[0][1], OptionalDef | VariadicDef) for d in definition)
        if fixed and len(names) > 1:
            raise self.error(
                self.rule.pattern.at, f"'{self.rule.pattern.name}' has one result, not {len(names)}"
            )
        if fixed or not found.is_graph:
            for i, name in enumerate(names):
                self.bind(name, "value", f"op.results[{i}]", self.rule.pattern.at)
            return
        results = self.fresh("made")
        self.emit(f"{results} = op.result_list()")
        self.fail_if(f"len({results}) > {max(len(names), 1)}" if len(names) > 1 else f"len({results}) != 1")
        for i, name in enumerate(names):
            code = f"{results}[{i}]" if i == 0 else f"{results}[{i}] if len({results}) > {i} else None"
            self.bind(name, "value" if i == 0 else "maybe", code, self.rule.pattern.at)

    # Conditions and values

    def condition(self, condition: Binding | Expression) -> None:
        if not isinstance(condition, Binding):
            code = self.expression(condition)
            self.fail_if(
                code[4:]
                if code.startswith("not ") and " and " not in code and " or " not in code
                else f"not {_wrapped(code)}"
            )
            return
        if condition.name in self.bound:
            raise self.error(condition.at, f"'{condition.name}' has a value already; compare with ==")
        code = self.expression(condition.value)
        variable = self.variable(condition.name)
        self.emit(f"{variable} = {code}")
        self.bound[condition.name] = "other"
        self.fail_if(f"{variable} is None")

    def expression(self, value: Expression) -> str:
        if isinstance(value, Name):
            if value.name not in self.bound:
                hint = did_you_mean(value.name, self.bound) or (
                    f"; there are {', '.join(self.bound)}" if self.bound else ""
                )
                raise self.error(value.at, f"'{value.name}' is not a name of the left side{hint}")
            return self.variable(value.name)
        if isinstance(value, Rest):
            if self.bound.get(value.name) != "values":
                raise self.error(
                    value.at, f"'{value.name}...' is not matched on the left side; write it there last"
                )
            return f"*{self.variable(value.name)}"
        if isinstance(value, Number):
            return _number(value)
        if isinstance(value, Text):
            return f'"{value.text}"'
        if isinstance(value, Absent):
            return "None"
        if isinstance(value, ListOf):
            return f"[{', '.join(self.expression(item) for item in value.items)}]"
        if isinstance(value, Item):
            return f"{self.expression(value.of)}[{self.expression(value.index)}]"
        if isinstance(value, Not):
            return f"not {_wrapped(self.expression(value.what))}"
        if isinstance(value, Infix):
            return f" {value.sign} ".join(_wrapped(self.expression(part)) for part in value.parts)
        return self.call(value)

    def call(self, call: Call) -> str:
        known = NATIVES.get(call.name)
        if known is None:
            if "." in call.name or call.name in self.rule.families:
                raise self.error(call.at, f"the op '{call.name}' is made on the right side only")
            hint = did_you_mean(call.name, NATIVES) or "; name its module with `use`, and mark it @native"
            raise self.error(call.at, f"there is no function '{call.name}'{hint}")
        if call.attributes or call.type is not None:
            raise self.error(call.at, f"'{call.name}' is a function: it has no attributes and no type")
        self.check_arguments(call, known)
        self.imports.add((known.function.__name__, known.function.__module__))
        first = {"emitter": ["site"], "rng": ["rng"], None: []}[known.first]
        arguments = [*first, *(self.expression(argument) for argument in call.arguments)]
        return f"{known.function.__name__}({', '.join(arguments)})"

    def check_arguments(self, call: Call, known: Native) -> None:
        if any(isinstance(a, Rest) for a in call.arguments) or "choices" in known.parameters:
            return
        if len(call.arguments) != len(known.parameters):
            takes = f"{known.name}({', '.join(known.parameters)})"
            raise self.error(call.at, f"'{takes}' is called with {len(call.arguments)} arguments")

    # The right side

    def rewrite(self, root: _Op) -> None:
        rule = self.rule
        results = max(len(rule.outcomes), 1)
        if len(rule.replacements) != results:
            message = (
                f"the op has {results} results here and {len(rule.replacements)} values take their place"
            )
            raise self.error(
                rule.at, f"rule '{rule.name}': {message}; write `none` for one that nobody reads"
            )
        for i, value in enumerate(rule.replacements):
            if isinstance(value, Name):
                self.expression(value)  # the name must be known
                if self.bound[value.name] not in ("value", "maybe"):
                    raise self.error(
                        value.at, f"'{value.name}' is no value; make a constant with ints or constant_like"
                    )
                self.fail_if(f"not {self.use('stands_for')}({self.variable(value.name)}, op, {i})")
            elif isinstance(value, Absent):
                name = self.variable(rule.outcomes[i])
                self.fail_if(f"{name} is not None and {name}.uses")
        self.emit("site.begin(op, rewriter)")
        values = [self.make(value, i) for i, value in enumerate(rule.replacements)]
        self.emit(f"site.replace([{', '.join(values)}])")
        if self.loops:
            self.emit("return")

    def make(self, value: Expression, result: int | None) -> str:
        """Code of a value of the right side; the ops it takes are made by lines in front of it."""
        if not isinstance(value, Call) or (value.name in NATIVES and value.name not in self.rule.families):
            return self.expression(value)
        found = self.op(value.name, value.at)
        low, high = _operand_counts(found.classes)
        if not any(isinstance(a, Rest) for a in value.arguments) and not low <= len(value.arguments) <= high:
            raise self.error(value.at, f"'{value.name}' takes {low} operands, not {len(value.arguments)}")
        for name, _, at in value.attributes:
            self.check_attribute(name, at, found)
        operands = ", ".join(self.make(argument, None) for argument in value.arguments)
        attributes = ", ".join(f'"{name}": {self.expression(item)}' for name, item, _ in value.attributes)
        code = f"site.apply({found.code}, [{operands}], {{{attributes}}}"
        if value.type is not None:
            code += f", {self.expression(value.type)}"
        elif not found.is_graph:
            if result is None:
                raise self.error(
                    value.at, f"the type of '{value.name}' is not known; write {value.name}(...) : type(x)"
                )
            code += f", op.results[{result}].type"
        name = self.fresh("made")
        self.emit(f"{name} = {code})")
        return name


def sample_code(
    rule: RuleText, source: Source, value: Expression, names: Iterable[str]
) -> tuple[str, set[tuple[str, str]]]:
    """The Python expression of a `sample` clause, and what it imports."""
    writer = _RuleWriter(rule, source, lambda name: None)
    writer.bound = dict.fromkeys(names, "other")
    return writer.expression(value), writer.imports


def _operand_counts(classes: Sequence[type[Operation]]) -> tuple[int, int]:
    """How many operands ops of these classes have at least and at most."""
    low, high = 0, 0
    for cls in classes:
        kinds = [definition for _, definition in cls.get_irdl_definition().operands]  # pyright: ignore
        few = sum(not isinstance(kind, OptionalDef | VariadicDef) for kind in kinds)
        many = (
            1000
            if any(isinstance(k, VariadicDef) and not isinstance(k, OptionalDef) for k in kinds)
            else len(kinds)
        )
        low, high = (few, many) if cls is classes[0] else (min(low, few), max(high, many))
    return low, high


def _known_ops(find_op: FindOp, dialect: str) -> Iterable[str]:
    listed: Mapping[str, Iterable[str]] = getattr(find_op, "names", {})
    return listed.get(dialect, listed)


def _is_graph_name(name: str) -> bool:
    import stepwell.dialects.graph as graph

    return hasattr(graph, name)


def _number(number: Number) -> str:
    return repr(number.value)


def _wrapped(code: str) -> str:
    return code if re.fullmatch(r"[\w.]+(\([^()]*\))?|\[[^\[\]]*\]", code) else f"({code})"
