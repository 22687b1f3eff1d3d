"""Weights outside the IR: keys, views, sidecar files."""

import json
from pathlib import Path

import numpy as np
import pytest
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr, DenseResourceAttr, IndexType, f32, i1

from stepwell.compat import new_context, parse_module, print_module
from stepwell.errors import CompileError
from stepwell.ir_files import read_module_file
from stepwell.registry import DIALECTS
from stepwell.resources import constant_attr, map_safetensors, resource_keys, value_of
from stepwell.tools.stepwell_opt import main


def context():
    return new_context(DIALECTS)


def module_with(attr):
    text = print_module(parse_module(context(), "func.func @f() { func.return }"))
    body = f"%w = arith.constant {attr}\n    func.return"
    return text.replace("func.return", body)


@pytest.mark.parametrize(
    "dtype",
    ["bool", "int8", "uint8", "int16", "int32", "int64", "uint64", "float16", "float32", "float64"],
)
@pytest.mark.parametrize("count", [6, 600])
def test_values_survive(dtype, count):
    ctx = context()
    array = (np.arange(count) % 2 + np.arange(count) % 7).astype(dtype).reshape(2, -1)
    attr = constant_attr(array, ctx)
    assert isinstance(attr, DenseResourceAttr) == (count >= 64)
    back = value_of(attr, ctx)
    assert back.dtype == array.dtype and back.shape == array.shape
    np.testing.assert_array_equal(back, array)
    # what is printed means the same
    text = module_with(attr)
    again = next(op for op in parse_module(ctx, text).walk() if op.name == "arith.constant")
    np.testing.assert_array_equal(value_of(again.properties["value"], ctx), array)


def test_bfloat16_survives():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    ctx = context()
    array = np.linspace(-3, 3, 100).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(value_of(constant_attr(array, ctx), ctx), array)


def test_nothing_is_copied():
    ctx = context()
    array = np.arange(1000, dtype=np.float32)
    view = value_of(constant_attr(array, ctx), ctx)
    assert np.shares_memory(view, array)
    assert not view.flags.writeable


def test_a_splat_stays_one():
    ctx = context()
    attr = constant_attr(np.full((300, 400), 2.5, np.float32), ctx)
    assert isinstance(attr, DenseIntOrFPElementsAttr)
    view = value_of(attr, ctx)
    assert view.strides == (0, 0) and view[7, 9] == 2.5


def test_negative_zero_is_no_splat_of_zero():
    ctx = context()
    array = np.zeros(100, np.float32)
    array[3] = -0.0
    assert np.signbit(value_of(constant_attr(array, ctx), ctx))[3]


def test_equal_values_have_one_key_whatever_their_shape():
    ctx = context()
    array = np.arange(100, dtype=np.float32)
    a, b = constant_attr(array, ctx), constant_attr(array.reshape(10, 10).copy(), ctx)
    assert a.resource_handle == b.resource_handle and a.type != b.type


def test_constants_equal_what_the_parser_makes():
    ctx = context()
    attr = constant_attr(np.array([True, False]), ctx)
    text = module_with("dense<[true, false]> : tensor<2xi1>")
    parsed = next(op for op in parse_module(ctx, text).walk() if op.name == "arith.constant")
    assert parsed.properties["value"] == attr


def test_element_type_is_chosen_by_the_caller():
    ctx = context()
    attr = constant_attr(np.arange(3), ctx, IndexType())
    assert attr.type.element_type == IndexType()
    assert constant_attr(np.arange(3), ctx, f32).type.element_type == f32
    assert constant_attr(np.ones(3, np.int8), ctx, i1).type.element_type == i1


def test_sidecars_follow_the_module(tmp_path: Path):
    ctx = context()
    array = np.arange(200, dtype=np.float32)
    module = parse_module(ctx, module_with(constant_attr(array, ctx)))
    first = tmp_path / "first.ir"
    assert ctx.resources.bind(module, tmp_path, first.with_suffix(".safetensors")) == 0
    first.write_text(print_module(module))
    assert 'stepwell.resources = ["first.safetensors"]' in first.read_text()

    # A stage without new values copies none: its sidecar names the old one, and the text lists neither.
    (tmp_path / "deep").mkdir()
    second = tmp_path / "deep" / "second.ir"
    assert main([str(first), "-o", str(second)]) == 0
    assert "stepwell.resources" not in second.read_text()
    assert map_safetensors(second.with_suffix(".safetensors")) == {}

    other = context()
    again = read_module_file(second, other)
    (key,) = resource_keys(again)
    (constant,) = (op for op in again.walk() if op.name == "arith.constant")
    np.testing.assert_array_equal(value_of(constant.properties["value"], other), array)
    assert key in ctx.resources


def test_a_missing_sidecar_is_an_error_only_when_values_are_read(tmp_path: Path):
    path = tmp_path / "a.ir"
    header = 'builtin.module attributes {stepwell.resources = ["gone.safetensors"]} {'
    path.write_text(module_with("dense_resource<w_1> : tensor<100xf32>").replace("builtin.module {", header))
    assert main([str(path), "-o", str(tmp_path / "b.ir")]) == 0
    for name in ("a.ir", "b.ir"):
        ctx = context()
        module = read_module_file(tmp_path / name, ctx)
        (constant,) = (op for op in module.walk() if op.name == "arith.constant")
        with pytest.raises(CompileError, match=r"w_1.*gone\.safetensors.*--resources"):
            value_of(constant.properties["value"], ctx)


def test_a_second_context_and_a_second_parse_see_the_same_keys():
    ctx = context()
    text = module_with("dense_resource<w> : tensor<100xf32>")
    for each in (ctx, ctx, context()):
        assert "dense_resource<w> :" in print_module(parse_module(each, text))


def test_resource_section_of_mlir_is_read():
    ctx = context()
    blob = np.arange(2, dtype=np.float32).tobytes().hex()
    section = '{-# dialect_resources: { builtin: { w: "0x04000000' + blob + '" } } #-}'
    module = parse_module(ctx, module_with("dense_resource<w> : tensor<2xf32>") + section)
    (constant,) = (op for op in module.walk() if op.name == "arith.constant")
    assert value_of(constant.properties["value"], ctx).tolist() == [0.0, 1.0]


def test_a_blob_of_the_wrong_size_is_named():
    ctx = context()
    attr = constant_attr(np.arange(100, dtype=np.float32), ctx)
    wrong = DenseResourceAttr.from_params(attr.resource_handle, type(attr.type)(f32, [99]))
    with pytest.raises(CompileError, match=r"400 bytes are stored.*needs 396"):
        value_of(wrong, ctx)


def test_files_are_safetensors(tmp_path: Path):
    safetensors = pytest.importorskip("safetensors.numpy")
    ctx = context()
    arrays = [np.arange(100, dtype=np.float32).reshape(4, 25), np.arange(77, dtype=np.uint8)]
    module = parse_module(ctx, module_with(constant_attr(arrays[0], ctx)))
    path = tmp_path / "w.safetensors"
    ctx.resources.bind(module, tmp_path, path)
    loaded = safetensors.load_file(path)
    np.testing.assert_array_equal(loaded[next(iter(resource_keys(module)))], arrays[0])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 64,
        (1 << 40).to_bytes(8, "little") + b"{}",
        (4).to_bytes(8, "little") + b"[[[[",
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
        b"",
    ]
    + [
        len(h := json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": o}}).encode()).to_bytes(8, "little") + h
        for o in ([0, 9], [-4, 4], [8, 0], [0], "ab", [0, 1 << 70])
    ],
)  # fmt: skip
def test_broken_files_are_diagnosed(tmp_path: Path, data: bytes):
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    with pytest.raises(CompileError, match="not a safetensors file"):
        map_safetensors(path)
