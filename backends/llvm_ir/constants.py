"""Types and constants of textual LLVM IR as attributes."""

import re
import struct
from typing import Any

from xdsl.dialects.builtin import (
    BFloat16Type,
    DenseIntOrFPElementsAttr,
    Float16Type,
    Float32Type,
    Float64Type,
    FloatAttr,
    IntAttr,
    IntegerAttr,
    IntegerType,
    TensorType,
    VectorType,
)
from xdsl.dialects.llvm import LLVMArrayType, LLVMFunctionType, LLVMPointerType, LLVMStructType, LLVMVoidType
from xdsl.ir import Attribute

from stepwell.backends.llvm_ir.syntax import Source

_SCALARS: dict[str, Attribute] = {
    "half": Float16Type(),
    "bfloat": BFloat16Type(),
    "float": Float32Type(),
    "double": Float64Type(),
    "ptr": LLVMPointerType(),
    "void": LLVMVoidType(),
}
_FLOATS = (Float16Type, BFloat16Type, Float32Type, Float64Type)


class Types:
    """Reads types; equal text gives the same object."""

    def __init__(self, source: Source):
        self.source = source
        self.named: dict[str, Any] = {}
        """Name of a struct type to the tree of its body, which stands for it: the name is not kept."""
        self._found: dict[str, Attribute] = dict(_SCALARS)
        self._open: set[str] = set()

    def of(self, node: Any) -> Attribute:
        """The type that a token or a tree spells."""
        if (found := self._found.get(node)) is not None:
            return found
        if hasattr(node, "children"):
            return self._built(node)
        text = str(node)
        found = self._found[text] = self._struct(node) if text.startswith("%") else self._read(node, text)
        return found

    def _read(self, node: Any, text: str) -> Attribute:
        if match := re.fullmatch(r"i(\d+)", text):
            if int(match[1]) >= 1 << 23:
                raise self.source.error(node, f"{text}: an integer has at most 8388607 bits")
            return IntegerType(int(match[1]))
        if match := re.fullmatch(r"<(\d+) x (\w+)>", text):
            element = self._found.get(match[2]) or self._read(node, match[2])
            return self._vector(node, int(match[1]), element)
        if match := re.fullmatch(r"ptr\s*addrspace\((\d+)\)", text):
            return LLVMPointerType(IntAttr(int(match[1])))
        raise self.source.unsupported(node, f"the type `{text}` is not in the llvm dialect", "use another")

    def _vector(self, node: Any, lanes: int, element: Attribute) -> Attribute:
        if lanes < 1:
            raise self.source.error(node, "a vector has at least one lane")
        if not isinstance(element, (IntegerType, LLVMPointerType, *_FLOATS)):
            raise self.source.error(node, f"a vector has no lanes of type {element}")
        return VectorType(element, [lanes])

    def _struct(self, token: Any) -> Attribute:
        name = plain_name(token)
        if name not in self.named:
            raise self.source.error(token, f"the type {token} is not defined")
        if name in self._open:
            raise self.source.unsupported(token, f"the type {token} contains itself", "use a pointer")
        self._open.add(name)
        body = self.of(self.named[name])
        self._open.discard(name)
        return body

    def _built(self, tree: Any) -> Attribute:
        children = tree.children
        match tree.data:
            case "array_type":
                return LLVMArrayType(int(children[0]), self._sized(children[1]))
            case "vector_type":
                return self._vector(tree, int(children[0]), self.of(children[1]))
            case "struct_type":
                parts = [self._sized(child) for child in children if child is not None]
                return LLVMStructType.from_type_list(parts)
            case "function_type":
                result, *inputs = (child for child in children if child is not None)
                variadic = bool(inputs) and getattr(inputs[-1], "type", "") == "VARIADIC"
                types = [self._sized(child) for child in (inputs[:-1] if variadic else inputs)]
                return LLVMFunctionType(types, self.of(result), variadic)
        raise self.source.unsupported(
            tree, "a packed struct is not in the llvm dialect", "use a struct with padding"
        )

    def _sized(self, node: Any) -> Attribute:
        type = self.of(node)
        if isinstance(type, LLVMVoidType | LLVMFunctionType):
            raise self.source.error(node, f"{type} has no size here")
        return type


def plain_name(token: Any) -> str:
    """`%name` or `@name` without the quotes it may have."""
    text = str(token)
    if '"' not in text:
        return text
    return text[0] + unescaped(text[2:-1]).decode(errors="replace")


def unescaped(text: str) -> bytes:
    """The bytes of a quoted string of LLVM IR: `\\XX` is a byte in hexadecimal, `\\\\` a backslash."""
    if "\\" not in text:
        return text.encode()
    parts = re.split(r"\\(\\|[0-9a-fA-F]{2})", text)
    return b"".join(
        part.encode() if place % 2 == 0 else (b"\\" if part == "\\" else bytes([int(part, 16)]))
        for place, part in enumerate(parts)
    )


class Scalars:
    """Reads numbers; each is an attribute that keeps every bit."""

    def __init__(self, source: Source):
        self.source = source

    def integer(self, token: Any, text: str, type: IntegerType) -> int:
        """The value as a signed integer."""
        width = type.width.data
        if text in ("true", "false"):
            if width != 1:
                raise self.source.error(token, f"{text} is no i{width}")
            return int(text == "true")
        try:
            value = int(text[1:], 16) if text[:1] in "us" else int(text)
        except ValueError:
            raise self.source.error(token, f"`{text}` is no integer") from None
        if not -(1 << (width - 1)) <= value < 1 << width:
            raise self.source.error(token, f"{text} does not fit i{width}")
        if width > 1 and value >= 1 << (width - 1):
            value -= 1 << width
        return abs(value) if width == 1 else value

    def _float(self, token: Any, text: str, type: Attribute) -> float:
        """The value of a decimal or hexadecimal float."""
        try:
            if text.startswith("0xH"):
                return struct.unpack("<e", struct.pack("<H", int(text[3:], 16)))[0]
            if text.startswith("0xR"):
                return struct.unpack("<f", struct.pack("<I", int(text[3:], 16) << 16))[0]
            if text.startswith("0x"):
                return struct.unpack("<d", struct.pack("<Q", int(text[2:], 16)))[0]
            if text.startswith("f0x"):
                return self._bits(int(text[3:], 16), type)
            if text.endswith(("inf", "qnan")):
                return float(text.replace("qnan", "nan"))
            return float(text)
        except (ValueError, struct.error):
            raise self.source.error(token, f"`{text}` is no float") from None

    def _bits(self, bits: int, type: Attribute) -> float:
        match type:
            case Float16Type():
                return struct.unpack("<e", struct.pack("<H", bits))[0]
            case BFloat16Type():
                return struct.unpack("<f", struct.pack("<I", bits << 16))[0]
            case Float32Type():
                return struct.unpack("<f", struct.pack("<I", bits))[0]
        return struct.unpack("<d", struct.pack("<Q", bits))[0]

    def number(self, token: Any, text: str, type: Attribute) -> float | int:
        if isinstance(type, IntegerType):
            return self.integer(token, text, type)
        if isinstance(type, _FLOATS):
            if "." not in text and "x" not in text and not text.endswith(("inf", "qnan")):
                raise self.source.error(token, f"`{text}` is no float; a float has a decimal point")
            value = self._float(token, text, type)
            if not _fits(value, type):
                raise self.source.error(token, f"{text} does not fit {type}")
            return value
        raise self.source.error(token, f"{text} is no value of type {type}")

    def scalar(self, token: Any, type: Attribute) -> Attribute:
        """The attribute of a number, `true` or `false`."""
        value = self.number(token, str(token), type)
        if isinstance(type, IntegerType):
            return IntegerAttr(int(value), type)
        return FloatAttr(value, type)  # pyright: ignore

    def elements(self, token: Any) -> list[tuple[str, str]]:
        """Type and text of each number in a token such as `<i32 0, i32 poison>`."""
        pairs = (part.split() for part in token[1:-1].split(","))
        return [(type, text) for type, text in pairs]

    def dense(
        self, token: Any, texts: list[str], element: Attribute, type: Attribute
    ) -> DenseIntOrFPElementsAttr:
        """The elements of a vector, or of an array of scalars as a tensor, as upstream; equal ones are one splat."""
        count = type.get_shape()[0] if isinstance(type, VectorType) else type.size.data  # pyright: ignore
        if len(texts) not in (1, count):
            raise self.source.error(token, f"{len(texts)} elements for {type}")
        if len(set(texts)) == 1:
            texts = texts[:1]
        values = [self.number(token, text, element) for text in texts]
        shape = type if isinstance(type, VectorType) else TensorType(element, [count])
        return DenseIntOrFPElementsAttr.from_list(shape, values)  # pyright: ignore


def _fits(value: float, type: Attribute) -> bool:
    """Whether `type` reaches as far as `value`."""
    try:
        struct.pack("<e" if isinstance(type, Float16Type) else "<d", value)
        if isinstance(type, Float32Type | BFloat16Type):
            struct.pack("<f", value)
    except OverflowError:
        return False
    return True
