"""What an op does besides computing its results: one table for every dialect, where xDSL has gaps.

xDSL marks no linalg op, few vector ones and not every arith one (`remui`, `extsi`), so its own question
`is_side_effect_free` keeps them alive for ever. Here the answer follows from the dialect.
"""

from enum import IntEnum
from functools import cache

from xdsl.dialects.builtin import MemRefType, UnrankedMemRefType, UnregisteredOp
from xdsl.ir import Operation
from xdsl.traits import IsTerminator, MemoryEffectKind, SymbolOpInterface, get_effects


class Effect(IntEnum):
    """From harmless to anything; an op with regions has the greatest effect of its ops."""

    PURE = 0
    READ = 1
    ALLOCATE = 2
    """Makes a buffer nobody else knows: may go if unused, must not be merged with another."""
    ANY = 3


class _Rule(IntEnum):
    PURE = 0
    READ = 1
    ALLOCATE = 2
    ANY = 3
    REGIONS = 4
    """The effects of the ops inside."""
    WRITES_MEMREFS = 5
    """Writes if an operand is a memref, else pure: destination style."""
    READS_MEMREFS = 6
    RANDOM = 7
    """No effect, but two of them are two draws."""
    TRAITS = 8


_PURE_DIALECTS = {"affine", "arith", "complex", "graph", "index", "math", "tensor", "ub", "value", "vector"}

_BY_NAME = {
    "affine.load": _Rule.READ,
    "affine.store": _Rule.ANY,
    "builtin.unrealized_conversion_cast": _Rule.PURE,
    "memref.alloc": _Rule.ALLOCATE,
    "memref.alloca": _Rule.ALLOCATE,
    "memref.load": _Rule.READ,
    "schedule.arena": _Rule.ALLOCATE,
    "tensor.empty": _Rule.PURE,
    "vector.transfer_read": _Rule.READS_MEMREFS,
    "vector.transfer_write": _Rule.WRITES_MEMREFS,
    "vector.load": _Rule.READ,
    "vector.maskedload": _Rule.READ,
    "vector.expandload": _Rule.READ,
    "vector.gather": _Rule.READS_MEMREFS,
    "vector.store": _Rule.ANY,
    "vector.maskedstore": _Rule.ANY,
    "vector.compressstore": _Rule.ANY,
    "vector.scatter": _Rule.ANY,
    "vector.print": _Rule.ANY,
    "value.wrap": _Rule.READS_MEMREFS,
    "graph.bernoulli": _Rule.RANDOM,
    "graph.dropout": _Rule.RANDOM,
    "graph.multinomial": _Rule.RANDOM,
    "graph.random_normal": _Rule.RANDOM,
    "graph.random_normal_like": _Rule.RANDOM,
    "graph.random_uniform": _Rule.RANDOM,
    "graph.random_uniform_like": _Rule.RANDOM,
    "llvm.alloca": _Rule.ALLOCATE,
    "llvm.load": _Rule.READ,
    "llvm.intr.masked.load": _Rule.READ,
    "llvm.intr.masked.gather": _Rule.READ,
}

_MEMREF_VIEWS = {
    "cast", "collapse_shape", "dim", "expand_shape", "extract_aligned_pointer_as_index",
    "extract_strided_metadata", "get_global", "memory_space_cast", "rank", "reinterpret_cast", "reshape",
    "subview", "transpose", "view",
}  # fmt: skip

_LLVM_EFFECTS = {
    "llvm.atomicrmw", "llvm.br", "llvm.call", "llvm.call_intrinsic", "llvm.cmpxchg", "llvm.cond_br",
    "llvm.fence", "llvm.inline_asm", "llvm.invoke", "llvm.store", "llvm.switch", "llvm.unreachable",
    "llvm.return", "llvm.intr.assume", "llvm.intr.memcpy", "llvm.intr.memmove", "llvm.intr.memset",
    "llvm.intr.masked.store", "llvm.intr.masked.scatter", "llvm.intr.prefetch", "llvm.intr.stacksave",
    "llvm.intr.stackrestore", "llvm.intr.trap", "llvm.intr.lifetime.start", "llvm.intr.lifetime.end",
    "llvm.va_arg", "llvm.intr.vastart", "llvm.intr.vaend", "llvm.intr.vacopy", "llvm.landingpad",
}  # fmt: skip


@cache
def _rule(op_class: type[Operation]) -> _Rule:
    name = op_class.name
    dialect, _, suffix = name.partition(".")
    if op_class is UnregisteredOp:
        return _Rule.ANY
    if (found := _BY_NAME.get(name)) is not None:
        return found
    traits = getattr(op_class, "traits", None)
    kinds = traits.traits if traits is not None else ()
    if any(isinstance(trait, SymbolOpInterface) for trait in kinds):
        return _Rule.ANY
    if dialect == "scf":
        return _Rule.PURE if any(isinstance(trait, IsTerminator) for trait in kinds) else _Rule.REGIONS
    if any(isinstance(trait, IsTerminator) for trait in kinds):
        return _Rule.PURE if dialect in _PURE_DIALECTS or dialect == "linalg" else _Rule.ANY
    if dialect in _PURE_DIALECTS:
        return _Rule.REGIONS
    if dialect in ("linalg", "text"):
        return _Rule.WRITES_MEMREFS
    if dialect == "memref" and suffix in _MEMREF_VIEWS:
        return _Rule.PURE
    if dialect == "llvm":
        return _Rule.ANY if name in _LLVM_EFFECTS or name.startswith("llvm.mlir.global") else _Rule.PURE
    return _Rule.TRAITS


def effect_of(op: Operation) -> Effect:
    """The greatest effect that `op`, with the ops inside it, can have."""
    rule = _rule(type(op))
    if rule <= _Rule.ANY:
        return Effect(rule)
    if rule is _Rule.RANDOM:
        return Effect.ALLOCATE
    if rule is _Rule.REGIONS:
        return _effect_of_regions(op)
    if rule in (_Rule.WRITES_MEMREFS, _Rule.READS_MEMREFS):
        if any(isinstance(operand.type, MemRefType | UnrankedMemRefType) for operand in op.operands):
            return Effect.ANY if rule is _Rule.WRITES_MEMREFS else Effect.READ
        return _effect_of_regions(op)
    effects = get_effects(op)
    if effects is None:
        return Effect.ANY
    kinds = {effect.kind for effect in effects}
    if kinds - {MemoryEffectKind.READ, MemoryEffectKind.ALLOC}:
        return Effect.ANY
    return Effect.ALLOCATE if MemoryEffectKind.ALLOC in kinds else Effect(len(kinds))


def _effect_of_regions(op: Operation) -> Effect:
    worst = Effect.PURE
    for region in op.regions:
        for block in region.blocks:
            for inner in block.ops:
                worst = max(worst, effect_of(inner))
                if worst is Effect.ANY:
                    return worst
    return worst


def is_removable(op: Operation) -> bool:
    """Whether nothing is lost with `op` if its results are not used."""
    return (
        bool(op.results) and effect_of(op) is not Effect.ANY and not op.has_trait(IsTerminator)
    ) or _is_empty(op)


def _is_empty(op: Operation) -> bool:
    """An op without results that does nothing, such as a loop whose body was removed."""
    loops = bool(op.regions) and not op.results and not op.has_trait(IsTerminator)
    return loops and _rule(type(op)) is _Rule.REGIONS and effect_of(op) is Effect.PURE


def is_unused(op: Operation) -> bool:
    """Whether no result of `op` has a use."""
    return all(result.first_use is None for result in op.results)
