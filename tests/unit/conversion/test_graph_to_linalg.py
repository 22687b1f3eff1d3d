"""`graph-to-linalg` operator by operator: a model of one node, lowered and interpreted, against ONNX Runtime."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from stepwell.compat import new_context, parse_module, print_module
from stepwell.conversion.graph_to_linalg import GraphToLinalgPass
from stepwell.frontends.onnx import import_onnx
from stepwell.interpreter import interpret
from stepwell.registry import DIALECTS
from stepwell.verification import verify_module

_RANDOM = np.random.default_rng(7)
_ALLOWED = {
    "cf": {"assert"},
    "linalg": {"generic", "fill", "index", "yield"},
    "tensor": {
        "empty", "dim", "extract", "insert", "extract_slice", "insert_slice", "pad", "expand_shape",
        "collapse_shape", "cast", "from_elements", "yield",
    },
    "scf": {"if", "for", "while", "condition", "yield"},
}  # fmt: skip


def floats(*shape: int, low: float = -2.0, high: float = 2.0) -> np.ndarray:
    return _RANDOM.uniform(low, high, shape).astype(np.float32)


def ints(*shape: int, low: int = -5, high: int = 6, dtype: Any = np.int64) -> np.ndarray:
    return _RANDOM.integers(low, high, shape).astype(dtype)


def model_of(
    op: str, inputs: Sequence[Any], constants: Sequence[int] = (), *, outputs: int = 1, opset: int = 22,
    dynamic: bool = False, domain: str = "", **attributes: Any,
) -> onnx.ModelProto:  # fmt: skip
    """A model of one node; inputs at the positions in `constants` are initializers, None is absent."""
    names = [f"i{k}" if x is not None else "" for k, x in enumerate(inputs)]
    graph_inputs, initializers = [], []
    for k, x in enumerate(inputs):
        if x is None:
            continue
        if k in constants:
            initializers.append(numpy_helper.from_array(x, names[k]))
        else:
            shape = [f"n{k}_{a}_{e}" if dynamic and x.ndim else e for a, e in enumerate(x.shape)]
            graph_inputs.append(
                helper.make_tensor_value_info(names[k], helper.np_dtype_to_tensor_dtype(x.dtype), shape)
            )
    node = helper.make_node(
        op, names, [f"o{k}" for k in range(outputs)], name="the_node", domain=domain, **attributes
    )
    graph = helper.make_graph(
        [node], "g", graph_inputs,
        [helper.make_tensor_value_info(f"o{k}", TensorProto.UNDEFINED, None) for k in range(outputs)],
        initializers,
    )  # fmt: skip
    for output in graph.output:
        output.ClearField("type")
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def run_both(
    model: onnx.ModelProto, inputs: Sequence[np.ndarray]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What the interpreter makes of the lowered model, and what ONNX Runtime makes of the model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    want = session.run(None, {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)})
    ctx = new_context(DIALECTS)
    module = import_onnx(model, ctx)
    GraphToLinalgPass().apply(ctx, module)
    verify_module(module)
    for inner in module.walk():
        dialect, _, name = inner.name.partition(".")
        assert dialect in ("builtin", "func", "arith", "math") or name in _ALLOWED.get(dialect, ()), (
            inner.name
        )
    text = print_module(module)
    assert "graph.shape" not in text and "ui8" not in text.replace("minui", "")
    assert print_module(parse_module(ctx, text)) == text
    return interpret(module, inputs, ctx), want


def check(
    op: str,
    inputs: Sequence[Any],
    constants: Sequence[int] = (),
    rtol: float = 2e-5,
    atol: float = 2e-6,
    **kw: Any,
):
    model = model_of(op, inputs, constants, **kw)
    given = [x for k, x in enumerate(inputs) if x is not None and k not in constants]
    got, want = run_both(model, given)
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape, f"shape {g.shape}, ONNX Runtime has {w.shape}"
        assert g.dtype.itemsize == w.dtype.itemsize
        if w.dtype.kind == "u":
            g = g.view(w.dtype)
        if w.dtype.kind in "iub":
            np.testing.assert_array_equal(g, w)
        else:
            np.testing.assert_allclose(g.astype(np.float64), w.astype(np.float64), rtol=rtol, atol=atol)


I64 = np.int64
X = floats(2, 3, 4)
IMAGE = floats(1, 4, 9, 8)


def vec(*values: int) -> np.ndarray:
    return np.array(values, I64)


UNARY = (
    "Abs Acos Asin Atan Asinh Atanh Ceil Cos Cosh Elu Celu Erf Exp Floor Gelu HardSigmoid HardSwish LeakyRelu Mish"
    " Neg Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Tan Tanh ThresholdedRelu IsNaN"
    " IsInf Identity"
).split()


@pytest.mark.parametrize("op", UNARY)
def test_unary(op: str):
    x = floats(3, 5, low=-0.9, high=0.9)
    x[0, 0] = 0.0
    check(op, [x], opset=20)


@pytest.mark.parametrize("op", ["Sqrt", "Log", "Acosh"])
def test_unary_of_positive(op: str):
    check(op, [floats(3, 5, low=1.1, high=4)])


BINARY = "Add Sub Mul Div Equal Greater GreaterOrEqual Less LessOrEqual Pow Max Min Sum Mean PRelu".split()


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize("dynamic", [False, True])
def test_binary_broadcasts(op: str, dynamic: bool):
    a, b = floats(2, 3, 4, low=0.1), floats(3, 1)
    if op == "Pow":
        a = np.abs(a)
    check(op, [a, b], dynamic=dynamic)


@pytest.mark.parametrize(
    "op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Mod", "Less", "BitwiseAnd", "BitwiseXor"]
)
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_integers(op: str, dtype: Any):
    a, b = ints(3, 4, low=0, high=100, dtype=dtype), ints(3, 4, low=1, high=9, dtype=dtype)
    if dtype != np.uint8:
        a, b = a - 50, b * np.where(ints(3, 4) > 0, 1, -1).astype(dtype)
    if op in ("Max", "Min", "Div") or dtype != np.uint8 or op == "Mod" or op.startswith("Bit"):
        check(op, [a, b])


CASES: list[tuple[str, list[Any], list[int], dict[str, Any]]] = [
    ("Pow", [floats(4), np.array(2.0, np.float32)], [1], {}),
    ("Pow", [ints(5, low=1), ints(5, low=0, high=4)], [], {}),
    ("Pow", [np.abs(floats(5)), ints(5)], [], {}),
    ("Mod", [floats(6), floats(6)], [], {"fmod": 1}),
    ("Mod", [ints(6), ints(6, low=1)], [], {"fmod": 1}),
    ("Where", [X > 0, X, floats(3, 1)], [], {}),
    ("And", [X > 0, X[0] > 0.5], [], {}),
    ("Or", [X > 0, X[0] > 0.5], [], {}),
    ("Xor", [X > 0, X[0] > 0.5], [], {}),
    ("Not", [X > 0], [], {}),
    ("BitShift", [ints(5, low=0, high=99, dtype=np.uint8), ints(5, low=0, high=8, dtype=np.uint8)], [], {"direction": "RIGHT"}),
    ("Clip", [X, np.array(-0.5, np.float32), np.array(0.7, np.float32)], [1, 2], {}),
    ("Clip", [X, None, np.array(0.7, np.float32)], [], {}),
    ("Gelu", [X], [], {"opset": 20, "approximate": "tanh"}),
    ("Cast", [X * 3], [], {"to": TensorProto.INT32}),
    ("Cast", [X * 3], [], {"to": TensorProto.BOOL}),
    ("Cast", [ints(5)], [], {"to": TensorProto.FLOAT}),
    ("Cast", [np.abs(X) * 50], [], {"to": TensorProto.UINT8}),
    ("Cast", [ints(5, low=0, high=255, dtype=np.uint8)], [], {"to": TensorProto.INT64}),
    ("Cast", [ints(5, low=0, high=255, dtype=np.uint8)], [], {"to": TensorProto.FLOAT}),
    ("Cast", [X], [], {"to": TensorProto.FLOAT16}),
    ("Cast", [X > 0], [], {"to": TensorProto.INT64}),
    ("Add", [X.astype(np.float16), X[0].astype(np.float16)], [], {}),
    # matrix products
    ("MatMul", [floats(5, 7), floats(7, 3)], [], {}),
    ("MatMul", [floats(2, 5, 7), floats(7, 3)], [1], {}),
    ("MatMul", [floats(2, 1, 5, 7), floats(3, 7, 4)], [], {}),
    ("MatMul", [floats(2, 5, 7), floats(2, 7, 4)], [], {"dynamic": True}),
    ("MatMul", [floats(7), floats(2, 7, 3)], [], {}),
    ("MatMul", [floats(2, 3, 7), floats(7)], [], {}),
    ("MatMul", [floats(7), floats(7)], [], {}),
    ("Gemm", [floats(5, 7), floats(7, 3), floats(3)], [1, 2], {}),
    ("Gemm", [floats(7, 5), floats(3, 7), floats(5, 1)], [1], {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [floats(5, 7), floats(7, 3)], [], {"alpha": 0.25}),
    ("MatMulInteger", [ints(3, 4, low=0, high=255, dtype=np.uint8), ints(4, 5, dtype=np.int8), np.array(7, np.uint8)], [], {}),
    ("Einsum", [floats(2, 3, 4), floats(2, 4, 5)], [], {"equation": "bij,bjk->bik"}),
    ("Einsum", [floats(3, 4), floats(4, 5), floats(5)], [], {"equation": "ij,jk,k->i"}),
    ("Einsum", [floats(2, 3, 4), floats(2, 5, 4)], [], {"equation": "...ik,...jk->...ij"}),
    ("Einsum", [floats(3, 4)], [], {"equation": "ij->ji"}),
    ("Einsum", [floats(3, 4)], [], {"equation": "ij->j"}),
    # convolutions
    ("Conv", [IMAGE, floats(6, 4, 3, 3), floats(6)], [1, 2], {"pads": [1, 1, 1, 1]}),
    ("Conv", [IMAGE, floats(6, 4, 3, 2)], [1], {"strides": [2, 3], "pads": [1, 0, 2, 1], "dilations": [2, 1]}),
    ("Conv", [IMAGE, floats(6, 4, 1, 1), floats(6)], [], {}),
    ("Conv", [IMAGE, floats(4, 1, 3, 3), floats(4)], [1, 2], {"group": 4, "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("Conv", [IMAGE, floats(8, 1, 3, 3)], [1], {"group": 4}),
    ("Conv", [IMAGE, floats(6, 2, 3, 3), floats(6)], [1, 2], {"group": 2, "pads": [1, 1, 1, 1]}),
    ("Conv", [IMAGE, floats(6, 4, 3, 3)], [1], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", [IMAGE, floats(6, 4, 3, 3)], [1], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("Conv", [floats(2, 3, 11), floats(5, 3, 4)], [1], {"pads": [2, 1]}),
    ("Conv", [floats(1, 2, 5, 6, 7), floats(3, 2, 2, 3, 2)], [1], {"strides": [1, 2, 2]}),
    ("Conv", [IMAGE, floats(6, 4, 3, 3), floats(6)], [1, 2], {"pads": [1, 1, 1, 1], "strides": [2, 2], "dynamic": True}),
    ("ConvTranspose", [IMAGE, floats(4, 3, 3, 3), floats(3)], [1, 2], {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
    ("ConvTranspose", [IMAGE, floats(4, 3, 2, 2)], [1], {"strides": [2, 2]}),
    ("ConvTranspose", [IMAGE, floats(4, 3, 3, 3)], [1], {"group": 2, "dilations": [2, 1]}),
    ("ConvTranspose", [IMAGE, floats(4, 3, 3, 3)], [], {"group": 2, "pads": [3, 0, 1, 2]}),
    ("ConvTranspose", [IMAGE, floats(4, 3, 3, 3)], [1], {"strides": [3, 2], "output_shape": [28, 17]}),
    ("ConvInteger", [ints(1, 2, 5, 5, low=0, high=255, dtype=np.uint8), ints(3, 2, 3, 3, low=0, high=255, dtype=np.uint8), np.array(9, np.uint8), np.array(5, np.uint8)], [1], {"pads": [1, 1, 1, 1]}),
    # pooling
    ("MaxPool", [IMAGE], [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("MaxPool", [IMAGE], [], {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", [IMAGE], [], {"kernel_shape": [2, 2], "dilations": [2, 3]}),
    ("MaxPool", [floats(1, 2, 9)], [], {"kernel_shape": [3], "auto_pad": "SAME_UPPER", "strides": [2]}),
    ("MaxPool", [ints(1, 2, 6, 6, low=0, high=255, dtype=np.uint8)], [], {"kernel_shape": [2, 2]}),
    ("AveragePool", [IMAGE], [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [IMAGE], [], {"kernel_shape": [3, 3], "pads": [1, 0, 1, 2], "count_include_pad": 1}),
    ("AveragePool", [IMAGE], [], {"kernel_shape": [2, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", [IMAGE], [], {"kernel_shape": [99, 99], "strides": [99, 99], "ceil_mode": 1, "count_include_pad": 1}),
    ("AveragePool", [IMAGE], [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "dynamic": True}),
    ("AveragePool", [IMAGE], [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("LpPool", [IMAGE], [], {"kernel_shape": [2, 2], "p": 2}),
    ("LpPool", [IMAGE], [], {"kernel_shape": [2, 2], "p": 3}),
    ("GlobalAveragePool", [IMAGE], [], {}),
    ("GlobalMaxPool", [IMAGE], [], {}),
    # reductions
    *[
        (f"Reduce{kind}", [np.abs(X) + 0.5, vec(1)], [1], {"keepdims": 1})
        for kind in "Sum Mean Max Min Prod L1 L2 LogSum LogSumExp SumSquare".split()
    ],
    ("ReduceSum", [X, vec(-1, 0)], [1], {"keepdims": 0}),
    ("ReduceSum", [X], [], {"keepdims": 0}),
    ("ReduceMean", [X, vec(2)], [1], {"dynamic": True}),
    ("ReduceSum", [X], [], {"noop_with_empty_axes": 1}),
    ("ReduceMax", [ints(3, 4, dtype=np.int32), vec(1)], [1], {}),
    ("ReduceMean", [ints(3, 4, dtype=np.int32), vec(1)], [1], {}),
    ("ReduceMax", [ints(3, 4, low=0, high=200, dtype=np.uint8), vec(1)], [1], {}),
    ("ArgMax", [X], [], {"axis": 1}),
    ("ArgMax", [ints(4, 6, low=0, high=3, dtype=np.int32)], [], {"axis": 1, "keepdims": 0, "select_last_index": 1}),
    ("ArgMin", [X], [], {"axis": -1, "keepdims": 0}),
    ("Softmax", [X], [], {"axis": 1}),
    ("Softmax", [X], [], {"axis": -1, "dynamic": True}),
    ("LogSoftmax", [X], [], {"axis": -1}),
    ("Hardmax", [X], [], {"axis": -1}),
    ("CumSum", [X, np.array(1, I64)], [1], {}),
    ("CumSum", [X, np.array(-1, I64)], [1], {"exclusive": 1, "reverse": 1}),
    # normalisations
    ("LayerNormalization", [X, floats(4), floats(4)], [1, 2], {"axis": -1}),
    ("LayerNormalization", [X, floats(3, 4)], [1], {"axis": 1, "outputs": 3}),
    ("BatchNormalization", [IMAGE, floats(4), floats(4), floats(4), np.abs(floats(4))], [1, 2, 3, 4], {}),
    ("BatchNormalization", [IMAGE, floats(4), floats(4), floats(4), np.abs(floats(4))], [], {}),
    ("InstanceNormalization", [IMAGE, floats(4), floats(4)], [1, 2], {}),
    ("GroupNormalization", [IMAGE, floats(4), floats(4)], [1, 2], {"num_groups": 2, "opset": 21}),
    ("LRN", [IMAGE], [], {"size": 3}),
    ("LpNormalization", [X], [], {"axis": 1, "p": 2}),
    ("MeanVarianceNormalization", [IMAGE], [], {}),
    # data movement
    ("Transpose", [X], [], {"perm": [2, 0, 1]}),
    ("Transpose", [X], [], {"dynamic": True}),
    ("Reshape", [X, vec(4, -1)], [1], {}),
    ("Reshape", [X, vec(0, 2, -1)], [1], {}),
    ("Reshape", [X, vec(-1)], [1], {"dynamic": True}),
    ("Reshape", [floats(2, 12), vec(0, 3, 4)], [1], {"dynamic": True}),
    ("Reshape", [floats(2, 12), vec(2, -1, 4)], [], {}),
    ("Reshape", [floats(1), vec()], [1], {}),
    ("Flatten", [floats(2, 3, 4, 5)], [], {"axis": 2}),
    ("Flatten", [X], [], {"axis": 1, "dynamic": True}),
    ("Squeeze", [floats(1, 3, 1), vec(0, 2)], [1], {}),
    ("Unsqueeze", [X, vec(0, -1)], [1], {}),
    ("Unsqueeze", [X, vec(1)], [1], {"dynamic": True}),
    ("Concat", [X, floats(2, 1, 4), floats(2, 2, 4)], [], {"axis": 1}),
    ("Concat", [X, floats(2, 3, 2)], [], {"axis": -1, "dynamic": True}),
    ("Split", [floats(2, 6)], [], {"axis": 1, "outputs": 3, "num_outputs": 3}),
    ("Split", [floats(7, 2), vec(3, 4)], [1], {"outputs": 2}),
    ("Slice", [X, vec(0, 1), vec(2, 4), vec(0, 2), vec(1, 2)], [1, 2, 3, 4], {}),
    ("Slice", [X, vec(-1), vec(-10), vec(2), vec(-1)], [1, 2, 3, 4], {}),
    ("Slice", [X, vec(-3), vec(2**31), vec(2)], [1, 2, 3], {"dynamic": True}),
    ("Slice", [X, vec(1, 1), vec(3, 3)], [], {}),
    ("Expand", [floats(3, 1), vec(2, 1, 4)], [1], {}),
    ("Expand", [floats(3, 1), vec(2, 3, 4)], [], {}),
    ("Tile", [floats(2, 3), vec(2, 3)], [1], {}),
    ("Tile", [floats(2, 3), vec(1, 2)], [], {}),
    ("Pad", [X, vec(0, 1, 2, 1, 0, 0)], [1], {}),
    ("Pad", [X, vec(0, -1, 2, 1, 0, 0), np.array(3.0, np.float32)], [1], {}),
    ("Pad", [X, vec(0, 1, 2, 1, 1, 3)], [1], {"mode": "reflect"}),
    ("Pad", [X, vec(0, 1, 2, 1, 1, 5)], [1], {"mode": "edge"}),
    ("Pad", [X, vec(0, 1, 2, 1, 1, 3)], [1], {"mode": "wrap"}),
    ("DepthToSpace", [floats(1, 8, 2, 3)], [], {"blocksize": 2}),
    ("DepthToSpace", [floats(1, 8, 2, 3)], [], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", [floats(1, 2, 4, 6)], [], {"blocksize": 2}),
    ("Shape", [X], [], {"dynamic": True}),
    ("Size", [X], [], {"dynamic": True}),
    ("ConstantOfShape", [vec(2, 3)], [0], {}),
    ("ConstantOfShape", [vec(2, 3)], [], {"value": numpy_helper.from_array(np.array([7], np.int32))}),
    ("Range", [np.array(1, I64), np.array(10, I64), np.array(3, I64)], [], {}),
    ("Range", [np.array(1, np.float32), np.array(2, np.float32), np.array(0.3, np.float32)], [0, 1, 2], {}),
    ("Trilu", [X], [], {"upper": 0}),
    ("Trilu", [X, np.array(1, I64)], [1], {"upper": 1}),
    ("EyeLike", [floats(3, 4)], [], {"k": 1}),
    ("ReverseSequence", [floats(4, 3, 2), vec(2, 4, 1)], [], {"time_axis": 0, "batch_axis": 1}),
    # indexing
    ("Gather", [X, ints(2, 3, low=-3, high=3)], [], {"axis": 1}),
    ("Gather", [floats(9, 4), ints(2, 3, low=0, high=9)], [0], {}),
    ("Gather", [X, np.array(-1, I64)], [1], {"axis": 1}),
    ("Gather", [floats(9, 4), ints(2, 3, low=0, high=9)], [0], {"dynamic": True}),
    ("GatherElements", [X, ints(2, 3, 2, low=-4, high=4)], [], {"axis": 2}),
    ("GatherND", [X, ints(5, 2, low=0, high=2)], [], {}),
    ("GatherND", [X, ints(2, 5, 1, low=0, high=3)], [], {"batch_dims": 1}),
    ("ScatterElements", [X, ints(2, 2, 4, low=-3, high=3), floats(2, 2, 4)], [], {"axis": 1, "reduction": "add"}),
    ("ScatterElements", [X, np.tile(vec(2, 0).reshape(1, 2, 1), (2, 1, 4)), floats(2, 2, 4)], [], {"axis": 1}),
    ("ScatterND", [X, vec(0, 2, 1, 1).reshape(2, 2), floats(2, 4)], [], {}),
    ("ScatterND", [X, vec(0, 2, 0, 2).reshape(2, 2), floats(2, 4)], [], {"reduction": "max"}),
    ("OneHot", [ints(2, 3, low=-4, high=4), np.array(4, I64), np.array([-1, 5], np.float32)], [1, 2], {"axis": 1}),
    ("TopK", [floats(3, 7), vec(3)], [1], {"outputs": 2}),
    ("TopK", [ints(3, 7, low=0, high=3, dtype=np.int32), vec(5)], [1], {"outputs": 2, "axis": 0 + 1, "largest": 0}),
    ("NonMaxSuppression", [np.abs(floats(1, 12, 4)), floats(1, 2, 12, low=0), vec(4), np.array(0.3, np.float32), np.array(0.2, np.float32)], [2, 3, 4], {}),
    ("NonMaxSuppression", [np.abs(floats(2, 12, 4)), floats(2, 1, 12, low=0), vec(12), np.array(0.1, np.float32)], [], {"center_point_box": 1}),
    ("NonZero", [ints(3, 4, low=0, high=2)], [], {}),
    ("Compress", [X, np.array([True, False, True])], [], {"axis": 1}),
    # resampling
    ("Resize", [IMAGE, None, np.array([1, 1, 2, 2], np.float32)], [2], {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}),
    ("Resize", [IMAGE, None, np.array([1, 1, 2, 1.5], np.float32)], [2], {"mode": "linear"}),
    ("Resize", [IMAGE, None, None, vec(1, 4, 5, 17)], [3], {"mode": "linear", "coordinate_transformation_mode": "align_corners"}),
    ("Resize", [IMAGE, None, None, vec(1, 4, 5, 17)], [3], {"mode": "cubic"}),
    ("Resize", [IMAGE, None, None, vec(1, 4, 13, 17)], [3], {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5}),
    ("Resize", [IMAGE, None, np.array([1, 1, 0.6, 0.8], np.float32)], [2], {"mode": "nearest"}),
    ("Resize", [IMAGE, None, np.array([1, 1, 0.6, 2.6], np.float32)], [2], {"mode": "nearest", "nearest_mode": "ceil", "coordinate_transformation_mode": "pytorch_half_pixel"}),
    ("Resize", [IMAGE, None, None, vec(1, 4, 18, 16)], [], {"mode": "linear"}),
    ("Resize", [IMAGE, None, np.array([1, 1, 2, 2], np.float32)], [2], {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", "dynamic": True}),
    # quantisation
    ("QuantizeLinear", [X, np.array(0.02, np.float32), np.array(100, np.uint8)], [1, 2], {}),
    ("QuantizeLinear", [X, np.array([0.02, 0.01, 0.05], np.float32), np.array([1, -2, 3], np.int8)], [1, 2], {"axis": 1}),
    ("DequantizeLinear", [ints(2, 3, 4, low=0, high=255, dtype=np.uint8), np.array(0.02, np.float32), np.array(100, np.uint8)], [1, 2], {}),
    ("DequantizeLinear", [ints(2, 3, dtype=np.int8), np.array([0.02, 0.1, 0.3], np.float32)], [1], {"axis": 1}),
    ("Gather", [floats(5), np.array(2, I64)], [], {}),
    ("BitShift", [ints(5, low=0, high=99, dtype=np.uint32), ints(5, low=28, high=40, dtype=np.uint32)], [], {"direction": "LEFT"}),
    ("QLinearConv", [ints(1, 2, 5, 5, low=0, high=255, dtype=np.uint8), np.array(0.02, np.float32), np.array(110, np.uint8), ints(3, 2, 3, 3, low=-100, high=100, dtype=np.int8), np.array([0.01, 0.02, 0.005], np.float32), np.zeros(3, np.int8), np.array(0.05, np.float32), np.array(120, np.uint8), ints(3, low=-900, high=900, dtype=np.int32)], [1, 2, 3, 4, 5, 6, 7, 8], {"pads": [1, 1, 1, 1]}),
    ("QLinearMatMul", [ints(3, 4, low=0, high=255, dtype=np.uint8), np.array(0.02, np.float32), np.array(110, np.uint8), ints(4, 5, low=0, high=255, dtype=np.uint8), np.array(0.01, np.float32), np.array(100, np.uint8), np.array(0.05, np.float32), np.array(120, np.uint8)], [1, 2, 4, 5, 6, 7], {}),
    ("DynamicQuantizeLinear", [X], [], {"outputs": 3}),
    # recurrent
    ("LSTM", [floats(5, 2, 3), floats(1, 16, 3), floats(1, 16, 4), floats(1, 32)], [1, 2, 3], {"hidden_size": 4, "outputs": 3}),
    ("LSTM", [floats(5, 2, 3), floats(2, 16, 3), floats(2, 16, 4), floats(2, 32), np.array([5, 3], np.int32), floats(2, 2, 4), floats(2, 2, 4)], [1, 2, 3], {"hidden_size": 4, "direction": "bidirectional", "outputs": 3}),
    ("LSTM", [floats(5, 2, 3), floats(1, 16, 3), floats(1, 16, 4)], [1, 2], {"hidden_size": 4, "direction": "reverse"}),
    ("GRU", [floats(5, 2, 3), floats(1, 12, 3), floats(1, 12, 4), floats(1, 24)], [1, 2, 3], {"hidden_size": 4, "outputs": 2}),
    ("GRU", [floats(5, 2, 3), floats(2, 12, 3), floats(2, 12, 4), floats(2, 24)], [1, 2, 3], {"hidden_size": 4, "linear_before_reset": 1, "direction": "bidirectional", "outputs": 2}),
    ("RNN", [floats(5, 2, 3), floats(1, 4, 3), floats(1, 4, 4), floats(1, 8)], [1, 2, 3], {"hidden_size": 4, "outputs": 2}),
]  # fmt: skip


def _name(case: tuple[str, list[Any], list[int], dict[str, Any]]) -> str:
    op, inputs, _, options = case
    return f"{op}-{'-'.join('x'.join(map(str, np.shape(x))) for x in inputs)}-{'-'.join(options)}"


@pytest.mark.parametrize("case", CASES, ids=_name)
def test_against_onnxruntime(case: tuple[str, list[Any], list[int], dict[str, Any]]):
    op, inputs, constants, options = case
    tolerance = (
        {"rtol": 2e-3, "atol": 1e-3} if any(x is not None and x.dtype == np.float16 for x in inputs) else {}
    )
    check(op, inputs, constants, **tolerance, **options)


def test_lrn_of_doubles_sums_doubles():
    ctx = new_context(DIALECTS)
    module = import_onnx(model_of("LRN", [IMAGE.astype(np.float64)], [], size=3), ctx)
    GraphToLinalgPass().apply(ctx, module)
    assert "f32" not in print_module(module)
