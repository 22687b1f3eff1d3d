"""The ops of scf, tensor, vector and arith that xDSL lacks: read and printed as upstream does."""

import shutil
import subprocess
from io import StringIO

import pytest
from xdsl.context import Context
from xdsl.dialects.builtin import Builtin
from xdsl.dialects.func import Func
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.arith import ARITH
from stepwell.dialects.scf import SCF
from stepwell.dialects.schedule import SCHEDULE
from stepwell.dialects.tensor import TENSOR
from stepwell.dialects.vector import VECTOR

_TEXT = """
func.func @forall(%x: tensor<?x128xf32>, %n: index) -> tensor<?x128xf32> {
  %r = scf.forall (%i, %j) = (0, 0) to (%n, 128) step (6, 64) shared_outs(%o = %x) -> (tensor<?x128xf32>) {
    %s = tensor.extract_slice %o[%i, %j] [6, 64] [1, 1] : tensor<?x128xf32> to tensor<6x64xf32>
    scf.forall.in_parallel {
      tensor.parallel_insert_slice %s into %o[%i, %j] [6, 64] [1, 1] : tensor<6x64xf32> into tensor<?x128xf32>
    }
  }
  scf.forall (%k) in (%n) {
  }
  func.return %r : tensor<?x128xf32>
}
func.func @vectors(%a: vector<4x16xf32>, %f: vector<4xf32>, %s: f32, %c: i1, %m: vector<4xi1>,
    %t: tensor<8xf32>, %d: vector<4xf32>, %n: index) -> (vector<4xf32>, f32) {
  %0 = vector.multi_reduction <add>, %a, %f [1] : vector<4x16xf32> to vector<4xf32>
  %1 = vector.multi_reduction <maxnumf>, %a, %s [0, 1] : vector<4x16xf32> to f32
  %2 = vector.transpose %a, [1, 0] : vector<4x16xf32> to vector<16x4xf32>
  %3 = vector.shape_cast %a : vector<4x16xf32> to vector<64xf32>
  %4 = vector.step : vector<4xindex>
  %5 = vector.gather %t[%n] [%4], %m, %f : tensor<8xf32>, vector<4xindex>, vector<4xi1>, vector<4xf32> into vector<4xf32>
  %6 = arith.select %c, %0, %5 : vector<4xf32>
  %7 = arith.select %m, %6, %d : vector<4xi1>, vector<4xf32>
  %8, %9 = vector.deinterleave %a : vector<4x16xf32> -> vector<4x8xf32>
  func.return %7, %1 : vector<4xf32>, f32
}
"""


_CASTS = """
func.func @f(%a: vector<4xf32>, %i: vector<4xi8>, %n: index, %x: vector<4xindex>, %t: tensor<4xf32>)
    -> (vector<4xi1>, i1, tensor<4xi1>) {
  %0 = arith.cmpf ogt, %a, %a : vector<4xf32>
  %1 = arith.cmpi eq, %n, %n : index
  %2 = arith.cmpf une, %t, %t : tensor<4xf32>
  %3 = arith.extsi %i : vector<4xi8> to vector<4xi32>
  %4 = arith.extui %i : vector<4xi8> to vector<4xi32>
  %5 = arith.trunci %3 : vector<4xi32> to vector<4xi16>
  %6 = arith.index_cast %x : vector<4xindex> to vector<4xi64>
  %7 = arith.sitofp %3 : vector<4xi32> to vector<4xf32>
  %8 = arith.uitofp %3 : vector<4xi32> to vector<4xf32>
  %9 = arith.fptosi %a : vector<4xf32> to vector<4xi32>
  %10 = arith.fptoui %a : vector<4xf32> to vector<4xi32>
  func.return %0, %1, %2 : vector<4xi1>, i1, tensor<4xi1>
}
"""


def _parse(text: str):
    context = Context()
    for dialect in (Builtin, Func, ARITH, SCF, TENSOR, VECTOR, SCHEDULE):
        context.load_dialect(dialect)
    return Parser(context, text).parse_module()


def _print(module, generic: bool = False) -> str:
    out = StringIO()
    Printer(out, print_generic_format=generic).print_op(module)
    return out.getvalue()


@pytest.mark.parametrize("source", [_TEXT, _CASTS])
def test_text_and_generic_form_read_back_alike(source: str):
    module = _parse(source)
    module.verify()
    text = _print(module)
    assert _print(_parse(text)) == text
    assert _print(_parse(_print(module, generic=True))) == text


@pytest.mark.skipif(shutil.which("mlir-opt-22") is None, reason="mlir-opt-22 is not installed")
@pytest.mark.parametrize("source", [_TEXT, _CASTS])
@pytest.mark.parametrize("generic", [False, True])
def test_upstream_reads_the_same_program(source: str, generic: bool):
    def upstream(text: str) -> str:
        return subprocess.run(["mlir-opt-22"], input=text, capture_output=True, text=True, check=True).stdout

    assert upstream(_print(_parse(source), generic)) == upstream(source)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("%0 = vector.multi_reduction <add>, %a, %f [0] : vector<4x16xf32> to vector<4xf32>", "must be [16]"),
        ("%0 = vector.transpose %a, [1, 1] : vector<4x16xf32> to vector<16x16xf32>", "must permute"),
        ("%0 = vector.shape_cast %a : vector<4x16xf32> to vector<63xf32>", "differ in size"),
        ("%0, %1 = vector.deinterleave %a : vector<4x16xf32> -> vector<4x4xf32>", "half as long"),
        ("%0 = arith.sitofp %g : vector<4xi8> to vector<8xf32>", "the same shape"),
        ("%0 = arith.extsi %g : vector<4xi8> to vector<4xi8>", "width"),
        ("%0 = arith.index_cast %g : vector<4xi8> to vector<4xi32>", "must be of index"),
    ],
)
def test_wrong_shapes_are_named(line: str, message: str):
    module = _parse(
        f"func.func @f(%a: vector<4x16xf32>, %f: vector<4xf32>, %g: vector<4xi8>) {{ {line}\n func.return }}"
    )
    with pytest.raises(VerifyException) as error:
        module.verify()
    assert message in str(error.value)


@pytest.mark.parametrize("order", ["", ", order = [1, 0]"])
def test_tile_attribute_reads_back(order: str):
    text = f"#schedule.tile<parallel = [6, 64, 0], vector = [6, 64, 1]{order}>"
    module = _parse(f"builtin.module attributes {{s = {text}}} {{}}")
    assert text in _print(module)
    assert module.attributes["s"].loop_order == ((1, 0) if order else (0, 1))
