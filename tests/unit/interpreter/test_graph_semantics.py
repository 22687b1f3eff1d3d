"""
What graph ops compute, against the node tests of the onnx package, with fixed and with symbolic extents.
"""

import warnings

import numpy as np
import pytest
from xdsl.dialects.builtin import TensorType

from stepwell.compat import new_context
from stepwell.diagnostics import UnsupportedOperation
from stepwell.dialects.graph import ONNX_NAMES
from stepwell.dialects.graph.shape import dims_of, evaluate_dim, symbols_of
from stepwell.errors import RunError, UnsupportedError
from stepwell.frontends.onnx import building, import_onnx
from stepwell.interpreter.graph import interpret
from stepwell.registry import DIALECTS

# Operators that the interpreter does not compute, other domains, and inputs of unknown rank.
MISSING = (
    "adagrad", "adam", "ai_onnx_ml", "decode_jpeg", "decode_tiff", "decode_webp", "momentum", "nesterov",
)  # fmt: skip
TOLERANCE = {"bfloat16": 2**-6, "float16": 2e-3}


@pytest.fixture(scope="module")
def cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        # Bernoulli's tests expect the numbers of one generator, drawn without the operator's seed.
        names = ("_expanded", "bernoulli")
        return [c for c in collect_testcases(None) if not any(word in c.name for word in names)]


@pytest.fixture(autouse=True)
def every_operator_whole(monkeypatch):
    """Some operators are usually imported as their bodies; here each op is to show what it computes itself."""
    monkeypatch.setattr(building, "_IMPORTED_WHOLE", ONNX_NAMES)


def as_value(tensor):
    from onnx import TensorProto, numpy_helper

    return numpy_helper.to_array(tensor) if isinstance(tensor, TensorProto) else tensor


def check(got, want):
    if isinstance(want, list):
        assert isinstance(got, list) and len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            check(g, w)
        return
    if want is None:
        assert got is None
        return
    want = np.asarray(want)
    assert got.shape == want.shape
    if want.dtype.kind in "USO":
        assert got.astype(object).tolist() == want.astype(object).tolist()
        return
    assert got.dtype == want.dtype
    tolerance = TOLERANCE.get(want.dtype.name, 1e-3)
    if want.dtype.kind not in "biufc":
        got, want = got.astype(np.float32), want.astype(np.float32)
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=1e-6)


def run(case, model):
    context = new_context(DIALECTS)
    module = import_onnx(model, context)
    module.verify()
    (main,) = module.body.block.ops
    for inputs, outputs in case.data_sets:
        given = [as_value(x) for x in inputs]
        wanted = [as_value(x) for x in outputs]
        for got, want in zip(interpret(module, given, resources=context.resources), wanted, strict=True):
            check(got, want)
        yield main, given, wanted


def test_every_node_test_of_onnx_gives_its_values(cases):
    failures, passed = [], 0
    for case in cases:
        try:
            for _ in run(case, case.model):
                pass
            passed += 1
        except (UnsupportedError, UnsupportedOperation, RunError):
            if not any(word in case.name for word in MISSING):
                failures.append(f"{case.name}: unsupported")
        except Exception as error:
            failures.append(f"{case.name}: {type(error).__name__}: {str(error)[:200]}")
    assert not failures, "\n".join(failures)
    assert passed >= 1365


def symbolic(model):
    """
    The model with every extent of its tensor inputs a symbol of its own, and no shape said of its outputs.
    """
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for i, value in enumerate(copy.graph.input):
        kind = value.type.tensor_type.elem_type
        indices = kind in (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
        rank = len(value.type.tensor_type.shape.dim)
        if value.type.HasField("tensor_type") and (not indices or (i == 0 and rank > 1)):
            for axis, dim in enumerate(value.type.tensor_type.shape.dim):
                dim.dim_param = f"d{i}_{axis}"
    for value in copy.graph.output:
        if value.type.HasField("tensor_type"):
            for dim in value.type.tensor_type.shape.dim:
                dim.Clear()
    return copy


def test_inferred_extents_hold_for_symbolic_inputs(cases):
    failures, exact, fresh = [], 0, 0
    for case in cases:
        try:
            for main, given, wanted in run(case, symbolic(case.model)):
                known = {}
                for argument, value in zip(main.body.block.args, given, strict=True):
                    if isinstance(value, np.ndarray) and isinstance(argument.type, TensorType):
                        for dim, extent in zip(dims_of(argument.type), value.shape, strict=True):
                            if not isinstance(dim, int) and dim.symbol_name:
                                known[dim.symbol_name] = extent
                for type_, want in zip(main.function_type.outputs.data, wanted, strict=True):
                    if not isinstance(want, np.ndarray) or not isinstance(type_, TensorType):
                        continue
                    for dim, extent in zip(dims_of(type_), want.shape, strict=True):
                        if symbols_of(dim) <= known.keys():
                            exact += 1
                            assert evaluate_dim(dim, known) == extent, (str(dim), known, want.shape)
                        else:
                            fresh += 1
        except (UnsupportedError, UnsupportedOperation, RunError):
            # Some ranks and geometries follow from extents; that is said, not guessed.
            continue
        except Exception as error:
            failures.append(f"{case.name}: {type(error).__name__}: {str(error)[:300]}")
    assert not failures, "\n".join(failures)
    assert exact > 1500, (exact, fresh)


def test_resizing_keeps_an_infinity_where_it_is():
    import onnx

    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> f (float[1,1,4,6] x) => (float[1,1,8,6] y)'
        ' <float[0] r = {}, float[4] s = {1,1,2,1}> { y = Resize <mode = "linear"> (x, r, s) }'
    )
    ctx = new_context(DIALECTS)
    x = np.ones((1, 1, 4, 6), np.float32)
    x[0, 0, 3, 2] = np.inf
    y = interpret(import_onnx(model, ctx), {"x": x})["y"]
    assert np.argwhere(np.isinf(y)).tolist() == [[0, 0, row, 2] for row in (5, 6, 7)]
    assert not np.isnan(y).any()


def test_a_tie_of_nearest_is_one_in_single_precision():
    """Row 3 of 5 by 0.7 lies at 4.5 in f32, where onnxruntime's and compiled code take 4, and above it in f64."""
    import onnx
    import onnxruntime

    text = """<ir_version: 10, opset_import: ["" : 20]> g (float[1, 1, 8, 1] x) => (float[1, 1, 5, 1] y)
        <float[4] scales = {1, 1, 0.7, 1}> {
        y = Resize <mode = "nearest", coordinate_transformation_mode = "pytorch_half_pixel"> (x, , scales) }"""
    model = onnx.parser.parse_model(text)
    x = np.arange(8, dtype=np.float32).reshape(1, 1, 8, 1)
    ctx = new_context(DIALECTS)
    (got,) = interpret(import_onnx(model, ctx), [x])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(got, session.run(None, {"x": x})[0])
