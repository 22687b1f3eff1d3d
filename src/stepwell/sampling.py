"""A level of a large model on samples: its host function as a whole, each of its kernels on a few tiles.

A kernel as `form-kernels` made it is a few structured ops, which numpy does at once; what becomes of it is run op by op
and tile by tile, which takes hours for a real network. So the host function of every level runs with the kernels of the
kernels level in the place of its own, and of its own each runs as many tiles as a share of the time allows, on the
arguments of its first launch. Tiles are taken from both ends, where the mistakes are.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from xdsl.dialects.builtin import FunctionType, IndexType, MemRefType, ModuleOp, TensorType
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Operation, Region, SSAValue

from stepwell.comparison import Difference, compare
from stepwell.compat import StepwellContext
from stepwell.diagnostics import UnsupportedOperation, one_line, source_names
from stepwell.execution import Interface, interface_of, main_of, through_ll, widened
from stepwell.interpreter import Machine, OutOfFuel, interpret_llvm, run_main
from stepwell.interpreter.llvm import Native
from stepwell.interpreter.memref import run_tiles
from stepwell.pipelines import run_pipeline
from stepwell.predicates import Miscompile, Outcome
from stepwell.resources import dtype_of
from stepwell.verification import verify_module

_PATIENCE = 4.0
"""Times its share of the time that a kernel may take for a single tile."""


@dataclass
class Wrong:
    """The first kernel that does not do on its sample what it did at the kernels level."""

    kernel: str
    layers: tuple[str, ...]
    difference: Difference
    message: str = ""

    def __str__(self) -> str:
        return f"kernel @{self.kernel}: {self.message or self.difference}"


@dataclass
class Sample:
    """What a run on samples found."""

    results: list[Any] = field(default_factory=list)
    """Of `@main`, with the kernels of the kernels level."""
    wrong: Wrong | None = None
    whole: int = 0
    parts: int = 0
    unchecked: list[str] = field(default_factory=list)
    """Kernels of which not one tile came to its end."""

    def __str__(self) -> str:
        text = (
            f"the host function as a whole, {self.whole} kernels whole, {self.parts} on some of their tiles"
        )
        return text + (f", {len(self.unchecked)} not run" if self.unchecked else "")


class Kernels:
    """The kernels of a module at the kernels level: what the same kernels further down have to do."""

    def __init__(self, module: ModuleOp, ctx: StepwellContext):
        self.module, self.ctx = module.clone(), ctx.clone()
        self.ctx.resources = ctx.resources.copy()
        self._machine = Machine(self.module, self.ctx)
        wide, wide_ctx = widened(self.module, self.ctx)
        self._wide = Machine(wide, wide_ctx)
        self.types: dict[str, FunctionType] = {}
        for name, function in self._machine.functions.items():
            type = function.properties.get("function_type")
            if "stepwell.kernel" in function.attributes and isinstance(type, FunctionType):
                self.types[name] = type

    def call(self, name: str, arguments: Sequence[Any]) -> list[np.ndarray]:
        """What the kernel returns."""
        given = [np.array(a) if isinstance(a, np.ndarray) else a for a in arguments]
        with np.errstate(all="ignore"):
            return [np.array(r) for r in self._machine.call(name, given)]

    def exact(self, name: str, arguments: Sequence[Any]) -> list[np.ndarray] | None:
        """The same in float64; None if it has no such form."""
        given = [
            np.array(a, np.float64) if getattr(a, "dtype", None) == np.float32 else np.array(a)
            for a in arguments
        ]
        try:
            with np.errstate(all="ignore"):
                return [np.asarray(r) for r in self._wide.call(name, given)]
        except Exception:  # an op that has no form in float64
            return None

    def fits(self, name: str, operands: Sequence[SSAValue]) -> bool:
        """Whether what a call or a launch gives to a kernel of this name is what this one takes."""
        type = self.types.get(name)
        given = [v.type for v in operands if v.type != IndexType()]
        taken = [] if type is None else [t for t in type.inputs if t != IndexType()]
        return bool(taken) and [_form(t) for t in given] == [_form(t) for t in taken]

    def __len__(self) -> int:
        return len(self.types)


def alone(kernels: Kernels, name: str) -> ModuleOp | None:
    """
    A module of one kernel, whose `@main` takes what its first call is given and returns what it returns; None where there
    is no such call, or where it takes extents, which are no inputs.
    """
    module = kernels.module.clone()
    main: Any = main_of(module)
    calls = (
        [] if main is None else [op for op in main.walk() if op.name == "func.call" and _callee(op) == name]
    )
    if not calls or any(value.type == IndexType() for value in calls[0].operands):
        return None
    call = calls[0]
    block = Block()
    values: dict[SSAValue, SSAValue] = {}
    for value in call.operands:
        if value in values:
            continue
        made = value.owner if isinstance(value.owner, Operation) else None
        if (
            made is not None
            and not made.operands
            and not made.regions
            and made.name in ("tensor.empty", "arith.constant")
        ):
            block.add_op(copy := made.clone())
            values[value] = copy.results[0]
        else:
            values[value] = block.insert_arg(value.type, len(block.args))
    block.add_op(copy := call.clone(values))
    block.add_op(ReturnOp(*copy.results))
    types = [argument.type for argument in block.args], [result.type for result in copy.results]
    kept = _reachable(module, name)
    for op in list(module.body.block.ops):
        if not isinstance(op, FuncOp) or op.sym_name.data not in kept:
            op.detach()
            op.erase(safe_erase=False)
    module.attributes.pop("stepwell.signature", None)
    module.body.block.insert_op_before(FuncOp("main", types, Region(block)), module.body.block.first_op)  # pyright: ignore
    return module


def _reachable(module: ModuleOp, name: str) -> set[str]:
    """The functions that the function `name` is made of, itself among them."""
    functions = {op.sym_name.data: op for op in module.body.block.ops if isinstance(op, FuncOp)}
    found, pending = set[str](), [name]
    while pending:
        if (current := pending.pop()) in found or current not in functions:
            continue
        found.add(current)
        pending += [called for op in functions[current].walk() if (called := _callee(op)) is not None]
    return found


@dataclass
class SampledMiscompile(Miscompile):
    """A miscompile of kernels; what takes longer than `limit_s` as a whole is run on samples of as many seconds."""

    def outcome(self, module: ModuleOp, ctx: StepwellContext) -> Outcome:
        whole = super().outcome(module, ctx)
        if whole.kind != "late":
            return whole
        own = ctx.clone()
        own.resources = ctx.resources.copy()
        try:
            kernels, interface = Kernels(module, own), interface_of(module)
            module, inputs = module.clone(), interface.random(self.seed)
            run_pipeline(own, module, self.prefix)
            if self._wrong(module, own, inputs, kernels, interface) is not None:
                return Outcome("unknown")
            run_pipeline(own, module, self.suspect)
            if self.through_ll:
                module = through_ll(module, own)
            verify_module(module)
            wrong = self._wrong(module, own, inputs, kernels, interface)
        except Exception as error:  # of a candidate that a pass, a verifier or an interpreter refuses
            return Outcome("unknown", message=one_line(error))
        if wrong is None:
            return Outcome("agrees")
        return Outcome("fails" if wrong.message else "differs", wrong.difference, wrong.message)

    def _wrong(
        self,
        module: ModuleOp,
        ctx: StepwellContext,
        inputs: Sequence[Any],
        kernels: Kernels,
        interface: Interface,
    ) -> Wrong | None:
        return run_sampled(module, ctx, inputs, kernels, interface, self.limit_s).wrong


def run_sampled(
    module: ModuleOp,
    ctx: StepwellContext,
    inputs: Sequence[Any],
    kernels: Kernels,
    interface: Interface,
    seconds: float,
    only: str | None = None,
) -> Sample:
    """
    Run `module`, at the kernels level or below, with the kernels of `kernels`, and its own on samples, for some
    `seconds` of processor time together; `only`: of one kernel ("": of none). It ends at the first wrong one.
    """
    host = _Host(module, ctx, kernels, seconds / max(len(kernels), 1), only)
    given = [np.array(x) if isinstance(x, np.ndarray) else x for x in inputs]
    try:
        if main_of(module) is not None:
            host.sample.results = run_main(host, given)
        else:
            known = interface_of(module, interface)
            host.native_launch = host.launch_native
            host.sample.results = list(
                interpret_llvm(module, given, ctx, known.arguments, known.results, machine=host)
            )
    except _Found:
        pass
    return host.sample


class _Found(Exception):
    """A kernel is wrong: no more has to be run."""


class _Host(Machine):
    """Runs the host function; a launch is done by the kernel of the kernels level."""

    def __init__(
        self, module: ModuleOp, ctx: StepwellContext, kernels: Kernels, share_s: float, only: str | None
    ):
        super().__init__(module, ctx)
        self.kernels, self.share_s, self.only = kernels, share_s, only
        self.sample = Sample()
        self._seen: set[tuple[str, tuple[int, ...]]] = set()

    def run(self, op: Operation) -> None:
        name = _callee(op)
        if name is None or not self.kernels.fits(name, op.operands):
            super().run(op)
        elif op.name == "func.call":
            arguments = self.get(op.operands)
            results = self.kernels.call(name, arguments)
            if self._is_new(op, name, arguments, len(results)):
                self._sample_call(op, name, arguments, results)
            if op.results:
                self.values.update(zip(op.results, results, strict=True))
            else:
                _store(arguments, results)
        else:
            launch: Any = op
            arguments = self.get(launch.arguments)
            results = self.kernels.call(name, arguments)
            if self._is_new(op, name, arguments, len(results)):
                self._sample_launch(launch, name, arguments, results)
            _store(arguments, results)

    def launch_native(
        self, native: Native, op: Operation, name: str, buffers: int, dims: int, tiles: int, scratch: int
    ) -> bool:
        """A launch of the host function at the llvm level; False if the kernel has to run itself."""
        type = self.kernels.types.get(name)
        if type is None:
            return False
        arguments = _native_arguments(native, op, type, buffers, dims)
        results = self.kernels.call(name, arguments)
        if self._is_new(op, name, arguments, len(results)):
            self._sample_native(native, op, name, arguments, results, dims, tiles, scratch)
        _store(arguments, results)
        return True

    def _is_new(self, op: Operation, name: str, arguments: list[Any], outputs: int) -> bool:
        """Whether this launch is to be sampled: the first of the kernel, and of each way in which its buffers coincide."""
        if self.only not in (None, name):
            return False
        coincide = _coinciding(arguments, outputs)
        if coincide is None:
            raise self._found(op, name, Difference(float("inf")), "an output lies across another argument")
        key = (name, coincide)
        new = key not in self._seen
        self._seen.add(key)
        return new

    # One sample, at each kind of level

    def _sample_call(self, op: Operation, name: str, arguments: list[Any], want: list[np.ndarray]) -> None:
        machine = _Tiles(self.module, self.ctx, self.share_s)
        given = _copies(arguments, len(want))
        try:
            with np.errstate(all="ignore"):
                results = machine.call(name, given)
                got = [np.asarray(r) for r in (results if op.results else given[len(given) - len(want) :])]
        except (OutOfFuel, UnsupportedOperation):
            self.sample.unchecked.append(name)
            return
        except Exception as error:  # IR that is wrong enough to break the interpreter itself
            raise self._found(op, name, Difference(float("inf")), one_line(error)) from error
        before = arguments[len(arguments) - len(want) :] if machine.is_part else None
        self._judge(op, name, arguments, got, want, before)

    def _sample_launch(self, op: Any, name: str, arguments: list[Any], want: list[np.ndarray]) -> None:
        def run(given: list[Any], tiles: range) -> None:
            machine = _Tiles(self.module, self.ctx, self.share_s)
            machine.values.update(zip(op.arguments, given, strict=True))
            run_tiles(machine, op, tiles)

        function = self.functions.get(name)
        more = 0 if function is None else len(function.regions[0].block.args) - len(arguments)
        tiles = self.integer(op.tiles) if more >= 2 or (function and function.name == "llvm.func") else 1
        self._sample_tiles(op, name, arguments, want, tiles, run)

    def _sample_native(
        self, native: Native, op: Operation, name: str, arguments: list[Any], want: list[np.ndarray],
        dims: int, tiles: int, scratch: int,
    ) -> None:  # fmt: skip
        def run(given: list[Any], tiles: range) -> None:
            memory = native.memory
            types = self.kernels.types[name].inputs
            arrays = [a for a, t in zip(given, types, strict=True) if isinstance(t, TensorType | MemRefType)]
            pointers = [memory.add(a.reshape(-1).view(np.uint8), a.dtype.itemsize) for a in arrays]
            slots = memory.add(np.array([*pointers, 0], np.int64).view(np.uint8))
            room = memory.add(np.full(max(scratch, 0), 0xFF, np.uint8))
            self.deadline = time.process_time() + _PATIENCE * self.share_s
            try:
                with np.errstate(all="ignore"):
                    values = (slots, dims, tiles.start, tiles.stop, room)
                    native.run(self.functions[name], [np.int64(v) for v in values])
            finally:
                self.deadline = float("inf")

        self._sample_tiles(op, name, arguments, want, tiles, run)

    def _sample_tiles(
        self, op: Operation, name: str, arguments: list[Any], want: list[np.ndarray], tiles: int, run: Any
    ) -> None:
        """Run tiles by `run`, which writes to the arrays that it is given, and compare after as many as time allows."""
        given = _copies(arguments, len(want))
        first, done = len(given) - len(want), 0
        got: list[np.ndarray] = []
        end = time.process_time() + self.share_s
        try:
            for tile in _from_both_ends(tiles):
                run(given, range(tile, tile + 1))
                done += 1
                if time.process_time() > end:
                    break
                got = [np.array(a) for a in given[first:]] if tiles > 1 else []
            else:
                got = []
        except (OutOfFuel, UnsupportedOperation):
            if not got:
                self.sample.unchecked.append(name)
                return
            given[first:] = got
        except Exception as error:  # IR that is wrong enough to break the interpreter itself
            raise self._found(op, name, Difference(float("inf")), one_line(error)) from error
        before = arguments[first:] if done < tiles else None
        self._judge(op, name, arguments, given[first:], want, before)

    def _judge(
        self, op: Operation, name: str, arguments: list[Any], got: list[np.ndarray], want: list[np.ndarray],
        before: list[Any] | None,
    ) -> None:  # fmt: skip
        """Compare; of a part of the tiles (`before` is given) what they left as it was is not looked at."""
        if before is not None:
            untouched = [_same_bits(g, np.asarray(b)) for g, b in zip(got, before, strict=True)]
            if all(u.all() for u in untouched) and not compare(got, want).agrees:
                raise self._found(op, name, Difference(float("inf")), "its tiles write nothing")
            got = [np.where(u, w, g) for u, w, g in zip(untouched, want, got, strict=True)]
            self.sample.parts += 1
        else:
            self.sample.whole += 1
        difference = compare(got, want)
        if not difference.agrees:  # the judge costs more
            difference = compare(got, want, self.kernels.exact(name, arguments))
        if not difference.agrees:
            raise self._found(op, name, difference)

    def _found(self, op: Operation, name: str, difference: Difference, message: str = "") -> _Found:
        self.sample.wrong = Wrong(name, tuple(source_names(op.location)), difference, message)
        return _Found()


class _Tiles(Machine):
    """Runs a kernel for a share of the time: of its outermost parallel loop, as many iterations as fit."""

    def __init__(self, module: ModuleOp, ctx: Any, share_s: float):
        super().__init__(module, ctx)
        begin = time.process_time()
        self.end, self.deadline = begin + share_s, begin + _PATIENCE * share_s
        self.is_part = False
        self._inside = False

    def iterations(self, points: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
        if self._inside:
            yield from points
            return
        self._inside = True
        done = 0
        for number in _from_both_ends(len(points)):
            if done and time.process_time() > self.end:
                self.is_part = True
                break
            yield points[number]
            done += 1
        self._inside = False


def _coinciding(arguments: Sequence[Any], outputs: int) -> tuple[int, ...] | None:
    """For each argument the first one of the same bytes; None if an output shares only a part of its bytes with one."""
    first: list[int] = []
    for i, a in enumerate(arguments):
        place = i
        for j, b in enumerate(arguments[:i]):
            if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray) or not a.size or not b.size:
                continue
            if _bytes_of(a) == _bytes_of(b):
                place = first[j]
                break
            if i >= len(arguments) - outputs and np.may_share_memory(a, b):
                return None
        first.append(place)
    return tuple(first)


def _bytes_of(array: np.ndarray) -> tuple[int, int]:
    return array.__array_interface__["data"][0], array.nbytes


def _copies(arguments: Sequence[Any], outputs: int) -> list[Any]:
    """Copies of the arguments; those of the same bytes stay so."""
    coincide = _coinciding(arguments, outputs) or tuple(range(len(arguments)))
    copies: list[Any] = []
    for i, argument in enumerate(arguments):
        if coincide[i] == i:
            copies.append(np.array(argument))
        else:
            same = copies[coincide[i]]
            copies.append(same.reshape(-1).view(np.uint8).view(argument.dtype).reshape(argument.shape))
    return copies


def _from_both_ends(count: int) -> Iterator[int]:
    """0, count - 1, 1, count - 2, ..."""
    for i in range((count + 1) // 2):
        yield i
        if count - 1 - i != i:
            yield count - 1 - i


def _callee(op: Operation) -> str | None:
    """The function that a call or a launch names."""
    if op.name not in ("func.call", "schedule.launch"):
        return None
    return op.properties["callee"].root_reference.data  # pyright: ignore[reportAttributeAccessIssue]


def _form(type: Attribute) -> Any:
    """Shape and element type, of a tensor and of a buffer alike."""
    return (
        (tuple(type.get_shape()), type.get_element_type())
        if isinstance(type, TensorType | MemRefType)
        else type
    )


def _store(arguments: Sequence[Any], results: Sequence[np.ndarray]) -> None:
    """Write what a kernel returns to its last arguments, as a kernel on buffers does."""
    for place, value in zip(arguments[len(arguments) - len(results) :], results, strict=True):
        place[...] = value


def _native_arguments(
    native: Native, op: Operation, type: FunctionType, buffers: int, dims: int
) -> list[Any]:
    """The arguments of a kernel of this type, as views of the memory, from its two arrays."""
    count = sum(isinstance(t, TensorType | MemRefType) for t in type.inputs)
    unknown = sum(
        sum(n < 0 for n in t.get_shape()) if isinstance(t, TensorType | MemRefType) else 1
        for t in type.inputs
    )
    pointers = iter(native.memory.at(op, buffers, 8 * count).view(np.int64) if count else ())
    extents = iter(native.memory.at(op, dims, 8 * unknown).view(np.int64) if unknown else ())
    arguments: list[Any] = []
    for entry in type.inputs:
        if not isinstance(entry, TensorType | MemRefType):
            arguments.append(np.int64(next(extents)))
            continue
        dtype = dtype_of(entry.get_element_type())
        shape = [n if n >= 0 else int(next(extents)) for n in entry.get_shape()]
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        data = native.memory.at(op, int(next(pointers)), size)
        arguments.append(data.view(dtype).reshape(shape))
    return arguments


def _same_bits(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where two arrays hold the same bytes."""
    if a.dtype.kind == "O" or not a.size:
        return np.asarray(a == b)
    first, second = (np.ascontiguousarray(x).reshape(-1).view(np.uint8).reshape(a.size, -1) for x in (a, b))
    return (first == second).all(axis=1).reshape(a.shape)
