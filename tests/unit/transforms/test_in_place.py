"""An output over an input: what is proved of a kernel holds when the two are one memory, in any order of tiles."""

import random

import numpy as np
import pytest
from xdsl.dialects.func import FuncOp

from stepwell.compat import new_context, parse_module
from stepwell.interpreter import interpret
from stepwell.registry import DIALECTS
from stepwell.transforms.memref.in_place import may_write_over

UNTOUCHED = np.float32(-1e9)


def _module(text: str):
    ctx = new_context(DIALECTS)
    return parse_module(ctx, text), ctx


def _proved(text: str, read: int = 0, written: int = 1) -> bool:
    module, _ = _module(text)
    kernel = next(op for op in module.body.block.ops if isinstance(op, FuncOp))
    args = kernel.body.block.args
    return may_write_over(kernel, args[read], args[written])


def _kernel(
    body: str, arguments: str = "%x: memref<24x64xf32>, %y: memref<24x64xf32>", attributes: str = ""
) -> str:
    constants = "\n".join(f"%c{n} = arith.constant {n} : index" for n in (0, 1, 4, 6, 16, 18, 24, 32, 64))
    return f"""
func.func private @k({arguments}, %begin: index, %end: index) attributes {{stepwell.kernel{attributes}}} {{
  %pad = ub.poison : f32
  {constants}
  {body}
  func.return
}}"""


ROWS = """
scf.for %t = %begin to %end step %c1 {
  %zero = arith.constant dense<0.0> : vector<16xf32>
  %sum = scf.for %j = %c0 to %c64 step %c16 iter_args(%a = %zero) -> (vector<16xf32>) {
    %v = vector.transfer_read %x[ROW, %j], %pad {in_bounds = [true]} : memref<24x64xf32>, vector<16xf32>
    %s = arith.addf %a, %v : vector<16xf32>
    scf.yield %s : vector<16xf32>
  }
  %view = memref.subview %y[%t, 0] [1, 64] [1, 1] : memref<24x64xf32> to memref<1x64xf32, strided<[64, 1], offset: ?>>
  scf.for %j = %c0 to %c64 step %c16 {
    %v = vector.transfer_read %x[%t, %j], %pad {in_bounds = [true]} : memref<24x64xf32>, vector<16xf32>
    %s = arith.subf %v, %sum : vector<16xf32>
    vector.transfer_write %s, %view[%c0, %j] {in_bounds = [true]} : vector<16xf32>, memref<1x64xf32, strided<[64, 1], offset: ?>>
  }
}"""

TILES = """
scf.for %t = %begin to %end step %c1 {
  %p = arith.remui %t, %c4 : index
  %q = arith.divui %t, %c4 : index
  %i = arith.muli %p, %c6 : index
  %j = arith.muli %q, %c32 : index
  %i0 = arith.minui %i, %c18 : index
  %a = vector.transfer_read %x[ROW, %j], %pad {in_bounds = [true, true]} : memref<24x64xf32>, vector<6x32xf32>
  vector.transfer_write %a, %y[ROW, %j] {in_bounds = [true, true]} : vector<6x32xf32>, memref<24x64xf32>
}"""

MAIN_AND_REST = """
scf.for %t = %begin to %end step %c1 {
  %i = arith.muli %t, %c24 : index
  %left = arith.subi %c64, %i : index
  %n = arith.minui %left, %c24 : index
  %m = arith.remui %n, %c16 : index
  %whole = arith.subi %n, %m : index
  scf.for %u = %c0 to %whole step %c16 {
    %at = arith.addi %i, %u : index
    %a = vector.transfer_read %x[%at], %pad {in_bounds = [true]} : memref<64xf32>, vector<16xf32>
    vector.transfer_write %a, %y[%at] {in_bounds = [true]} : vector<16xf32>, memref<64xf32>
  }
  scf.for %u = REST to %n step %c1 {
    %at = arith.addi %i, %u : index
    %a = memref.load %x[%at] : memref<64xf32>
    memref.store %a, %y[%at] : memref<64xf32>
  }
}"""
FLAT = "%x: memref<64xf32>, %y: memref<64xf32>"


def test_a_row_is_read_whole_before_it_is_written():
    assert _proved(_kernel(ROWS.replace("ROW", "%t")))


def test_another_row_may_be_written_already():
    assert not _proved(_kernel(ROWS.replace("ROW", "%c0")))


def test_tiles_that_lie_apart():
    assert _proved(_kernel(TILES.replace("ROW", "%i")))


def test_tiles_that_may_overlap():
    assert not _proved(_kernel(TILES.replace("ROW", "%i0")))
    assert not _proved(_kernel(TILES.replace("ROW", "%i"), attributes=", stepwell.overlapping_tiles"))


def test_tiles_of_which_several_write_the_same_rows():
    assert not _proved(_kernel(TILES.replace("ROW", "%c0")))


def test_the_loop_over_the_rest_begins_where_whole_vectors_end():
    assert _proved(_kernel(MAIN_AND_REST.replace("REST", "%whole"), FLAT))
    assert not _proved(_kernel(MAIN_AND_REST.replace("REST", "%c0"), FLAT))


def test_a_value_that_is_stored_before_the_read():
    text = """
    scf.for %t = %begin to %end step %c1 {
      %z = arith.constant 0.0 : f32
      memref.store %z, %y[%t] : memref<64xf32>
      %a = memref.load %x[%t] : memref<64xf32>
      memref.store %a, %y[%t] : memref<64xf32>
    }"""
    assert not _proved(_kernel(text, FLAT))


def test_a_loop_that_the_place_does_not_depend_on():
    text = """
    scf.for %t = %begin to %end step %c1 {
      scf.for %k = %c0 to %c4 step %c1 {
        %a = memref.load %x[%t] : memref<64xf32>
        memref.store %a, %y[%t] : memref<64xf32>
      }
    }"""
    assert not _proved(_kernel(text, FLAT))


def test_an_output_that_is_read_and_an_input_that_leaves():
    read = """
    scf.for %t = %begin to %end step %c1 {
      %a = memref.load %x[%t] : memref<64xf32>
      %b = memref.load %y[%t] : memref<64xf32>
      memref.store %b, %y[%t] : memref<64xf32>
    }"""
    assert not _proved(_kernel(read, FLAT))
    copied = "memref.copy %x, %y : memref<64xf32> to memref<64xf32>"
    assert not _proved(_kernel(copied, FLAT))


class _Program:
    """A random kernel over a buffer of two axes: tiles, an inner loop or two, reads and writes near one another."""

    def __init__(self, seed: int):
        self.random = rng = random.Random(seed)
        self.across, self.down = rng.randint(1, 3), rng.randint(1, 3)
        self.lines: list[str] = []
        self.names = 0
        self.lanes = rng.choice([1, 2, 4])
        self.inner = rng.choice([1, 2, 4])
        step, row = rng.choice([4, 4, 4, 2, 8]), rng.choice([1, 1, 2, 0])
        self.emit("%p = arith.remui %t, ", rng.choice([self.across, self.across, self.down]))
        self.emit("%q = arith.divui %t, ", self.across)
        self.emit("%j = arith.muli %p, ", step)
        self.emit("%i = arith.muli %q, ", row)
        if rng.random() < 0.7:
            self.body("%i", "%j")
        else:
            self.two_loops()
        self.lines.append("}")

    def constant(self, value: int) -> str:
        self.names += 1
        self.lines.append(f"%n{self.names} = arith.constant {value} : index")
        return f"%n{self.names}"

    def emit(self, text: str, value: int) -> None:
        name = self.constant(value)
        self.lines.append(f"{text}{name} : index")

    def two_loops(self) -> None:
        """A loop over whole vectors, and one over the rest."""
        rng = self.random
        whole = rng.choice([2, 4])
        self.inner = whole + rng.randint(0, 2)
        low, high, bound = self.constant(0), self.constant(whole), self.constant(self.inner)
        begin = rng.choice([high, high, high, low])
        lanes = self.lanes
        for number, (lower, upper, self.lanes) in enumerate([(low, high, lanes), (begin, bound, 1)]):
            step = self.constant(self.lanes)
            self.lines.append(f"scf.for %u{number} = {lower} to {upper} step {step} {{")
            self.lines.append(f"%at{number} = arith.addi %j, %u{number} : index")
            self.body("%i", f"%at{number}")
            self.lines.append("}")

    def body(self, row: str, column: str) -> None:
        rng = self.random
        inner = rng.random() < 0.4
        if inner:
            self.names += 1
            loop, at = f"%v{self.names}", f"%w{self.names}"
            zero, bound, step = (
                self.constant(0),
                self.constant(self.inner),
                self.constant(rng.choice([self.lanes, 1])),
            )
            self.lines.append(f"scf.for {loop} = {zero} to {bound} step {step} {{")
            if rng.random() < 0.8:
                self.lines.append(f"{at} = arith.addi {column}, {loop} : index")
                column = at
        vector = f"vector<{self.lanes}xf32>"
        for _ in range(rng.choice([1, 1, 2])):
            self.names += 1
            read = f"%r{self.names}"
            place = column
            if rng.random() < 0.15:
                self.emit(f"%s{self.names} = arith.addi {column}, ", 0)
                place = self.lines[-1].split()[0]
            elif rng.random() < 0.1:
                place = self.constant(rng.randint(0, 5))
            self.lines.append(
                f"{read} = vector.transfer_read %x[{row}, {place}], %pad {{in_bounds = [true]}} : memref<8x64xf32>, {vector}"
            )
            self.names += 1
            one, value = f"%o{self.names}", f"%y{self.names}"
            self.lines.append(f"{one} = arith.constant dense<1.0> : {vector}")
            self.lines.append(f"{value} = arith.addf {read}, {one} : {vector}")
            self.lines.append(
                f"vector.transfer_write {value}, %y[{row}, {column}] {{in_bounds = [true]}} : {vector}, memref<8x64xf32>"
            )
        if inner:
            self.lines.append("}")

    def text(self, order: list[int]) -> str:
        body = "\n".join(self.lines)
        calls = "\n".join(
            f"%b{n} = arith.constant {tile} : index\n%e{n} = arith.constant {tile + 1} : index\n"
            f"func.call @k(%o1, %o2, %b{n}, %e{n}) : (memref<8x64xf32>, memref<8x64xf32>, index, index) -> ()"
            for n, tile in enumerate(order)
        )
        mains = "".join(
            f"""
func.func @{name}(%x: memref<8x64xf32>, %y: memref<8x64xf32>) -> memref<8x64xf32> {{
  %a = memref.alloc() : memref<8x64xf32>
  %b = memref.alloc() : memref<8x64xf32>
  memref.copy %x, %a : memref<8x64xf32> to memref<8x64xf32>
  memref.copy %y, %b : memref<8x64xf32> to memref<8x64xf32>
  {calls.replace("%o1", "%a").replace("%o2", result)}
  func.return {result} : memref<8x64xf32>
}}"""
            for name, result in (("apart", "%b"), ("shared", "%a"))
        )
        return f"""
func.func private @k(%x: memref<8x64xf32>, %y: memref<8x64xf32>, %begin: index, %end: index) attributes {{stepwell.kernel}} {{
  %pad = arith.constant 0.0 : f32
  %by = arith.constant 1 : index
  scf.for %t = %begin to %end step %by {{
  {body}
  func.return
}}{mains}"""


@pytest.mark.parametrize("first", range(0, 100, 50))
def test_what_is_proved_holds_for_random_kernels(first):
    proved = refuted = 0
    for seed in range(first, first + 50):
        program = _Program(seed)
        order = list(range(program.across * program.down))
        random.Random(seed).shuffle(order)
        text = program.text(order)
        x = np.arange(8 * 64, dtype=np.float32).reshape(8, 64) % 89
        y = np.full((8, 64), UNTOUCHED)
        module, ctx = _module(text)
        (apart,) = interpret(module, [x, y], ctx, function="apart")
        (shared,) = interpret(module, [x, y], ctx, function="shared")
        written = apart != UNTOUCHED
        same = np.array_equal(apart[written], shared[written])
        if _proved(text):
            assert same, f"seed {seed}\n{text}"
            proved += 1
        refuted += not same
    assert proved > 3 and refuted > 3, (proved, refuted)
