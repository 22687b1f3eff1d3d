"""The llvm dialect from textual LLVM IR.

What the dialect has no word for is dropped where it only helps an optimiser (debug info, most metadata,
attributes with an argument, comdats, names of sections of functions) and refused where it changes what a
program does (exceptions, inline assembly, volatile accesses, atomic updates, packed structs).
"""

import re
from pathlib import Path
from typing import Any

from xdsl.context import Context
from xdsl.dialects.builtin import (
    ArrayAttr,
    DenseIntOrFPElementsAttr,
    DictionaryAttr,
    IntegerAttr,
    ModuleOp,
    StringAttr,
    TensorType,
    UnitAttr,
    VectorType,
    i32,
    i64,
)
from xdsl.dialects.llvm import (
    CallingConventionAttr,
    FramePointerKind,
    FramePointerKindAttr,
    LinkageAttr,
    LLVMArrayType,
    LLVMFunctionType,
    LLVMPointerType,
    LLVMStructType,
    LLVMVoidType,
    TargetFeaturesAttr,
)
from xdsl.ir import Attribute, Block, Region

from stepwell.backends.llvm_ir.bodies import CALLING_CONVENTIONS, OPS, FunctionReader
from stepwell.backends.llvm_ir.constants import Scalars, Types, plain_name, unescaped
from stepwell.backends.llvm_ir.printer import ARGUMENT_FLAGS, FUNCTION_FLAGS, MODULE_TEXTS
from stepwell.backends.llvm_ir.syntax import Source
from stepwell.compat import StepwellParser, rare_collections
from stepwell.errors import Error
from stepwell.verification import verify_module

_LINKAGES = {"private", "internal", "available_externally", "linkonce", "weak", "common", "appending",
             "extern_weak", "linkonce_odr", "weak_odr", "external"}  # fmt: skip
_VISIBILITY = {"default": 0, "hidden": 1, "protected": 2}
_BY_TYPE = {"byval", "byref", "sret", "inalloca", "preallocated"}
"""Attributes of an argument that say how it is passed."""
_UNNAMED = {"local_unnamed_addr": 1, "unnamed_addr": 2}


def parse_llvm_ir(text: str, ctx: Context, name: str = "<input>") -> ModuleOp:
    """
    The module that `text` spells, with a location on every op; `name` is the file to show in errors.
    Errors: `ParseError` at what is no LLVM IR, `UnsupportedOperation` at what the dialect cannot say.
    """
    with rare_collections():
        return _ModuleReader(Source(text, name), ctx).read()


def read_llvm_ir(source: str | bytes, ctx: Context, dims: dict[str, int] | None = None) -> ModuleOp:
    """The verified module of a file of textual LLVM IR, given as its path or its bytes."""
    if dims:
        raise Error(f"--dim {next(iter(dims))}: LLVM IR has no named extents; leave it out")
    name, data = ("<stdin>", source) if isinstance(source, bytes) else (source, None)
    try:
        data = Path(name).read_bytes() if data is None else data
        text = data.decode()
    except OSError as error:
        raise Error(f"{name}: cannot be read: {error.strerror}; give the path of a file") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1  # pyright: ignore
        byte = f"{data[error.start]:#04x}"  # pyright: ignore
        raise Error(f"{name}:{line}: byte {byte} is not UTF-8; save it as UTF-8") from error
    module = parse_llvm_ir(text, ctx, name)
    verify_module(module)
    return module


class _ModuleReader:
    def __init__(self, source: Source, ctx: Context):
        self.source, self.ctx = source, ctx
        self.types, self.scalars = Types(source), Scalars(source)
        self.module = ModuleOp([])
        self.groups: dict[str, str] = {}
        self.nodes: dict[str, str] = {}
        self.symbols: dict[str, Any] = {}
        self.functions: set[str] = set()
        self.callees: list[tuple[str, Any]] = []

    def read(self) -> ModuleOp:
        entities = self.source.parse()
        for entity in entities:
            match getattr(entity, "type", None) or entity.data:
                case "TARGET":
                    key, value = re.findall(r'target\s+(\w+)\s*=\s*"([^"]*)"', entity)[0]
                    self.module.attributes[MODULE_TEXTS[key]] = StringAttr(value)
                case "GROUP":
                    number, body = re.findall(r"#(\d+)\s*=\s*\{(.*)\}", entity, re.DOTALL)[0]
                    self.groups[number] = body
                case "NODE":
                    number, body = entity[1:].split("=", 1)
                    self.nodes[number.rstrip()] = body.strip()
                case "type_definition":
                    self.types.named[plain_name(entity.children[0][:-1].rstrip())] = entity.children[1]
        block = self.module.body.block
        for entity in entities:
            match getattr(entity, "type", None) or entity.data:
                case "NAMED":
                    self._module_attributes(entity)
                case "global":
                    block.add_op(self._global(entity))
                case "declare" | "define":
                    if (op := self._function(entity)) is not None:
                        block.add_op(op)
        for name, place in self.callees:
            if name not in self.functions:
                what = "is no function" if name in self.symbols else "is not declared"
                raise self.source.error(place, f"@{name} {what}")
        return self.module

    def _symbol(self, name: str, place: Any) -> str:
        if name in self.symbols:
            raise self.source.error(place, f"@{name} is defined twice")
        self.symbols[name] = place
        return name

    # --- metadata ---------------------------------------------------------------------------------

    def _module_attributes(self, token: Any) -> None:
        """`!stepwell.attributes = !{!0, ...}` lists pairs of a name and the attribute in our IR's text."""
        name, body = token.split("=", 1)
        if name.strip() != "!stepwell.attributes":
            return
        for number in re.findall(r"!(\d+)", body):
            texts = re.findall(r'!"([^"]*)"', self.nodes.get(number, ""))
            if len(texts) != 2:
                raise self.source.error(token, f"!{number} is no pair of two strings")
            key, value = (unescaped(text).decode(errors="replace") for text in texts)
            self.module.attributes[key] = self._attribute(value, f"{self.source.name}: !{number}")

    def _attribute(self, text: str, place: str) -> Attribute:
        return StepwellParser(self.ctx, text, place).parse_attribute()

    def _unroll(self, number: str) -> int | None:
        """What the loop metadata node `number` asks for."""
        for part in re.findall(r"!(\d+)", self.nodes.get(number, "")):
            if match := re.search(
                r'!"llvm\.loop\.unroll\.count",\s*i32\s+(\d{1,9})\b', self.nodes.get(part, "")
            ):
                return int(match[1])
        return None

    # --- globals ----------------------------------------------------------------------------------

    def _global(self, tree: Any) -> Any:
        kind = next(n for n, child in enumerate(tree.children) if getattr(child, "type", "") == "KIND")
        symbol, *words = tree.children[: kind + 1]
        type_node, *given, placement = tree.children[kind + 1 :]
        value = given[0] if given else None
        name = self._symbol(plain_name(symbol[:-1].rstrip())[1:], symbol)
        type = self.types.of(type_node)
        if isinstance(type, LLVMVoidType | LLVMFunctionType):
            raise self.source.error(type_node, f"a global of type {type}")
        texts = [str(word) for word in words]
        linkage = next((word for word in texts if word in _LINKAGES), "external")
        if (value is None) != (linkage in ("external", "extern_weak")) and (
            value is None or not {"external", "extern_weak"}.isdisjoint(texts)
        ):
            raise self.source.error(
                symbol, f"@{name} with{'out' if value is None else ''} a value is {linkage}"
            )
        properties: dict[str, Attribute] = {
            "global_type": type,
            "sym_name": StringAttr(name),
            "linkage": LinkageAttr(linkage),
            "addr_space": IntegerAttr(0, i32),
        }
        for word in texts:
            if word in ("dso_local", "constant", "thread_local"):
                properties[{"thread_local": "thread_local_"}.get(word, word)] = UnitAttr()
            elif word in _UNNAMED:
                properties["unnamed_addr"] = IntegerAttr(_UNNAMED[word], i64)
            elif _VISIBILITY.get(word):
                properties["visibility_"] = IntegerAttr(_VISIBILITY[word], i64)
            elif word.startswith("addrspace"):
                properties["addr_space"] = IntegerAttr(_digits(word), i32)
            elif word.startswith("thread_local"):
                properties["thread_local_"] = UnitAttr()
        for token in placement.children:
            if token.type == "ALIGN":
                properties["alignment"] = IntegerAttr(_digits(token), i64)
            elif token.type == "SECTION":
                properties["section"] = StringAttr(re.findall(r'"([^"]*)"', token)[0])
        body = Region()
        if value is not None:
            attr = self._global_value(value, type)
            if attr is not None:
                properties["value"] = attr
            elif not (str(value) == "zeroinitializer" and linkage != "external"):
                body = self._initialiser(value, type)
        return OPS["mlir.global"].create(
            properties=properties, regions=[body], location=self.source.location(symbol)
        )

    def _global_value(self, node: Any, type: Attribute) -> Attribute | None:
        """The initial value as one attribute; None where it takes ops to say."""
        kind = getattr(node, "type", "")
        if isinstance(type, LLVMArrayType | VectorType):
            element = type.type if isinstance(type, LLVMArrayType) else type.element_type
            if kind == "NUMBERS":
                pairs = self.scalars.elements(node)
                texts = [text for _, text in pairs]
                if self.types.of(pairs[0][0]) != element:
                    raise self.source.error(node, f"the value is not of type {type}")
                if any(text in ("poison", "undef") for text in texts):
                    return None
                return self.scalars.dense(node, texts, element, type)
            if kind == "BYTES":
                return self._bytes(node, type)
            if str(node) == "zeroinitializer" and not isinstance(element, LLVMArrayType):
                if isinstance(element, LLVMStructType | LLVMPointerType):
                    return None
                shape = type if isinstance(type, VectorType) else TensorType(element, [type.size.data])
                return DenseIntOrFPElementsAttr.from_list(shape, [0])  # pyright: ignore
            return None
        if kind in ("INTEGER", "FLOAT") or str(node) in ("true", "false"):
            return self.scalars.scalar(node, type)
        return None

    def _bytes(self, node: Any, type: Attribute) -> Attribute:
        data = unescaped(str(node)[2:-1])
        if getattr(type, "size", None) is None or type.size.data != len(data):  # pyright: ignore
            raise self.source.error(node, f"{len(data)} bytes for {type}")
        try:
            return StringAttr(data.decode())
        except UnicodeDecodeError:
            i8 = type.type  # pyright: ignore
            return DenseIntOrFPElementsAttr.from_list(
                TensorType(i8, [len(data)]), [byte - 256 if byte > 127 else byte for byte in data]
            )

    def _initialiser(self, node: Any, type: Attribute) -> Region:
        """A region that builds the value, as upstream has it."""
        reader = FunctionReader(self.source, self.types, self._unroll)
        result = reader.value(node, type)
        block = Block(reader.constant_ops)
        block.add_op(OPS["return"].create(operands=[result]))
        return Region(block)

    # --- functions --------------------------------------------------------------------------------

    def _function(self, tree: Any) -> Any:
        prefix, result_node, symbol, parameters, suffix, *body = tree.children
        name = plain_name(symbol)[1:]
        if tree.data == "declare" and name.startswith("llvm."):
            self._symbol(name, symbol)
            return None
        self._symbol(name, symbol)
        self.functions.add(name)
        listed = [child for child in parameters.children if child is not None]
        variadic = bool(listed) and not hasattr(listed[-1], "children")
        if variadic:
            listed.pop()
        inputs = [self.types.of(child.children[0]) for child in listed]
        output = self.types.of(result_node)
        if any(isinstance(type, LLVMVoidType | LLVMFunctionType) for type in inputs):
            raise self.source.error(symbol, f"@{name} takes an argument without a size")
        words = [str(token) for token in (*prefix.children, *suffix.children)]
        linkage = next((word for word in words if word in _LINKAGES), "external")
        convention = next((word for word in words if word in CALLING_CONVENTIONS), "ccc")
        properties: dict[str, Attribute] = {
            "sym_name": StringAttr(name),
            "function_type": LLVMFunctionType(inputs, output, variadic),
            "CConv": CallingConventionAttr(convention),
            "linkage": LinkageAttr(linkage),
            "unnamed_addr": IntegerAttr(0, i64),
        }
        for word in words:
            if word in _UNNAMED:
                properties["unnamed_addr"] = IntegerAttr(_UNNAMED[word], i64)
            elif _VISIBILITY.get(word):
                properties["visibility_"] = IntegerAttr(_VISIBILITY[word], i64)
        attributes: dict[str, Attribute] = {}
        self._function_attributes(suffix, properties, attributes)
        flags = [self._argument_flags(child.children[1:]) for child in listed]
        if any(flag.data for flag in flags):
            properties["arg_attrs"] = ArrayAttr(flags)
        if (given := self._argument_flags(prefix.children)).data:
            properties["res_attrs"] = ArrayAttr([given])
        region = Region()
        if body:
            reader = FunctionReader(self.source, self.types, self._unroll, output)
            arguments = []
            for type, child in zip(inputs, listed, strict=True):
                last = child.children[-1]
                named = getattr(last, "type", "") == "LOCAL" and len(child.children) > 1
                arguments.append((type, plain_name(last) if named else None, child))
            region = reader.read(arguments, body[0].children)
            self.callees.extend(reader.callees)
        return OPS["func"].create(
            properties=properties,
            attributes=attributes,
            regions=[region],
            location=self.source.location(symbol),
        )

    def _argument_flags(self, tokens: Any) -> DictionaryAttr:
        found: dict[str, Attribute] = {}
        for token in tokens:
            text = str(token)
            kind = getattr(token, "type", "")
            if kind == "WORD" and f"llvm.{text}" in ARGUMENT_FLAGS:
                found[f"llvm.{text}"] = UnitAttr()
            elif kind == "ALIGNED":
                found["llvm.align"] = IntegerAttr(_digits(text), i64)
            elif kind == "WORD_OF":
                word, argument = text[:-1].split("(", 1)
                word = word.rstrip()
                if word == "dereferenceable":
                    found["llvm.dereferenceable"] = IntegerAttr(_digits(argument), i64)
                elif word == "captures" and argument.strip() == "none":
                    found["llvm.nocapture"] = UnitAttr()
                elif word in _BY_TYPE:
                    raise self.source.unsupported(
                        token, f"an argument passed by `{word}` is not in our llvm dialect", "pass a pointer"
                    )
        return DictionaryAttr(found)

    def _function_attributes(self, suffix: Any, properties: dict[str, Attribute], attributes: Any) -> None:
        """Attributes of groups and of the function itself; those with an argument in brackets are dropped."""
        texts = []
        for token in suffix.children:
            if token.type == "GROUP_NUMBER":
                if token[1:] not in self.groups:
                    raise self.source.error(token, f"there is no attribute group {token}")
                texts.append(self.groups[token[1:]])
            elif token.type in ("WORD", "STRING") and token not in _UNNAMED:
                texts.append(str(token))
        passed: list[Attribute] = []
        for match in re.finditer(
            r'"([^"]*)"(?:\s*=\s*"([^"]*)")?|([a-z_]\w*)(\([^)]*\)+|=\d+)?', " ".join(texts)
        ):
            key, value, word, argument = match.groups()
            if word is not None:
                if word in FUNCTION_FLAGS:
                    properties[FUNCTION_FLAGS[word]] = UnitAttr()
                elif argument is None and word not in ("comdat", "section", "gc"):
                    passed.append(StringAttr(word))
                continue
            self._string_attribute(key, value, properties, attributes, passed)
        if passed:
            properties["passthrough"] = ArrayAttr(passed)

    def _string_attribute(
        self,
        key: str,
        value: str | None,
        properties: dict[str, Attribute],
        attributes: dict[str, Attribute],
        passed: list[Attribute],
    ) -> None:
        if key.startswith("stepwell."):
            text = unescaped(value or "").decode(errors="replace")
            attributes[key] = self._attribute(text, f"{self.source.name}: {key}") if value else UnitAttr()
        elif value is None:
            passed.append(ArrayAttr([StringAttr(key), StringAttr("")]))
        elif key == "target-cpu":
            properties["target_cpu"] = StringAttr(value)
        elif key == "tune-cpu":
            properties["tune_cpu"] = StringAttr(value)
        elif key == "target-features" and value:
            features = [StringAttr(feature) for feature in value.split(",") if feature[:1] in ("+", "-")]
            properties["target_features"] = TargetFeaturesAttr(ArrayAttr(features))
        elif key == "frame-pointer" and value in set(FramePointerKind):
            properties["frame_pointer"] = FramePointerKindAttr(FramePointerKind(value))
        else:
            passed.append(ArrayAttr([StringAttr(key), StringAttr(value)]))


def _digits(text: str) -> int:
    """The first number in `text`, of at most 18 digits."""
    return int(re.findall(r"\d+", text)[0][:18])
