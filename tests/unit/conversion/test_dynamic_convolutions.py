"""Convolutions and poolings with no extent known, against ONNX Runtime: one compiled model, several shapes."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

import stepwell


def both(op, ranks, rank_out=None, **attributes):
    """The same one-node model in stepwell, with no extent known, and in ONNX Runtime."""
    names = ["x", "w", "b"][: len(ranks)]
    inputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [f"{n}{i}" for i in range(r)])
        for n, r in zip(names, ranks, strict=True)
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * (rank_out or ranks[0]))
    node = helper.make_node(op, names, ["y"], **attributes)
    graph = helper.make_graph([node], "g", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return stepwell.compile(model, cache=False), lambda *v: session.run(
        None, dict(zip(names, v, strict=True))
    )[0]


def agree(pair, *shapes):
    ours, theirs = pair
    rng = np.random.default_rng(1)
    values = [rng.integers(-4, 5, shape).astype(np.float32) for shape in shapes]
    np.testing.assert_allclose(ours(*values), theirs(*values), rtol=1e-5, atol=1e-5)


def test_kernels_of_any_extent():
    pair = both("Conv", [4, 4, 1], pads=[1, 0, 1, 2], strides=[2, 1], dilations=[1, 2])
    agree(pair, (2, 3, 9, 8), (5, 3, 3, 2), (5,))
    agree(pair, (1, 4, 6, 7), (2, 4, 1, 3), (2,))
    with pytest.raises(stepwell.RunError):
        pair[0](
            np.zeros((1, 3, 9, 8), np.float32), np.zeros((2, 4, 1, 1), np.float32), np.zeros(2, np.float32)
        )


def test_groups_of_channels_of_any_number():
    pair = both("Conv", [3, 3], group=2)
    agree(pair, (1, 4, 9), (6, 2, 3))
    agree(pair, (2, 2, 5), (2, 1, 2))
    with pytest.raises(stepwell.RunError):
        pair[0](np.zeros((1, 4, 9), np.float32), np.zeros((5, 2, 3), np.float32))


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_a_stride_above_the_kernel_takes_no_padding(auto_pad):
    pair = both("Conv", [4, 4], auto_pad=auto_pad, strides=[3, 2])
    for size in (5, 6, 7, 8):
        agree(pair, (1, 2, size, size + 1), (3, 2, 1, 1))
        agree(pair, (1, 2, size, size + 1), (3, 2, 2, 3))


def test_transposed_kernels_of_any_extent():
    pair = both("ConvTranspose", [4, 4, 1], strides=[2, 3], pads=[1, 0, 0, 1], group=2)
    agree(pair, (1, 4, 5, 4), (4, 3, 3, 2), (6,))
    agree(pair, (2, 2, 3, 6), (2, 1, 2, 4), (2,))
    agree(pair, (1, 2, 4, 3), (2, 2, 1, 1), (4,))  # the padding is more than the kernel reaches


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("ceil", [0, 1])
def test_averages_at_the_border(include, ceil):
    pair = both(
        "AveragePool", [4], kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1], ceil_mode=ceil,
        count_include_pad=include, dilations=[1, 2],
    )  # fmt: skip
    for size in (5, 6, 7, 8):
        agree(pair, (1, 2, size, size + 2))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_and_space(mode):
    agree(both("DepthToSpace", [4], blocksize=2, mode=mode), (1, 8, 3, 2))
    pair = both("SpaceToDepth", [4], blocksize=2)
    agree(pair, (2, 3, 4, 6))
    with pytest.raises(stepwell.RunError):
        pair[0](np.zeros((1, 1, 3, 4), np.float32))
