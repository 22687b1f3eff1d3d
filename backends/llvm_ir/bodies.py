"""The bodies of functions: instructions of textual LLVM IR as ops, phis as block arguments.

A constant has no instruction: it becomes one op at the head of the entry block. A branch is built when its
function ends, since only then all phis of its target are known.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from xdsl.dialects.builtin import (
    DenseArrayBase,
    DenseIntOrFPElementsAttr,
    IntegerAttr,
    IntegerType,
    StringAttr,
    SymbolRefAttr,
    UnitAttr,
    UnknownLoc,
    VectorType,
    i1,
    i32,
    i64,
)
from xdsl.dialects.llvm import (
    GEP_USE_SSA_VAL,
    CallingConventionAttr,
    FastMathAttr,
    LLVMArrayType,
    LLVMFunctionType,
    LLVMPointerType,
    LLVMStructType,
    LLVMVoidType,
    TailCallKind,
    TailCallKindAttr,
)
from xdsl.dialects.utils import FastMathFlag
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from stepwell.backends.llvm_ir.constants import Scalars, Types, plain_name
from stepwell.backends.llvm_ir.intrinsics import ALIGNED, CONSTANT_ARGUMENTS
from stepwell.backends.llvm_ir.syntax import Source, first_token
from stepwell.dialects.llvm import LLVM

OPS: dict[str, Any] = {op.name.removeprefix("llvm."): op for op in LLVM.operations}
CALLING_CONVENTIONS = {"fastcc", "coldcc", "tailcc", "swiftcc", "swifttailcc", "preserve_mostcc",
                       "preserve_allcc", "anyregcc"}  # fmt: skip
UNROLL_KEY = "stepwell.unroll"

_PTR = LLVMPointerType()
_ICMP = {name: IntegerAttr(number, i64) for number, name in enumerate(
    ("eq", "ne", "slt", "sle", "sgt", "sge", "ult", "ule", "ugt", "uge"))}  # fmt: skip
_FCMP = {name: IntegerAttr(number, i64) for number, name in enumerate(
    ("false", "oeq", "ogt", "oge", "olt", "ole", "one", "ord",
     "ueq", "ugt", "uge", "ult", "ule", "une", "uno", "true"))}  # fmt: skip
_FAST = {flag.value: flag for flag in FastMathFlag}
_ORDERINGS = {"unordered": 1, "monotonic": 2, "acquire": 4, "release": 5, "acq_rel": 6, "seq_cst": 7}
_WRAPPING = ("add", "sub", "mul", "shl")
_HINTS = ("llvm.dbg.", "llvm.assume", "llvm.experimental.noalias.scope.decl", "llvm.pseudoprobe")
"""Calls that compute nothing and hold what the llvm dialect does not say; they are dropped."""
_ATTRIBUTES = ("WORD", "WORD_OF", "ALIGNED", "STRING")


@dataclass
class _Jump:
    """A terminator that is built once all phis are known."""

    block: Block
    kind: str
    operands: list[SSAValue]
    targets: list[Any]
    """Labels, as tokens."""
    location: Any
    cases: Any = None
    attributes: dict[str, Attribute] | None = None


@dataclass
class _Phi:
    type: Attribute
    incoming: dict[Block, Any]
    """A value, or the token of one that comes later."""
    node: Any


class FunctionReader:
    """Reads one body; `region` is the result."""

    def __init__(
        self,
        source: Source,
        types: Types,
        unroll: Callable[[str], int | None],
        result: Attribute | None = None,
    ):
        self.source, self.types, self.scalars = source, types, Scalars(source)
        self.unroll, self.result = unroll, result
        self.region = Region()
        self.values: dict[str, SSAValue] = {}
        self.constants: dict[tuple[str, int], SSAValue] = {}
        self.constant_ops: list[Operation] = []
        self.callees: list[tuple[str, Any]] = []
        """Symbols that are called, with the place."""
        self._blocks: dict[str, Block] = {}
        self._label_uses: dict[str, Any] = {}
        self._jumps: list[_Jump] = []
        self._phis: dict[Block, list[_Phi]] = {}
        self._waiting: dict[str, tuple[SSAValue, Any]] = {}
        self._next = 0
        self._block: Block | None = None
        self._location: Any = None
        self._result: Any = None
        self._attached: Sequence[Any] = ()

    # --- names ------------------------------------------------------------------------------------

    def number(self) -> str:
        """The name of what has none of its own."""
        self._next += 1
        return f"%{self._next - 1}"

    def define(self, name: str | None, value: SSAValue, node: Any) -> None:
        """Give `value` its name, and to those who used the name before."""
        if name is None:
            name = self.number()
        elif name[1:].isdigit():
            self._next = int(name[1:400]) + 1
        elif re.fullmatch(r"%[A-Za-z_][\w.]*", name) and not re.fullmatch(r"%v\d+", name):
            value.name_hint = name[1:]
        if name in self.values:
            raise self.source.error(node, f"{name} is defined twice")
        self.values[name] = value
        if (waiting := self._waiting.pop(name, None)) is not None:
            placeholder, use = waiting
            if placeholder.type != value.type:
                raise self._wrong_type(use, name, value.type, placeholder.type)
            placeholder.replace_all_uses_with(value)
            placeholder.owner.erase()  # pyright: ignore

    def _wrong_type(self, node: Any, name: str, have: Attribute, want: Attribute) -> Exception:
        return self.source.error(node, f"{name} has the type {have}, not {want}")

    def _label(self, token: Any) -> Block:
        """The block that `%name` or `label %name` names, made when first met."""
        name = plain_name(str(token)[5:].lstrip() if token.type == "TARGET_LABEL" else token)
        block = self._blocks.get(name)
        if block is None:
            block = self._blocks[name] = Block()
            self._label_uses[name] = token
        return block

    def _open(self, name: str | None, node: Any) -> None:
        """Begin a block."""
        if self._block is not None:
            raise self.source.error(node, "the block before this label does not end in a terminator")
        if name is None:
            name = self.number()
        elif name[1:].isdigit():
            self._next = int(name[1:400]) + 1
        block = self._blocks.get(name)
        if block is None:
            block = self._blocks[name] = Block()
        elif name not in self._label_uses:
            raise self.source.error(node, f"the label {name[1:]} is defined twice")
        self._label_uses.pop(name, None)
        if not self.region.blocks:
            for arg in self._arguments:
                value = block.insert_arg(arg[0], len(block.args))
                self.define(arg[1], value, arg[2])
        self.region.add_block(block)
        self._block = block

    # --- values -----------------------------------------------------------------------------------

    def value(self, node: Any, type: Attribute) -> SSAValue:
        """The value that `node` spells, which must be of `type`."""
        if getattr(node, "type", None) == "LOCAL":
            name = node if '"' not in node else plain_name(node)
            found = self.values.get(name)
            if found is None:
                waiting = self._waiting.get(name)
                if waiting is None:
                    placeholder = OPS["mlir.poison"].create(result_types=[type]).results[0]
                    waiting = self._waiting[str(name)] = (placeholder, node)
                found = waiting[0]
            if found.type is not type and found.type != type:
                raise self._wrong_type(node, name, found.type, type)
            return found
        key = (node, id(type)) if isinstance(node, str) else None
        if key is None or (found := self.constants.get(key)) is None:
            found = self._constant(node, type)
            if key is not None:
                self.constants[key] = found
        return found

    def _constant_op(self, name: str, type: Attribute, operands: Sequence[SSAValue] = (), **properties: Any):
        op = OPS[name].create(operands=operands, result_types=[type], properties=properties)
        self.constant_ops.append(op)
        return op.results[0]

    def _literal(self, attr: Attribute, type: Attribute) -> SSAValue:
        return self._constant_op("mlir.constant", type, value=attr)

    def integer(self, value: int, type: Attribute) -> SSAValue:
        """An integer constant, one op a function."""
        key = (str(value), id(type))
        if key not in self.constants:
            self.constants[key] = self._literal(IntegerAttr(value, type), type)  # pyright: ignore
        return self.constants[key]

    def _constant(self, node: Any, type: Attribute) -> SSAValue:
        if hasattr(node, "children"):
            return self._built_constant(node, type)
        match node.type:
            case "GLOBAL":
                if not isinstance(type, LLVMPointerType):
                    raise self._wrong_type(node, node, _PTR, type)
                return self._constant_op(
                    "mlir.addressof", type, global_name=SymbolRefAttr(plain_name(node)[1:])
                )
            case "NUMBERS":
                return self._numbers(node, type)
            case "BYTES":
                raise self.source.unsupported(node, "a string as an operand", "put it into a global")
            case "SIMPLE" if str(node) not in ("true", "false"):
                return self._simple(node, type)
        return self._literal(self.scalars.scalar(node, type), type)

    def _simple(self, node: Any, type: Attribute) -> SSAValue:
        text = str(node)
        if isinstance(type, LLVMVoidType | LLVMFunctionType):
            raise self.source.error(node, f"no value is of type {type}")
        if text == "poison":
            return self._constant_op("mlir.poison", type)
        if text == "undef":
            return self._constant_op("mlir.undef", type)
        if text in ("null", "none"):
            if not isinstance(type, LLVMPointerType) or text == "none":
                raise self.source.error(node, f"{text} is no value of type {type}")
            return self._constant_op("mlir.zero", type)
        if isinstance(type, VectorType):
            if isinstance(type.element_type, LLVMPointerType):
                raise self.source.unsupported(node, "zeros of a vector of pointers", "insert each lane")
            return self._literal(DenseIntOrFPElementsAttr.from_list(type, [0]), type)  # pyright: ignore
        if isinstance(type, LLVMArrayType | LLVMStructType | LLVMPointerType):
            return self._constant_op("mlir.zero", type)
        zero = "0" if isinstance(type, IntegerType) else "0.0"
        return self._literal(_attribute(self.scalars, node, zero, type), type)

    def _numbers(self, node: Any, type: Attribute) -> SSAValue:
        pairs = self.scalars.elements(node)
        element = self.types.of(pairs[0][0])
        vector = str(node).startswith("<")
        have = type.element_type if isinstance(type, VectorType) else getattr(type, "type", None)
        if isinstance(type, VectorType) != vector or have != element:
            raise self.source.error(node, f"the constant is no value of type {type}")
        texts = [text for _, text in pairs]
        if vector and not any(text in ("poison", "undef") for text in texts):
            return self._literal(self.scalars.dense(node, texts, element, type), type)
        count = type.get_shape()[0] if vector else type.size.data  # pyright: ignore
        if len(texts) != count:
            raise self.source.error(node, f"{len(texts)} elements for {type}")
        return self._aggregate(type, [self._piece(node, text, element) for text in texts])

    def _piece(self, node: Any, text: str, type: Attribute) -> SSAValue | None:
        if text in ("poison", "undef"):
            return None
        return self._literal(_attribute(self.scalars, node, text, type), type)

    def _aggregate(self, type: Attribute, parts: Sequence[SSAValue | None]) -> SSAValue:
        """`parts` put one by one into a value that is poison elsewhere."""
        total = self._constant_op("mlir.poison", type)
        for place, part in enumerate(parts):
            if part is None:
                continue
            if isinstance(type, VectorType):
                index = self.integer(place, self.types.of("i64"))
                total = self._constant_op("insertelement", type, (total, part, index))
            else:
                at = DenseArrayBase.from_list(i64, [place])
                total = self._constant_op("insertvalue", type, (total, part), position=at)
        return total

    def _built_constant(self, node: Any, type: Attribute) -> SSAValue:
        children = node.children
        match node.data:
            case "splat":
                element = self.types.of(children[0])
                if not isinstance(type, VectorType) or type.element_type != element:
                    raise self.source.error(node, f"the splat is no value of type {type}")
                inner = children[1]
                if getattr(inner, "type", "") in ("INTEGER", "FLOAT") or inner in ("true", "false"):
                    return self._literal(self.scalars.dense(inner, [str(inner)], element, type), type)
                part = self.value(inner, element)
                return self._aggregate(type, [part] * type.get_shape()[0])
            case "array" | "vector" | "struct":
                parts = [child for child in children if child is not None]
                found = [self.types.of(part) for part in parts[::2]]
                if found != self._parts_of(type) or isinstance(type, VectorType) != (node.data == "vector"):
                    raise self.source.error(node, f"the constant is no value of type {type}")
                values = [self.value(part, of) for part, of in zip(parts[1::2], found, strict=True)]
                return self._aggregate(type, values)
            case "packed":
                raise self.source.unsupported(
                    node, "a packed struct is not in the llvm dialect", "use a struct with padding"
                )
            case "constant_gep":
                op = self._getelementptr(children)
                if op.results[0].type != type:
                    raise self._wrong_type(node, "the constant", op.results[0].type, type)
            case "constant_cast":
                op = self._cast(children)
            case _:
                op = self._binary(children)
        if op.results[0].type != type:
            raise self._wrong_type(node, "the constant", op.results[0].type, type)
        self.constant_ops.append(op)
        return op.results[0]

    def _parts_of(self, type: Attribute) -> list[Attribute] | None:
        if isinstance(type, LLVMStructType):
            return list(type.types.data)
        if isinstance(type, LLVMArrayType):
            return [type.type] * type.size.data if type.size.data < 1 << 24 else None
        return [type.element_type] * type.get_shape()[0] if isinstance(type, VectorType) else None

    # --- the walk ---------------------------------------------------------------------------------

    def read(self, arguments: list[tuple[Attribute, str | None, Any]], lines: Sequence[Any]) -> Region:
        """The region of a function with these arguments (type, name, place)."""
        self._arguments = arguments
        named = lines and getattr(lines[0], "type", None) == "LABEL"
        if not named:
            # Unnamed arguments are numbered before the entry block.
            self._blocks["entry"] = Block()
            for type, name, place in arguments:
                self.define(
                    name, self._blocks["entry"].insert_arg(type, len(self._blocks["entry"].args)), place
                )
            self._arguments = []
            self._blocks[self.number()] = self._block = self._blocks.pop("entry")
            self.region.add_block(self._block)
        for line in lines:
            if not hasattr(line, "children"):
                name = str(line)[:-1]
                self._open(plain_name(f"%{name}"), line)
                continue
            if self._block is None:
                self._open(None, line)
            if line.data == "defined":
                self._result, tree, *self._attached = line.children
            else:
                self._result = None
                tree, *self._attached = line.children
            if (place := self._result or first_token(tree)).start_pos or place.line > 1:
                self._location = self.source.location(place)
            self._instruction(tree)
        if self._block is not None:
            raise self.source.error(lines[-1] if lines else 0, "the last block has no terminator")
        self._finish()
        return self.region

    def _instruction(self, tree: Any) -> None:
        kind = str(tree.data)
        children = tree.children
        if (make := _MAKERS.get(kind)) is None:
            return _EFFECTS[kind](self, tree)
        op = make(self, children)
        op.location = self._location
        block = self._block
        assert block is not None, "a block is open"
        block.add_op(op)
        if op.results:
            self._name_result(op.results[0], tree)
        elif self._result is not None:
            raise self.source.error(self._result, f"{kind} has no result to name")

    def _name_result(self, value: SSAValue, tree: Any) -> None:
        token = self._result
        if token is None:
            return self.define(None, value, tree)
        name = token[:-1].rstrip()
        self.define(plain_name(name) if '"' in name else name, value, token)

    # --- instructions -----------------------------------------------------------------------------

    def _fast(self, words: Sequence[Any]) -> dict[str, Attribute]:
        flags = [_FAST[str(word)] for word in words if str(word) in _FAST]
        if "fast" in words:
            return {"fastmathFlags": FastMathAttr("fast")}
        return {"fastmathFlags": FastMathAttr(flags)} if flags else {}

    def _binary(self, children: Any) -> Operation:
        name, flags, type_node, a, b = children
        name, words = str(name), [str(word) for word in flags.children]
        type = self.types.of(type_node)
        element = type.element_type if isinstance(type, VectorType) else type
        wanted_float = name.startswith("f")
        if isinstance(element, IntegerType) == wanted_float or (
            not isinstance(element, IntegerType)
            and (
                isinstance(
                    element,
                    LLVMPointerType | LLVMArrayType | LLVMStructType | LLVMVoidType | LLVMFunctionType,
                )
            )
        ):
            raise self.source.error(type_node, f"{name} of {type}")
        properties: dict[str, Attribute] = {}
        if wanted_float:
            properties = self._fast(words)
        elif name in _WRAPPING:
            properties["overflowFlags"] = IntegerAttr(("nsw" in words) + 2 * ("nuw" in words), i32)
        elif "exact" in words and name in ("udiv", "sdiv", "lshr", "ashr"):
            properties["isExact"] = UnitAttr()
        elif "disjoint" in words and name == "or":
            properties["isDisjoint"] = UnitAttr()
        operands = (self.value(a, type), self.value(b, type))
        return OPS[name].create(operands=operands, result_types=(type,), properties=properties)

    def _compare(self, children: Any) -> Operation:
        name, flags, type_node, a, b = children
        words = [str(word) for word in flags.children]
        predicates = _ICMP if name == "icmp" else _FCMP
        if not words or words[-1] not in predicates:
            raise self.source.error(type_node, f"{name} needs one of {', '.join(predicates)}")
        type = self.types.of(type_node)
        properties: dict[str, Attribute] = {"predicate": predicates[words[-1]]}
        if name == "fcmp":
            properties |= self._fast(words)
        result = VectorType(i1, type.shape) if isinstance(type, VectorType) else i1
        operands = (self.value(a, type), self.value(b, type))
        return OPS[str(name)].create(operands=operands, result_types=(result,), properties=properties)

    def _unary(self, children: Any) -> Operation:
        name, flags, type_node, a = children
        type = self.types.of(type_node)
        properties = self._fast(flags.children) if name == "fneg" else {}
        return OPS[str(name)].create(
            operands=(self.value(a, type),), result_types=(type,), properties=properties
        )

    def _cast(self, children: Any) -> Operation:
        name, flags, from_node, a, to_node = children
        name, words = str(name), [str(word) for word in flags.children]
        if name == "addrspacecast":
            raise self.source.unsupported(from_node, "`addrspacecast` has no op in the llvm dialect",
                                          "use one address space")  # fmt: skip
        properties: dict[str, Attribute] = {}
        if name == "zext" and "nneg" in words:
            properties["nonNeg"] = UnitAttr()
        if name == "trunc" and ("nsw" in words or "nuw" in words):
            properties["overflowFlags"] = IntegerAttr(("nsw" in words) + 2 * ("nuw" in words), i32)
        type, target = self.types.of(from_node), self.types.of(to_node)
        return OPS[name].create(
            operands=(self.value(a, type),), result_types=(target,), properties=properties
        )

    def _select(self, children: Any) -> Operation:
        flags, *rest = children
        cond, a, b = self._typed(rest)
        if a.type != b.type:
            raise self.source.error(rest[4], f"select between {a.type} and {b.type}")
        return OPS["select"].create(
            operands=(cond, a, b), result_types=(a.type,), properties=self._fast(flags.children)
        )

    def _typed(self, nodes: Sequence[Any]) -> list[SSAValue]:
        """The values of alternating types and values."""
        of = self.types.of
        return [self.value(nodes[place + 1], of(nodes[place])) for place in range(0, len(nodes), 2)]

    def _getelementptr(self, children: Any) -> Operation:
        flags, element, *rest = children
        words = [str(word) for word in flags.children]
        pointer = self.value(rest[1], self.types.of(rest[0]))
        raw: list[int] = []
        operands = [pointer]
        result = pointer.type
        for place in range(2, len(rest), 2):
            type = self.types.of(rest[place])
            node = rest[place + 1]
            if isinstance(type, VectorType) and isinstance(result, LLVMPointerType):
                result = VectorType(result, type.shape)
            if getattr(node, "type", "") == "INTEGER" and type == i32:
                index = self.scalars.integer(node, str(node), i32)
                if index != GEP_USE_SSA_VAL:
                    raw.append(index)
                    continue
            raw.append(GEP_USE_SSA_VAL)
            operands.append(self.value(node, type))
        wraps = 3 * ("inbounds" in words) | 2 * ("nusw" in words) | 4 * ("nuw" in words)
        properties = {
            "elem_type": self.types.of(element),
            "rawConstantIndices": DenseArrayBase.from_list(i32, raw),
            "noWrapFlags": IntegerAttr(wraps, i32),
        }
        return OPS["getelementptr"].create(operands=operands, result_types=(result,), properties=properties)

    def _access(self, words: Sequence[Any], behind: Sequence[Any], align: Any) -> dict[str, Attribute]:
        properties: dict[str, Attribute] = {}
        if "volatile" in words:
            raise self.source.unsupported(self._place(), "a volatile access is not in the llvm dialect",
                                          "use an atomic one")  # fmt: skip
        if "atomic" in words:
            order = [_ORDERINGS[str(word)] for word in behind if str(word) in _ORDERINGS]
            if not order:
                raise self.source.error(self._place(), "an atomic access needs an ordering")
            if any(word.type == "WORD_OF" for word in behind):
                raise self.source.unsupported(self._place(), "syncscope is not in the llvm dialect",
                                              "leave it out")  # fmt: skip
            properties["ordering"] = IntegerAttr(order[0], i64)
        if align is not None:
            properties["alignment"] = _number(align)
        return properties

    def _place(self) -> Any:
        return self._result if self._result is not None else self._tree_place

    _tree_place: Any = None

    def _load(self, children: Any) -> Operation:
        flags, type, pointer_type, pointer, behind, align = children
        self._tree_place = first_token(type)
        return OPS["load"].create(
            operands=(self.value(pointer, self.types.of(pointer_type)),),
            result_types=(self.types.of(type),),
            properties=self._access(flags.children, behind.children, align),
        )

    def _store(self, children: Any) -> Operation:
        flags, *rest, behind, align = children
        self._tree_place = first_token(rest[0])
        properties = self._access(flags.children, behind.children, align)
        return OPS["store"].create(operands=self._typed(rest), properties=properties)

    def _alloca(self, children: Any) -> Operation:
        flags, element, *given, align, space = children
        if flags.children or space is not None:
            raise self.source.unsupported(
                first_token(element), "`alloca` with flags or an address space", "use a plain one"
            )
        count = self._typed(given)[0] if given else self.integer(1, self.types.of("i32"))
        properties: dict[str, Attribute] = {"elem_type": self.types.of(element)}
        if align is not None:
            properties["alignment"] = _number(align)
        return OPS["alloca"].create(operands=(count,), result_types=(_PTR,), properties=properties)

    def _extractelement(self, children: Any) -> Operation:
        vector, place = self._typed(children)
        if not isinstance(vector.type, VectorType):
            raise self.source.error(children[0], f"extractelement of {vector.type}")
        return OPS["extractelement"].create(
            operands=(vector, place), result_types=(vector.type.element_type,)
        )

    def _insertelement(self, children: Any) -> Operation:
        operands = self._typed(children)
        return OPS["insertelement"].create(operands=operands, result_types=(operands[0].type,))

    def _shufflevector(self, children: Any) -> Operation:
        a, b = self._typed(children[:4])
        mask_type, mask = self.types.of(children[4]), children[5]
        if not isinstance(mask_type, VectorType) or not isinstance(a.type, VectorType):
            raise self.source.error(children[4], "shufflevector is of vectors with a vector of i32")
        (count,) = mask_type.get_shape()
        text = str(mask)
        if getattr(mask, "type", "") == "NUMBERS":
            lanes = [-1 if lane in ("poison", "undef") else self.scalars.integer(mask, lane, i32)
                     for _, lane in self.scalars.elements(mask)]  # fmt: skip
        elif text in ("zeroinitializer", "poison", "undef"):
            lanes = [0 if text == "zeroinitializer" else -1] * count
        elif getattr(mask, "data", "") == "splat":
            lanes = [self.scalars.integer(mask.children[1], str(mask.children[1]), i32)] * count
        else:
            raise self.source.error(mask, "the mask must be constant")
        if len(lanes) != count:
            raise self.source.error(mask, f"{len(lanes)} lanes for {mask_type}")
        return OPS["shufflevector"].create(
            operands=(a, b),
            result_types=(VectorType(a.type.element_type, [count]),),
            properties={"mask": DenseArrayBase.from_list(i32, lanes)},
        )

    def _field(self, node: Any, type: Attribute, places: list[int]) -> Attribute:
        """The type at `places` in an aggregate."""
        for place in places:
            if isinstance(type, LLVMArrayType) and place < type.size.data:
                type = type.type
            elif isinstance(type, LLVMStructType) and place < len(type.types.data):
                type = type.types.data[place]
            else:
                raise self.source.error(node, f"{type} has no field {place}")
        return type

    def _places(self, nodes: Sequence[Any]) -> list[int]:
        return [self.scalars.integer(node, str(node), IntegerType(31)) for node in nodes]

    def _extractvalue(self, children: Any) -> Operation:
        (value,) = self._typed(children[:2])
        places = self._places(children[2:])
        return OPS["extractvalue"].create(
            operands=(value,),
            result_types=(self._field(children[2], value.type, places),),
            properties={"position": DenseArrayBase.from_list(i64, places)},
        )

    def _insertvalue(self, children: Any) -> Operation:
        value, part = self._typed(children[:4])
        places = self._places(children[4:])
        if self._field(children[4], value.type, places) != part.type:
            raise self.source.error(children[4], f"the field is not of type {part.type}")
        return OPS["insertvalue"].create(
            operands=(value, part),
            result_types=(value.type,),
            properties={"position": DenseArrayBase.from_list(i64, places)},
        )

    # --- calls ------------------------------------------------------------------------------------

    def _call(self, tree: Any) -> None:
        tail, *rest, suffix = tree.children
        place = next(n for n, child in enumerate(rest) if getattr(child, "type", "") not in _ATTRIBUTES)
        words, type_node, callee = rest[:place], rest[place], rest[place + 1]
        arguments = [child for child in rest[place + 2 :] if child is not None]
        name = plain_name(callee)
        if name.startswith(tuple(f"@{hint}" for hint in _HINTS)):
            return
        if any(getattr(child, "data", "") == "bundles" for child in suffix.children):
            raise self.source.unsupported(callee, f"the call of {callee} has operand bundles", "call without")
        operands: list[SSAValue] = []
        alignments: list[Any] = []
        for argument in arguments:
            type, *attributes, value = argument.children
            if getattr(value, "type", "") == "METADATA":
                raise self.source.unsupported(value, f"{callee} takes metadata", "call another")
            operands.append(self.value(value, self.types.of(type)))
            alignments.append(next((a for a in attributes if a.type == "ALIGNED"), None))
        type = self.types.of(type_node)
        signature = type if isinstance(type, LLVMFunctionType) else None
        result = type if signature is None else signature.output
        flags = self._fast([str(word) for word in words])
        if name.startswith("@llvm."):
            op = self._intrinsic(callee, name[1:], operands, alignments, result, flags)
        else:
            op = self._plain_call(callee, name, operands, result, signature, flags)
            words = [str(word) for word in words]
            for word in words:
                if word in CALLING_CONVENTIONS:
                    op.properties["CConv"] = CallingConventionAttr(word)
            if tail is not None:
                op.properties["TailCallKind"] = TailCallKindAttr(TailCallKind(str(tail)))
        op.location = self._location
        assert self._block is not None, "a block is open"
        self._block.add_op(op)
        if op.results:
            self._name_result(op.results[0], tree)
        elif self._result is not None:
            raise self.source.error(self._result, f"{name} returns nothing to name")

    def _plain_call(self, callee: Any, name: str, operands: list[SSAValue], result: Attribute,
                    signature: LLVMFunctionType | None, flags: dict[str, Attribute]) -> Operation:  # fmt: skip
        properties = dict(flags)
        if callee.type == "GLOBAL":
            properties["callee"] = SymbolRefAttr(name[1:])
            self.callees.append((name[1:], callee))
        else:
            operands = [self.value(callee, _PTR), *operands]
        if signature is not None and signature.is_variadic:
            properties["var_callee_type"] = signature
        properties["operandSegmentSizes"] = DenseArrayBase.from_list(i32, [len(operands), 0])
        results = () if isinstance(result, LLVMVoidType) else (result,)
        return OPS["call"].create(operands=operands, result_types=results, properties=properties)

    def _intrinsic(self, callee: Any, name: str, operands: list[SSAValue], alignments: list[Any],
                   result: Attribute, flags: dict[str, Attribute]) -> Operation:  # fmt: skip
        results = () if isinstance(result, LLVMVoidType) else (result,)
        cls = _intrinsic_class(name)
        if cls is None:
            properties = {**flags, "intrin": StringAttr(name), "op_bundle_sizes": _NONE,
                          "operandSegmentSizes": DenseArrayBase.from_list(i32, [len(operands), 0])}  # fmt: skip
            return OPS["call_intrinsic"].create(
                operands=operands, result_types=results, properties=properties
            )
        count = len(cls.get_irdl_definition().operands)
        properties = dict(flags) if "fastmathFlags" in cls.get_irdl_definition().properties else {}
        if (at := ALIGNED.get(cls.name)) is not None:
            if len(operands) == count + 1:
                properties["alignment"] = IntegerAttr(self._constant_of(callee, operands.pop(at)), i32)
            elif len(operands) == count:
                given = alignments[at - 1]
                properties["alignment"] = _number(given, i32) if given is not None else IntegerAttr(1, i32)
        elif (keys := CONSTANT_ARGUMENTS.get(cls.name)) is not None and len(operands) == count + len(keys):
            for key in reversed(keys):
                value = operands.pop()
                properties[key] = IntegerAttr(self._constant_of(callee, value), value.type)  # pyright: ignore
        if len(operands) != count or len(results) != len(cls.get_irdl_definition().results):
            raise self.source.error(callee, f"{callee} takes {count} values")
        return cls.create(operands=operands, result_types=results, properties=properties)

    def _constant_of(self, node: Any, value: SSAValue) -> int:
        attr = value.owner.properties.get("value") if isinstance(value.owner, Operation) else None
        if not isinstance(attr, IntegerAttr):
            raise self.source.error(node, f"{node} needs a constant here")
        return attr.value.data

    # --- control ----------------------------------------------------------------------------------

    def _phi(self, tree: Any) -> None:
        _, type_node, *pairs = tree.children
        block, type = self._block, self.types.of(type_node)
        assert block is not None, "a block is open"
        if block.first_op is not None or block is self.region.blocks[0]:
            raise self.source.error(type_node, "a phi stands at the head of a block that is not the entry")
        incoming: dict[Block, Any] = {}
        for pair in pairs:
            node, label = pair.children
            later = getattr(node, "type", "") == "LOCAL" and plain_name(node) not in self.values
            incoming[self._label(label)] = node if later else self.value(node, type)
        self._phis.setdefault(block, []).append(_Phi(type, incoming, type_node))
        self._name_result(block.insert_arg(type, len(block.args), self._location), tree)

    def _jump(self, kind: str, operands: list[SSAValue], targets: list[Any], cases: Any = None) -> None:
        assert self._block is not None, "a block is open"
        if self._result is not None:
            raise self.source.error(self._result, f"{kind} has no result to name")
        for target in targets:
            self._label(target)
        attributes: dict[str, Attribute] = {}
        for attached in self._attached:
            if match := re.match(r",\s*!llvm\.loop\s+!(\d+)", attached):
                if (count := self.unroll(match[1])) is not None:
                    attributes[UNROLL_KEY] = IntegerAttr(count, i64)
        location = self._location if kind != "unreachable" else UnknownLoc()
        self._jumps.append(_Jump(self._block, kind, operands, targets, location, cases, attributes))
        self._block = None

    def _ret(self, tree: Any) -> None:
        type_node, *given = tree.children
        node = given[0] if given else None
        type = self.types.of(type_node)
        if type != self.result:
            raise self.source.error(type_node, f"ret {type} in a function that returns {self.result}")
        if (node is None) != isinstance(type, LLVMVoidType):
            raise self.source.error(type_node, f"ret {type} with{'out' if node is None else ''} a value")
        self._jump("return", [] if node is None else [self.value(node, type)], [])

    def _switch(self, tree: Any) -> None:
        type_node, node, default, *cases = tree.children
        type = self.types.of(type_node)
        if not isinstance(type, IntegerType):
            raise self.source.error(type_node, f"switch on {type}")
        values = [self.scalars.integer(case.children[1], str(case.children[1]), type) for case in cases]
        targets = [default, *(case.children[2] for case in cases)]
        attr = DenseIntOrFPElementsAttr.from_list(VectorType(type, [len(values)]), values) if values else None
        self._jump("switch", [self.value(node, type)], targets, attr)

    def _finish(self) -> None:
        """Build the branches, and put the constants at the head."""
        for name, token in self._label_uses.items():
            raise self.source.error(token, f"there is no block {name}")
        arrivals: dict[Block, list[Block]] = {}
        for jump in self._jumps:
            for target in jump.targets:
                arrivals.setdefault(self._label(target), []).append(jump.block)
        entry = self.region.blocks[0]
        if entry in arrivals:
            raise self.source.error(self._jumps[0].targets[0] if self._jumps[0].targets else 0,
                                    "the entry block has no predecessors")  # fmt: skip
        for block, phis in self._phis.items():
            for phi in phis:
                if phi.incoming.keys() != set(arrivals.get(block, ())):
                    raise self.source.error(phi.node, "the phi must name each block that jumps here once")
        for jump in self._jumps:
            jump.block.add_op(self._terminator(jump))
        for name, (_, use) in self._waiting.items():
            raise self.source.error(use, f"{name} is not defined")
        entry.insert_ops_before(self.constant_ops, entry.first_op)  # pyright: ignore

    def _passed(self, source: Block, target: Any) -> list[SSAValue]:
        """What `source` hands to the phis of `target`."""
        passed: list[SSAValue] = []
        for phi in self._phis.get(self._label(target), ()):
            value = phi.incoming[source]
            passed.append(value if isinstance(value, SSAValue) else self.value(value, phi.type))
        return passed

    def _terminator(self, jump: _Jump) -> Operation:
        operands, properties = list(jump.operands), {}
        passed = [self._passed(jump.block, target) for target in jump.targets]
        for values in passed:
            operands.extend(values)
        sizes = [len(values) for values in passed]
        if jump.kind == "cond_br":
            properties["operandSegmentSizes"] = DenseArrayBase.from_list(i32, [1, *sizes])
        elif jump.kind == "switch":
            properties["operandSegmentSizes"] = DenseArrayBase.from_list(i32, [1, sizes[0], sum(sizes[1:])])
            properties["case_operand_segments"] = DenseArrayBase.from_list(i32, sizes[1:])
            if jump.cases is not None:
                properties["case_values"] = jump.cases
        return OPS[jump.kind].create(
            operands=operands,
            properties=properties,
            attributes=jump.attributes or {},
            successors=[self._label(target) for target in jump.targets],
            location=jump.location,
        )


_NONE = DenseArrayBase.from_list(i32, [])


def _number(token: Any, type: Any = i64) -> IntegerAttr:
    """The number in `, align 4`."""
    return IntegerAttr(int(re.findall(r"\d+", token)[0][:18]), type)


def _attribute(scalars: Scalars, node: Any, text: str, type: Attribute) -> Attribute:
    from xdsl.dialects.builtin import FloatAttr

    value = scalars.number(node, text, type)
    return IntegerAttr(int(value), type) if isinstance(type, IntegerType) else FloatAttr(value, type)  # pyright: ignore


_classes: dict[str, Any] = {}


def _intrinsic_class(name: str) -> Any:
    """The op of the intrinsic `llvm.fma.v4f32`, None where the dialect has none."""
    if name not in _classes:
        parts = name.split(".")[1:]
        prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
        _classes[name] = next((OPS[f"intr.{p}"] for p in prefixes if f"intr.{p}" in OPS), None)
    return _classes[name]


_MAKERS: dict[str, Callable[[FunctionReader, Any], Operation]] = {
    "binary": FunctionReader._binary,
    "compare": FunctionReader._compare,
    "unary": FunctionReader._unary,
    "cast": FunctionReader._cast,
    "select": FunctionReader._select,
    "getelementptr": FunctionReader._getelementptr,
    "load": FunctionReader._load,
    "store": FunctionReader._store,
    "alloca": FunctionReader._alloca,
    "extractelement": FunctionReader._extractelement,
    "insertelement": FunctionReader._insertelement,
    "shufflevector": FunctionReader._shufflevector,
    "extractvalue": FunctionReader._extractvalue,
    "insertvalue": FunctionReader._insertvalue,
}
_EFFECTS: dict[str, Callable[[FunctionReader, Any], None]] = {
    "call": FunctionReader._call,
    "phi": FunctionReader._phi,
    "ret": FunctionReader._ret,
    "switch": FunctionReader._switch,
    "br": lambda self, tree: self._jump("br", [], tree.children),
    "cond_br": lambda self, tree: self._jump(
        "cond_br", [self.value(tree.children[1], self.types.of(tree.children[0]))], tree.children[2:]
    ),
    "unreachable": lambda self, tree: self._jump("unreachable", [], []),
}
