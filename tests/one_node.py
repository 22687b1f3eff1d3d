"""Models of one node of `com.microsoft`, as the interpreter of graphs sees them or compiled, against ONNX Runtime."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper

import stepwell
from stepwell.compat import new_context
from stepwell.frontends.onnx import import_onnx
from stepwell.interpreter import interpret
from stepwell.registry import DIALECTS

RANDOM = np.random.default_rng(5)


def floats(*shape: int) -> np.ndarray:
    return RANDOM.uniform(-1, 1, shape).astype(np.float32)


def bytes_of(*shape: int, low: int = 0, high: int = 256, dtype: Any = np.uint8) -> np.ndarray:
    return RANDOM.integers(low, high, shape).astype(dtype)


def number(value: float, dtype: Any = np.float32) -> np.ndarray:
    return np.array(value, dtype)


def model_of(
    op: str,
    inputs: Sequence[Any],
    constants: Sequence[int],
    outputs: int,
    dynamic: Sequence[tuple[int, int]],
    **attributes: Any,
) -> onnx.ModelProto:
    names = [f"i{k}" if x is not None else "" for k, x in enumerate(inputs)]
    results = [f"o{k}" for k in range(outputs)]
    floats_out = attributes.pop("float_outputs", ())
    node = helper.make_node(op, names, results, domain="com.microsoft", name="the_node", **attributes)
    values, weights = [], []
    for k, x in enumerate(inputs):
        if x is None:
            continue
        if k in constants:
            weights.append(onnx.numpy_helper.from_array(x, names[k]))
            continue
        shape = [f"d{k}_{axis}" if (k, axis) in dynamic else extent for axis, extent in enumerate(x.shape)]
        values.append(
            helper.make_tensor_value_info(names[k], helper.np_dtype_to_tensor_dtype(x.dtype), shape)
        )
    graph = helper.make_graph(
        [node],
        "g",
        values,
        [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            if k in floats_out
            else onnx.ValueInfoProto(name=name)
            for k, name in enumerate(results)
        ],
        weights,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def check(
    op: str, *inputs: Any, constants: Sequence[int] = (), outputs: int = 1, dynamic: Sequence[tuple[int, int]] = (),
    rtol: float = 1e-4, atol: float = 2e-6, compiled: bool = False, units: int = 0, unwritten: int | None = None,
    unmasked: bool = False, **attributes: Any,
) -> None:  # fmt: skip
    """
    `units`: how far integers may be off, where both round what is nearly half. `unwritten`: the place in the buffers of
    the past behind which nothing is compared; `unmasked`: what is -inf is not compared.
    """
    model = model_of(op, inputs, constants, outputs, dynamic, **attributes)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feeds = {f"i{k}": x for k, x in enumerate(inputs) if x is not None and k not in constants}
    want = session.run(None, feeds)
    if compiled:
        got = list(stepwell.compile(model).run(feeds).values())
    else:
        ctx = new_context(DIALECTS)
        module = import_onnx(model, ctx)
        module.verify()
        got = interpret(module, list(feeds.values()), ctx)
    for have, expected in zip(got, want, strict=True):
        assert have.shape == expected.shape and have.dtype == expected.dtype
        if unwritten is not None and have.ndim == 4:
            have, expected = have[:, :, : unwritten + 1], expected[:, :, : unwritten + 1]
        if unmasked:
            have = np.where(np.isneginf(have), expected, have)
        if expected.dtype.kind in "iu":
            assert np.abs(have.astype(np.int64) - expected).max(initial=0) <= units
        else:
            np.testing.assert_allclose(have, expected, rtol=rtol, atol=atol)
