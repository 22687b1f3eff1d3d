"""The functions that rules call by name: facts about values, arithmetic on lists, constants to make, samples for tests."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from inspect import getdoc, signature
from math import prod
from typing import Any, TypeVar

import numpy as np
from xdsl.dialects.builtin import FloatAttr, IndexType, IntegerAttr, IntegerType, ShapedType, Signedness
from xdsl.ir import Attribute, SSAValue

from stepwell.dialects.graph import Expr, GraphOp, dims_of, known_integers, numpy_dtype
from stepwell.transforms.graph.emitter import Emitter, element_type, static_shape

_F = TypeVar("_F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Native:
    """A function that rules may call: `first` is the name of a parameter that the rule does not write."""

    name: str
    function: Callable[..., Any]
    first: str | None
    parameters: tuple[str, ...]
    document: str


NATIVES: dict[str, Native] = {}
"""Name in rules to function."""


def native(function: _F) -> _F:
    """
    Let rules call `function` by its name (a trailing `_` is dropped). Its docstring is its documentation. A first
    parameter `emitter` is the maker of ops and reader of constants, `rng` numpy's generator in a `sample` clause.
    A function that returns None (or False) makes the rule not match.
    """
    parameters = list(signature(function).parameters)
    first = parameters.pop(0) if parameters and parameters[0] in ("emitter", "rng") else None
    name = function.__name__.removesuffix("_")
    document = getdoc(function)
    if not document:
        raise TypeError(f"native function {name} has no docstring; say in a line what it gives")
    NATIVES[name] = Native(name, function, first, tuple(parameters), document)
    return function


# Facts about values


@native
def rank(x: SSAValue) -> int:
    """The number of axes of a tensor."""
    return len(x.type.get_shape())  # pyright: ignore[reportAttributeAccessIssue]


@native
def type_(x: SSAValue) -> Attribute:
    """The type of a value."""
    return x.type


@native
def element(x: SSAValue) -> Attribute:
    """The element type of a tensor."""
    return element_type(x)


@native
def width(x: SSAValue) -> int:
    """The bits of an integer; an index has 64."""
    type = x.type.element_type if isinstance(x.type, ShapedType) else x.type  # pyright: ignore
    return type.width.data if isinstance(type, IntegerType) else 64


@native
def extents(x: SSAValue) -> list[int] | None:
    """The extents of a tensor if all are numbers."""
    return static_shape(x)


@native
def known_extents(x: SSAValue) -> bool:
    """Whether each extent of a tensor is a number or has a name."""
    return all(not isinstance(d, Expr) or d.is_known for d in dims_of(x.type))


@native
def same_extents(x: SSAValue, y: SSAValue) -> bool:
    """Whether two tensors are known to have equal extents and element types."""
    return element_type(x) == element_type(y) and dims_of(x.type) == dims_of(y.type)


@native
def one_use(x: SSAValue) -> bool:
    """Whether a value is read once, so that what made it goes when that reader goes."""
    return x.has_one_use()


@native
def same(x: SSAValue, y: SSAValue) -> bool:
    """Whether two names stand for one value."""
    return x is y


@native
def integers(x: SSAValue | None) -> list[int] | None:
    """The elements of a small integer tensor that are known at compile time, by constants or by shapes."""
    if x is None or not isinstance(kind := element_type(x), IntegerType):
        return None
    found = known_integers(x)
    low, high = _limits(kind)
    return found if found is not None and all(low <= item <= high for item in found) else None


def _limits(kind: IntegerType) -> tuple[int, int]:
    bits = kind.width.data
    if bits == 1 or kind.signedness.data == Signedness.UNSIGNED:
        return 0, (1 << bits) - 1
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


@native
def is_constant(x: SSAValue) -> bool:
    """Whether a value is a constant of the graph."""
    return isinstance(x.owner, GraphOp) and x.owner.ONNX_NAME == "Constant"


@native
def splat(emitter: Emitter, x: SSAValue | None) -> Any:
    """The number that every element of a constant equals."""
    return emitter.splat(x)


@native
def is_false(emitter: Emitter, x: SSAValue | None) -> bool:
    """Whether a value is absent or a constant that is false everywhere."""
    return x is None or ((found := emitter.splat(x)) is not None and not found)


@native
def attribute(x: SSAValue, name: str) -> Any:
    """The Python value of an attribute of the op that made `x`; none where it is absent."""
    return x.owner.get(name) if isinstance(x.owner, GraphOp) else None


# Arithmetic on lists


@native
def permutation(x: SSAValue) -> list[int]:
    """The axes of the operand of the transpose that made `x`, in the order of `x`."""
    op = x.owner
    assert isinstance(op, GraphOp), "only transposes permute"
    given = op.get("perm")
    return list(given) if given is not None else list(reversed(range(rank(op.operands[0]))))


@native
def compose(p: Sequence[int], q: Sequence[int]) -> list[int]:
    """The permutation `r[i] = p[q[i]]`: first `p`, then `q`."""
    return [p[axis] for axis in q]


@native
def compose_ends(ends: Sequence[int] | None, p: Sequence[int]) -> list[int] | None:
    """Of a list of what is at the starts, then at the ends of all axes: the same for the axes in another order."""
    return None if ends is None else [ends[start + axis] for start in (0, len(p)) for axis in p]


@native
def is_identity(p: Sequence[int]) -> bool:
    """Whether a permutation keeps every axis where it is."""
    return list(p) == list(range(len(p)))


@native
def keeps_order(p: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a permutation keeps the order of all axes whose extent is not 1."""
    moved = [axis for axis in p if shape[axis] != 1]
    return moved == sorted(moved)


@native
def all_equal(items: Iterable[int] | None, number: int) -> bool:
    """Whether every item of a list, which may be absent, equals a number."""
    return all(item == number for item in items or ())


@native
def count(items: Sequence[int], number: int) -> int:
    """How often a number stands in a list."""
    return list(items).count(number)


@native
def open_extents(x: SSAValue) -> list[int]:
    """The extents of a tensor, -1 for those that are not numbers."""
    return [d if isinstance(d, int) else -1 for d in dims_of(x.type)]


# Constants to make


@native
def ints(emitter: Emitter, items: Sequence[int]) -> SSAValue:
    """A constant list of int64."""
    return emitter.ints(items)


@native
def constant_like(emitter: Emitter, number: Any, x: SSAValue) -> SSAValue:
    """A constant with the type of `x` (whose extents are numbers), all its elements equal to a number."""
    type = x.type
    if isinstance(type, IndexType | IntegerType):
        return emitter.attribute_constant(IntegerAttr(number, type))
    if not isinstance(type, ShapedType):
        return emitter.attribute_constant(FloatAttr(number, type))  # pyright: ignore
    kind = element_type(x)
    return emitter.constant(
        np.broadcast_to(np.array(number).astype(numpy_dtype(kind)), type.get_shape()), kind
    )


@native
def listed(emitter: Emitter, items: Sequence[int], x: SSAValue) -> SSAValue:
    """A constant with the type of `x`, whose elements are the items."""
    kind = element_type(x)
    array = np.array(items, np.int64).reshape(static_shape(x) or ())
    return emitter.constant(array.astype(numpy_dtype(kind)), kind)


# Samples for the property test


@native
def permutations(rng: np.random.Generator, x: SSAValue) -> list[int]:
    """Any permutation of the axes of `x`."""
    return [int(axis) for axis in rng.permutation(rank(x))]


@native
def choose(rng: np.random.Generator, *choices: Any) -> Any:
    """Any of the arguments."""
    return choices[rng.integers(len(choices))]


@native
def between(rng: np.random.Generator, low: int, high: int) -> int:
    """Any integer from `low` to `high`, both included."""
    return int(rng.integers(low, high + 1))


@native
def shape_of(x: SSAValue) -> np.ndarray:
    """The extents of `x` as an int64 array; one without a number is -1."""
    return np.array([d if isinstance(d, int) else -1 for d in dims_of(x.type)], np.int64)


@native
def any_shape_of(rng: np.random.Generator, x: SSAValue) -> np.ndarray:
    """The extents of some tensor with as many elements as `x`, as an int64 array."""
    shape = static_shape(x)
    if shape is None:
        return shape_of(x)
    total, found = prod(shape), []
    for factor in (2, 3, 2):
        if total % factor == 0 and rng.integers(2):
            found.append(factor)
            total //= factor
    return np.array([*found, total], np.int64)


@native
def array(items: Any) -> np.ndarray:
    """A list as an int64 array."""
    return np.array(items, np.int64)


@native
def repeated(number: int, times: int) -> np.ndarray:
    """An int64 array that holds a number so many times."""
    return np.full(times, number, np.int64)


@native
def truth(value: int) -> np.ndarray:
    """A boolean scalar."""
    return np.array(bool(value))
