"""The machine that runs IR on numpy: a table of meanings by op name, and one store of values."""

from collections.abc import Callable, Iterable, Sequence
from itertools import count
from math import inf
from time import process_time
from typing import Any
from weakref import WeakValueDictionary

import ml_dtypes
import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import FunctionType, MemRefType, ModuleOp, StringAttr
from xdsl.ir import Block, Operation, Region, SSAValue

from stepwell.diagnostics import compile_error, unsupported
from stepwell.errors import RunError
from stepwell.resources import dtype_of

Results = Sequence[Any]
Meaning = Callable[["Machine", Operation], Results | None]

RUNTIME: dict[str, Callable[..., None]] = {}
"""What a kernel of the C runtime does with its buffers, by its name: inputs first, then those that it writes."""

MEANINGS: dict[str, Meaning] = {}
"""What an op means, by its name: reads its operands from the machine, returns its results."""


def meaning(*names: str) -> Callable[[Meaning], Meaning]:
    """Enter a function into `MEANINGS` under each of `names`."""

    def enter(function: Meaning) -> Meaning:
        for name in names:
            MEANINGS[name] = function
        return function

    return enter


def poison(shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Memory that nobody wrote: NaN, or a recognisable bit pattern, so that a read of it shows."""
    if dtype.kind == "f" or dtype == ml_dtypes.bfloat16:
        return np.full(shape, np.nan, dtype)
    if dtype.kind == "b":
        return np.ones(shape, dtype)
    return (
        np.full(shape, 85, np.uint8).astype(dtype) if dtype.itemsize == 1 else np.full(shape, 0x5A5A, dtype)
    )


class OutOfFuel(RunError):
    """A program was given a limit and runs longer."""


class Machine:
    """
    Runs blocks of ops over one store of values.

    A scalar is a numpy scalar or, inside the body of a structured op that is evaluated for many points at
    once, an array that broadcasts over the points. Tensors and vectors are arrays, memrefs are views.
    """

    def __init__(self, module: ModuleOp, ctx: Context):
        self.module = module
        self.ctx = ctx
        self.values: dict[SSAValue, Any] = {}
        self.functions: dict[str, Operation] = {}
        self.globals: dict[str, np.ndarray] = {}
        self.owned: WeakValueDictionary[int, np.ndarray] = WeakValueDictionary()
        self.points: list[dict[int, np.ndarray]] = []
        """For each structured op around: the index values of its dims (read by `linalg.index`)."""
        self.masked = 0
        """Above 0 where a value may be computed for points that do not ask for it."""
        for op in module.body.block.ops:
            if isinstance(name := op.properties.get("sym_name"), StringAttr):
                self.functions[name.data] = op
        self.native: Any = None
        """Memory and symbols of the functions of the llvm dialect (`interpreter/llvm.py`), once one runs."""
        self.fuel = inf
        """How many more blocks may be run; a program that needs more ends with `OutOfFuel`."""
        self.deadline = inf
        """The processor time (`time.process_time`) at which it ends so as well; looked at now and then."""
        self._burnt = 0
        self.native_launch: Callable[..., bool] | None = None
        """Asked first at each launch of a host function of the llvm dialect; True: it has done it."""
        self.observer: Callable[[Machine, Operation], None] | None = None
        """Told of every op that ran."""
        self._positions: dict[Block, dict[Operation, int]] = {}

    def __getitem__(self, value: SSAValue) -> Any:
        return self.values[value]

    def get(self, values: Sequence[SSAValue]) -> list[Any]:
        return [self.values[value] for value in values]

    def integer(self, value: SSAValue) -> int:
        """The value of a scalar that must not vary over points."""
        return int(self.values[value])

    def run_region(self, region: Region, arguments: Sequence[Any]) -> list[Any]:
        """Run a region of one block; the operands of its terminator."""
        return self.run_block(region.block, arguments)

    def run_block(self, block: Block, arguments: Sequence[Any]) -> list[Any]:
        values = self.values
        self.burn()
        for argument, value in zip(block.args, arguments, strict=True):
            values[argument] = value
        for op in block.ops:
            if op is block.last_op and op.name in _TERMINATORS:
                for value in op.operands:
                    self.share(value)
                return [values[v] for v in op.operands]
            self.run(op)
        return []

    def burn(self) -> None:
        """Pay for one block."""
        self.fuel -= 1
        self._burnt += 1
        if self.fuel < 0 or (self._burnt % 64 == 0 and process_time() > self.deadline):
            raise OutOfFuel("the program runs longer than it was allowed to")

    def iterations(self, points: Sequence[tuple[int, ...]]) -> Iterable[tuple[int, ...]]:
        """Those of a parallel loop that are to be run, in this order; a machine for samples takes fewer."""
        return points

    def share(self, value: SSAValue) -> None:
        """A tensor that a block gives up, or a call takes, is no longer the machine's own where `value` has other readers."""
        readers = [use for use in value.uses if use.operation.name not in _SCALAR_READS]
        if len(readers) > 1:
            self.owned.pop(id(self.values[value]), None)

    def run(self, op: Operation) -> None:
        function = MEANINGS.get(op.name)
        if function is None:
            function = _graph_meaning(op)
        results = function(self, op)
        if op.results:
            assert results is not None, f"{op.name} gave no results"
            for result, value in zip(op.results, results, strict=True):
                self.values[result] = value
        if self.observer is not None:
            self.observer(self, op)

    def call(self, name: str, arguments: Sequence[Any], caller: Operation | None = None) -> list[Any]:
        """Run the function `name`."""
        function = self.functions.get(name)
        if function is not None and name in RUNTIME:
            return self._call_runtime(name, arguments, function)
        if function is None or not function.regions or not function.regions[0].blocks:
            raise compile_error(caller or self.module, f"no function @{name} with a body", "define it")
        return self.run_region(function.regions[0], arguments)

    def _call_runtime(self, name: str, arguments: Sequence[Any], function: Operation) -> list[Any]:
        """
        A kernel that the C runtime defines: on tensors it returns its results, on memrefs it writes them to its last
        arguments (but for the range of its one tile).
        """
        type = function.properties["function_type"]
        assert isinstance(type, FunctionType), "a function has a type"
        if outputs := len(type.outputs):
            given = [np.asarray(v) for v in arguments]
            places = [np.array(v) for v in given[len(given) - outputs :]]
            RUNTIME[name](*given[: len(given) - outputs], *places)
            return [self.own(v) for v in places]
        RUNTIME[name](*(v for v, t in zip(arguments, type.inputs, strict=True) if isinstance(t, MemRefType)))
        return []

    def own(self, array: np.ndarray) -> np.ndarray:
        """Note that nothing but the machine refers to `array`, so it may be changed in place."""
        self.owned[id(array)] = array
        return array

    def may_overwrite(self, value: SSAValue, user: Operation) -> bool:
        """True if `user` is the last reader of the tensor `value`, and its array is the machine's own."""
        if id(self.values[value]) not in self.owned:
            return False
        for use in value.uses:
            if use.operation is user:
                continue
            if use.operation.parent is not user.parent or use.operation.name not in _SCALAR_READS:
                return False
            if self._position(use.operation) > self._position(user):
                return False
        return True

    def _position(self, op: Operation) -> int:
        block = op.parent
        assert block is not None
        if block not in self._positions:
            self._positions[block] = dict(zip(block.ops, count(), strict=False))
        return self._positions[block][op]


_TERMINATORS = {
    "func.return", "scf.yield", "linalg.yield", "tensor.yield", "scf.condition", "graph.yield",
    "memref.alloca_scope.return",
}  # fmt: skip
_SCALAR_READS = {"tensor.extract", "tensor.dim"}


_VALUES = ("value.any", "graph.sequence", "graph.optional", "graph.map")
_NO_ARRAYS = (list, dict)
"""How sequences and maps are given."""


def _graph_meaning(op: Operation) -> Meaning:
    """The meaning of a graph op, from the table of that level."""
    if op.name.startswith("graph."):
        from stepwell.interpreter.graph import run_graph_op

        return run_graph_op
    raise unsupported(op, "the interpreter has no meaning for this op", "add one to interpreter/")


def interpret(
    module: ModuleOp, inputs: Sequence[np.ndarray], ctx: Context, *, function: str = "main"
) -> list[Any]:
    """
    Run `@main` of `module`, whichever stage it is in, on `inputs`; its results in order.
    Errors: wrong number of inputs, an op without a meaning, an access outside its tensor.
    """
    return run_main(Machine(module, ctx), inputs, function)


def run_main(machine: Machine, inputs: Sequence[np.ndarray], function: str = "main") -> list[Any]:
    """What `interpret` does, on a machine that the caller looks into."""
    main = machine.functions.get(function)
    if main is None:
        raise compile_error(machine.module, f"there is no function @{function} to run", "define it")
    arguments = main.regions[0].block.args
    if len(arguments) != len(inputs):
        raise compile_error(
            main, f"@{function} takes {len(arguments)} inputs and {len(inputs)} were given", "give one each"
        )
    given = [x if x is None or isinstance(x, _NO_ARRAYS) else np.asarray(x) for x in inputs]
    for i, (x, argument) in enumerate(zip(given, arguments, strict=True)):
        if x is None or argument.type.name in _VALUES:
            continue
        want = getattr(argument.type, "element_type", argument.type)
        given[i] = x.astype(dtype_of(want), copy=False) if x.dtype != object else x
    with np.errstate(all="ignore"):
        results = machine.call(function, given)
    return [r if r is None or isinstance(r, _NO_ARRAYS) else np.asarray(r) for r in results]
