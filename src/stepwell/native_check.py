"""Kernel by kernel: the compiled kernel on recorded inputs against its interpreter, and pass by pass where they differ."""

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
from xdsl.dialects.builtin import IntegerAttr, MemRefType, ModuleOp
from xdsl.ir import Operation

from stepwell.comparison import compare
from stepwell.compat import StepwellContext
from stepwell.diagnostics import one_line, source_names
from stepwell.errors import RunError
from stepwell.execution import main_of, through_ll
from stepwell.interpreter import Machine, run_main
from stepwell.interpreter.memref import run_tiles
from stepwell.pipelines import Stage, run_pipeline
from stepwell.predicates import FAILURES
from stepwell.resources import dtype_of

_TILES = 2
"""Tiles of a launch that are compared: the first ones, and in a second call the last ones."""


@dataclass
class WrongKernel:
    """A kernel whose code does not do what the kernel says."""

    pass_name: str
    kernel: str
    layer: str
    difference: str


@dataclass
class _Recorded:
    """One launch: which one of `@main`, and its arguments as they were."""

    number: int
    arguments: list[Any]
    tiles: int


def kernels_library(module: ModuleOp, directory: Any) -> ctypes.CDLL:
    """The kernels of a module at the llvm level as a library that shows them all."""
    from stepwell.backends.cpu.toolchain import compile_object, link
    from stepwell.backends.llvm_ir import print_llvm_ir
    from stepwell.dialects.stepwell import target_of

    only = module.clone()
    for op in list(only.body.block.ops):
        name = op.properties.get("sym_name")
        if name is not None and name.data == "stepwell_main":  # pyright: ignore
            op.detach()
            op.erase()
    stream = StringIO()
    print_llvm_ir(only, stream)
    target = target_of(module)
    link([compile_object(stream.getvalue(), target)], "", "{ global: *; };", target, directory)
    return ctypes.CDLL(str(directory / "library.so"))


def call_kernel(
    library: ctypes.CDLL,
    name: str,
    types: Sequence[Any],
    arguments: Sequence[Any],
    tiles: range,
    scratch: int,
) -> None:
    """Run the tiles of a compiled kernel on arrays, which it writes to, and index values."""
    pointers, dims, copies = [], [], []
    for type, argument in zip(types, arguments, strict=True):
        if not isinstance(type, MemRefType):
            dims.append(int(argument))
            continue
        array = np.ascontiguousarray(argument).reshape(np.shape(argument))
        copies.append((argument, array))
        pointers.append(array.ctypes.data)
        dims += [n for n, known in zip(array.shape, type.get_shape(), strict=True) if known < 0]
    buffers = (ctypes.c_void_p * max(len(pointers), 1))(*pointers)
    extents = (ctypes.c_int64 * max(len(dims), 1))(*dims)
    room = ctypes.create_string_buffer(scratch + 64)
    function = getattr(library, name)
    function.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 2 + [ctypes.c_void_p]
    function.restype = None
    function(buffers, extents, tiles.start, tiles.stop, (ctypes.addressof(room) + 63) & ~63)
    for argument, array in copies:
        if not np.shares_memory(array, argument):
            argument[...] = array


class _Launches(Machine):
    """Runs `@main` with compiled kernels, and keeps the arguments of the first launch of each kernel."""

    def __init__(self, module: ModuleOp, ctx: StepwellContext, library: ctypes.CDLL):
        super().__init__(module, ctx)
        self.library = library
        self.recorded: dict[str, _Recorded] = {}
        self.numbers = {op: i for i, op in enumerate(_launches(module))}

    def run(self, op: Operation) -> None:
        if op.name != "schedule.launch":
            super().run(op)
            return
        launch: Any = op
        name = launch.callee.root_reference.data
        arguments, tiles = self.get(launch.arguments), self.integer(launch.tiles)
        if name not in self.recorded:
            self.recorded[name] = _Recorded(self.numbers[op], [np.array(a) for a in arguments], tiles)
        scratch = _scratch(self.functions[name])
        call_kernel(self.library, name, [v.type for v in launch.arguments], arguments, range(tiles), scratch)


def _scratch(kernel: Operation) -> int:
    size = kernel.attributes.get("stepwell.scratch_bytes")
    return size.value.data if isinstance(size, IntegerAttr) else 0


def _launches(module: ModuleOp) -> Iterator[Any]:
    main = main_of(module)
    assert main is not None, "only modules above the llvm level launch kernels"
    return (op for op in main.walk() if op.name == "schedule.launch")


def _ranges(tiles: int) -> list[range]:
    if tiles <= 2 * _TILES:
        return [range(tiles)]
    return [range(_TILES), range(tiles - _TILES, tiles)]


def _interpreted(module: ModuleOp, ctx: StepwellContext, recorded: _Recorded, tiles: range) -> list[Any]:
    """The arguments of a recorded launch after the interpreter ran some of its tiles."""
    op = list(_launches(module))[recorded.number]
    machine = Machine(module, ctx)
    arguments = [np.array(a) for a in recorded.arguments]
    machine.values.update(zip(op.arguments, arguments, strict=True))
    run_tiles(machine, op, tiles)
    return arguments


def first_wrong_kernel(
    module: ModuleOp, ctx: StepwellContext, stages: Sequence[Stage], inputs: Sequence[Any]
) -> WrongKernel | None:
    """
    The first kernel of a module at the memref level that does something else when it is compiled, and the first of
    `stages`, the passes down to llvm, behind which its interpreter says so too.
    """
    from stepwell.backends.cpu.cache import temporary_directory

    steps: list[tuple[str, ModuleOp]] = []
    lowered, own = module.clone(), ctx.clone()
    own.resources = ctx.resources.copy()
    run_pipeline(own, lowered, list(stages), after=lambda stage, m: steps.append((str(stage), m.clone())))
    main: Any = main_of(module)
    given = [
        np.ascontiguousarray(x, dtype_of(a.type.element_type))
        for x, a in zip(inputs, main.regions[0].block.args, strict=True)
    ]
    with temporary_directory() as directory:
        library = kernels_library(lowered, directory)
        machine = _Launches(module, ctx, library)
        try:
            run_main(machine, given)
        except RunError:
            pass  # the model itself ends the run; what was launched is known
        for name, recorded in sorted(machine.recorded.items(), key=lambda item: item[1].number):
            op = list(_launches(module))[recorded.number]
            types = [v.type for v in op.arguments]
            for tiles in _ranges(recorded.tiles):
                want = _interpreted(module, ctx, recorded, tiles)
                got = [np.array(a) for a in recorded.arguments]
                call_kernel(library, name, types, got, tiles, _scratch(machine.functions[name]))
                difference = compare(got, want)
                if not difference.agrees:
                    layers = source_names(op.location)
                    found = WrongKernel("clang", name, layers[0] if layers else "", str(difference))
                    _name_pass(found, steps, own, recorded, tiles, want)
                    return found
    return None


def _name_pass(
    found: WrongKernel, steps: Sequence[tuple[str, ModuleOp]], ctx: StepwellContext, recorded: _Recorded,
    tiles: range, want: Sequence[Any],
) -> None:  # fmt: skip
    """Set the first pass behind which the interpreter of the kernel differs from `want`."""
    last: ModuleOp | None = None
    for name, module in steps:
        if main_of(module) is None:
            break
        last = module
        try:
            difference = compare(_interpreted(module, ctx, recorded, tiles), want)
            wrong = not difference.agrees
        except FAILURES as error:
            wrong, difference = True, one_line(error)
        if wrong:
            found.pass_name, found.difference = name, str(difference)
            return
    if last is None:
        return
    printed = through_ll(steps[-1][1], ctx)
    swapped = last.clone()
    kernels = {op.properties["sym_name"].data for op in last.body.block.ops if op.name == "llvm.func"}  # pyright: ignore
    for op in list(swapped.body.block.ops):
        if op.name == "llvm.func":
            op.detach()
            op.erase()
    for op in list(printed.body.block.ops):
        if op.properties["sym_name"].data in kernels:  # pyright: ignore
            op.detach()
            if found.kernel == op.properties["sym_name"].data:  # pyright: ignore
                _restore(op, last)
            swapped.body.block.add_op(op)
    try:
        wrong = not compare(_interpreted(swapped, ctx, recorded, tiles), want).agrees
    except FAILURES:
        wrong = True
    if wrong:
        found.pass_name = "print-llvm-ir"


def _restore(kernel: Operation, module: ModuleOp) -> None:
    """Give a kernel that was read back the attributes that its launch needs."""
    for op in module.body.block.ops:
        if op.name == "llvm.func" and op.properties["sym_name"] == kernel.properties["sym_name"]:
            kernel.attributes.update(op.attributes)
