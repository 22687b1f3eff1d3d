"""Attention, one kernel from scores to values, against ONNX Runtime: the same bits for any number of threads."""

import numpy as np
import onnx.parser
import pytest
from small_models import mlp

import stepwell
from stepwell.compiler import Compilation, Options

onnxruntime = pytest.importorskip("onnxruntime")

SHAPES = [(1, 2, 33, 48, 16), (2, 3, 1, 7, 64), (1, 1, 200, 70, 33)]
"""Batch, heads, queries, keys, width of a head: more than a block of rows, a single row, odd widths."""


def attention(batch: int, heads: int, queries: int, keys: int, width: int) -> onnx.ModelProto:
    return onnx.parser.parse_model(f"""
<ir_version: 8, opset_import: ["" : 17]>
net (float[{batch}, {queries}, {heads}, {width}] q, float[{batch}, {keys}, {heads}, {width}] k,
     float[{batch}, {keys}, {heads}, {width}] v, float[{batch}, 1, {queries}, {keys}] mask)
 => (float[{batch}, {queries}, {heads}, {width}] y)
{{ qt = Transpose <perm = [0, 2, 1, 3]> (q)
   kt = Transpose <perm = [0, 2, 3, 1]> (k)
   vt = Transpose <perm = [0, 2, 1, 3]> (v)
   s = MatMul(qt, kt)
   scale = Constant <value_float = 0.25> ()
   scaled = Mul(s, scale)
   masked = Add(scaled, mask)
   p = Softmax <axis = -1> (masked)
   o = MatMul(p, vt)
   y = Transpose <perm = [0, 2, 1, 3]> (o) }}""")


@pytest.mark.parametrize("shape", SHAPES)
def test_attention_agrees(shape, tmp_path):
    batch, heads, queries, keys, width = shape
    model = attention(*shape)
    rng = np.random.default_rng(0)
    given = {
        "q": rng.standard_normal((batch, queries, heads, width), np.float32),
        "k": rng.standard_normal((batch, keys, heads, width), np.float32),
        "v": rng.standard_normal((batch, keys, heads, width), np.float32),
        "mask": np.where(rng.random((batch, 1, queries, keys)) < 0.3, -1e9, 0).astype(np.float32),
    }
    (want,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, given)
    stepwell.compile(model).save(tmp_path / "net.so")
    one, two = (stepwell.load(tmp_path / "net.so", threads=n).run(given)["y"] for n in (1, 2))
    np.testing.assert_allclose(one, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(one, two)


def test_it_is_one_kernel_between_transposes():
    compilation = Compilation(Options())
    compilation.read(attention(*SHAPES[0]))
    module = compilation.lower_to("kernels")
    kernels = [op.sym_name.data for op in module.body.block.ops if "stepwell.kernel" in op.attributes]
    assert [name.split("_")[0] for name in kernels].count("matmul") == 1
    assert not any(name.startswith("rows") for name in kernels)


@pytest.mark.parametrize("batch", ["batch", 64])
def test_layers_with_packed_weights_stay_kernels_of_their_own(batch):
    # Rows between two products of a block of rows each could not be cut for a batch that the run knows.
    compilation = Compilation(Options())
    compilation.read(mlp(batch))
    module = compilation.lower_to("loops")
    kernels = [op for op in module.body.block.ops if "stepwell.kernel" in op.attributes]
    products = [op for op in kernels if op.sym_name.data.startswith("matmul")]
    assert len(products) == 2
    assert all("scf.forall" in {inner.name for inner in op.walk()} for op in products)
