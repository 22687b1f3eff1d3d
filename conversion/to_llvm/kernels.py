"""Kernels at memref level become functions of the llvm dialect: a body and the wrapper that the runtime calls."""

from dataclasses import dataclass
from typing import Any

from xdsl.context import Context
from xdsl.dialects.builtin import (
    ArrayAttr,
    DictionaryAttr,
    IndexType,
    MemRefType,
    ModuleOp,
    NoneAttr,
    StringAttr,
    UnitAttr,
    VectorType,
    i64,
)
from xdsl.dialects.llvm import LinkageAttr, LLVMFunctionType
from xdsl.ir import Attribute, Block, Operation
from xdsl.passes import ModulePass

from stepwell.conversion.to_llvm.control import CONTROL
from stepwell.conversion.to_llvm.core import (
    DYNAMIC,
    PTR,
    UNNAMED,
    FunctionLowering,
    Handler,
    function_type_of,
    llvm_op,
    prove_converted,
    static_shape,
)
from stepwell.conversion.to_llvm.globals import convert_globals, declare, lower_get_global
from stepwell.conversion.to_llvm.memory import MEMORY
from stepwell.conversion.to_llvm.scalars import SCALARS
from stepwell.diagnostics import unsupported
from stepwell.dialects.llvm import FuncOp
from stepwell.dialects.schedule import ALIAS_KEY, RUNTIME_KEY
from stepwell.dialects.stepwell import TARGET_KEY, TargetAttr

KERNEL_KEY = "stepwell.kernel"
SCRATCH_KEY = "stepwell.scratch_bytes"

KERNEL_TYPE = LLVMFunctionType([PTR, PTR, i64, i64, PTR])
"""`void k(void *const *buffers, const int64_t *dims, int64_t begin, int64_t end, void *scratch)`."""


def function_attributes(module: ModuleOp) -> dict[str, Attribute]:
    """
    What makes clang use the target's full vectors: on Intel parts it prefers 256 bits unless told.
    """
    attr = module.attributes.get(TARGET_KEY)
    if not isinstance(attr, TargetAttr):
        return {}
    target = attr.target()
    found: dict[str, Attribute] = {}
    if "x86" in target.triple or not target.triple:
        bits = StringAttr(str(target.vector_bytes * 8))
        keys = ("prefer-vector-width", "min-legal-vector-width")
        found["passthrough"] = ArrayAttr([ArrayAttr([StringAttr(key), bits]) for key in keys])
    if target.cpu and target.cpu != "native":
        found["target_cpu"] = StringAttr(target.cpu)
    return found


def contracts(module: ModuleOp) -> bool:
    """Whether the target's fp mode lets a multiplication and an addition fuse."""
    attr = module.attributes.get(TARGET_KEY)
    return not (isinstance(attr, TargetAttr) and attr.target().fp == "strict")


@dataclass
class _Signature:
    """The arguments of a kernel by role."""

    memrefs: list[Any]
    indices: list[Any]
    tiles: tuple[Any, Any]
    scratch: Any | None

    @staticmethod
    def of(func: Any) -> "_Signature":
        args = list(func.body.block.args)
        scratch = args.pop() if SCRATCH_KEY in func.attributes else None
        if len(args) < 2 or any(not isinstance(arg.type, IndexType) for arg in args[-2:]):
            raise unsupported(func, "has no `%begin: index, %end: index`", "run lift-parallel first")
        end, begin = args.pop(), args.pop()
        for arg in args:
            if not isinstance(arg.type, MemRefType | IndexType):
                raise unsupported(func, f"takes a {arg.type}", "pass a memref or an index")
        memrefs = [arg for arg in args if isinstance(arg.type, MemRefType)]
        return _Signature(memrefs, [arg for arg in args if arg not in memrefs], (begin, end), scratch)

    def dims(self, func: Any) -> int:
        """How many entries of `dims` the kernel reads."""
        dynamic = sum(size == DYNAMIC for arg in self.memrefs for size in static_shape(arg.type))
        return dynamic + len(self.indices)


def _argument_attributes(func: Any, signature: _Signature, total: int) -> dict[str, Attribute]:
    """`noalias` for every buffer that is not marked otherwise; nothing where all are, which text could not say."""
    given = func.properties.get("arg_attrs")
    noalias, none = DictionaryAttr({"llvm.noalias": UnitAttr()}), DictionaryAttr({})
    found: list[DictionaryAttr] = []
    for arg in signature.memrefs:
        marked = given is not None and ALIAS_KEY in given.data[arg.index].data
        found.append(none if marked else noalias)
    if noalias not in found:
        return {}
    return {"arg_attrs": ArrayAttr([*found, *[none] * (total - len(found))])}


def _has_vectors(func: Operation) -> bool:
    """
    Whether a kernel computes on vectors. Loops of scalars are vectorised by LLVM, which fuses other multiplications and
    additions in its vectors than in the elements that are left: how many are left depends on the number of threads, so
    where we write no vectors nothing may fuse.
    """
    return any(isinstance(result.type, VectorType) for op in func.walk() for result in op.results)


def _lower_body(
    func: Any, handlers: dict[str, Handler], attributes: dict[str, Attribute], contract: bool, prefetch: bool
):
    signature = _Signature.of(func)
    dims = signature.dims(func)
    types = [PTR] * len(signature.memrefs) + [i64] * (dims + 2) + [PTR]
    entry = Block(arg_types=types)
    low = FunctionLowering(handlers, entry, contract)
    low.prefetch = prefetch
    if not _has_vectors(func):
        low.fastmath = {"fastmathFlags": low.strict}
    pointers = iter(entry.args[: len(signature.memrefs)])
    values = iter(entry.args[len(signature.memrefs) :])
    for arg in func.body.block.args[: len(signature.memrefs) + len(signature.indices)]:
        if not isinstance(type := arg.type, MemRefType):
            low.define(arg, next(values))
            continue
        if not isinstance(type.layout, NoneAttr):
            raise unsupported(func, f"takes the strided {type}", "pass contiguous buffers")
        sizes = [next(values) for size in static_shape(type) if size == DYNAMIC]
        low.buffers[arg] = low.contiguous(next(pointers), type, sizes)
    for arg in signature.tiles:
        low.define(arg, next(values))
    if signature.scratch is not None:
        size = low.integer(func.attributes[SCRATCH_KEY].value.data)
        low.buffers[signature.scratch] = low.contiguous(entry.args[-1], signature.scratch.type, [size])
    low.lower_ops(func.body.block)
    name = f"{func.sym_name.data}.body"
    body = FuncOp(
        name,
        LLVMFunctionType(types),
        LinkageAttr("internal"),
        body=low.finish(),
        other_props={
            **attributes,
            "unnamed_addr": UNNAMED,
            **_argument_attributes(func, signature, len(types)),
        },
    )
    body.location = func.location
    return body, low, len(signature.memrefs), dims


def _wrapper(func: Any, body: FuncOp, buffers: int, dims: int, attributes: dict[str, Attribute]) -> FuncOp:
    """Unpack `buffers` and `dims`, call the body."""
    entry = Block(arg_types=KERNEL_TYPE.inputs.data)
    low = FunctionLowering({}, entry)
    alignment: dict[str, Attribute] = {}
    # The constructor is that of xDSL's load, which is only looked up by its name here.
    ordering = llvm_op("load")(entry.args[0], PTR, alignment=8).properties  # pyright: ignore[reportCallIssue]
    alignment.update(ordering)
    arguments = []
    for count, base, type in ((buffers, entry.args[0], PTR), (dims, entry.args[1], i64)):
        for place in range(count):
            pointer = low.gep_constant(base, place, type)
            arguments.append(low.emit("load", (pointer,), type, dict(alignment)))
    low.call(body.sym_name.data, [*arguments, *entry.args[2:]], None)
    low.emit("return")
    wrapper = FuncOp(
        func.sym_name.data,
        KERNEL_TYPE,
        LinkageAttr("external"),
        body=low.finish(),
        other_props={**attributes, "unnamed_addr": UNNAMED},
    )
    if SCRATCH_KEY in func.attributes:
        wrapper.attributes[SCRATCH_KEY] = func.attributes[SCRATCH_KEY]
    wrapper.attributes[KERNEL_KEY] = UnitAttr()
    wrapper.location = func.location
    return wrapper


def _declaration(func: Any) -> FuncOp:
    """What the host knows of a kernel that the runtime defines."""
    found = FuncOp(
        func.sym_name.data, KERNEL_TYPE, LinkageAttr("external"), other_props={"unnamed_addr": UNNAMED}
    )
    found.attributes[KERNEL_KEY] = UnitAttr()
    found.location = func.location
    return found


def _return(low: FunctionLowering, op: Operation) -> None:
    if op.operands:
        raise unsupported(op, "returns values from a kernel", "run bufferize first")
    low.emit("return")


@dataclass(frozen=True)
class KernelsToLLVMPass(ModulePass):
    """
    Kernels become `@name.body`, whose buffers are `noalias` arguments, and `@name`, which the runtime calls.
    Requires: kernels after unroll-vectors and lift-parallel. Ensures: no func.func that is a kernel is left.
    """

    name = "kernels-to-llvm"
    prefetch: bool = True
    """Long contractions ask for their panels of weights ahead of time."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        convert_globals(op)
        handlers = {
            **SCALARS, **MEMORY, **CONTROL, "memref.get_global": lower_get_global(op), "func.return": _return,
        }  # fmt: skip
        attributes, contract = function_attributes(op), contracts(op)
        declarations: dict[str, LLVMFunctionType] = {}
        made: list[Operation] = []
        kernels: list[Any] = [func for func in op.ops if func.name == "func.func" and _is_kernel(func)]
        for func in [f for f in op.ops if f.name == "func.func" and RUNTIME_KEY in f.attributes]:
            declaration = _declaration(func)
            op.body.block.insert_op_before(declaration, func)
            func.detach()
            func.erase()
            made.append(declaration)
        for func in kernels:
            if function_type_of(func).outputs.data:
                raise unsupported(func, "returns values", "run bufferize first")
            body, low, buffers, dims = _lower_body(func, handlers, attributes, contract, self.prefetch)
            wrapper = _wrapper(func, body, buffers, dims, attributes)
            op.body.block.insert_ops_before([body, wrapper], func)
            func.detach()
            func.erase()
            declarations |= low.declarations
            made += [body, wrapper]
        declare(op, declarations)
        prove_converted(op, made)


def _is_kernel(func: Operation) -> bool:
    return KERNEL_KEY in func.attributes
