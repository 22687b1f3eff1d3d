"""
Building a random model node by node: every node is run by ONNX Runtime as it is added, so that shapes, types and values
are known, what ONNX Runtime refuses is never added, and values that grow too large are left out.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

MOST_ELEMENTS = 40_000
LARGEST = 1e4
"""Beyond it a float is no good operand: exponentials overflow, and sums lose what they add."""


class Rejected(Exception):
    """A node that the model does without."""


@dataclass(frozen=True)
class Value:
    """A value of the model under construction, with the array that it has on the first inputs."""

    name: str
    array: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype


class Builder:
    """A graph that grows; `outer` is the graph around the body of an If, a Loop or a Scan."""

    def __init__(self, rng: random.Random, opset: int, outer: "Builder | None" = None, wild: bool = False):
        self.rng, self.opset, self.outer, self.wild = rng, opset, outer, wild
        self.numbers = np.random.default_rng(rng.getrandbits(32))
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, np.ndarray] = {}
        self.inputs: dict[str, np.ndarray] = {}
        self.known: set[str] = set()
        """Inputs whose extents are part of the model: the windows of convolutions."""
        self.values: list[Value] = list(outer.values) if outer else []
        self._names: list[int] = outer._names if outer else [0]

    # --- names and leaves ---

    def name(self, prefix: str = "v") -> str:
        self._names[0] += 1
        return f"{prefix}{self._names[0]}"

    def input(self, array: np.ndarray) -> Value:
        """A new graph input."""
        value = Value(self.name("in"), np.asarray(array))
        self.inputs[value.name] = value.array
        self.values.append(value)
        return value

    def constant(self, array: Any, dtype: Any = None) -> Value:
        """A new initializer."""
        value = Value(self.name("c"), np.asarray(array, dtype))
        self.initializers[value.name] = value.array
        return value

    def operand(self, shape: Sequence[int], dtype: Any, known: bool = False) -> Value:
        """A value of that shape and type: one that is there, a constant, or a new input, if `known` one of known extents."""
        fits = [v for v in self.values if v.shape == tuple(shape) and v.dtype == np.dtype(dtype)]
        if fits and not known and self.rng.random() < 0.5:
            return self.rng.choice(fits)
        array = self.random(shape, dtype)
        if self.outer or self.rng.random() < 0.7:
            return self.constant(array)
        value = self.input(array)
        if known:
            self.known.add(value.name)
        return value

    def random(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Well-conditioned numbers: normal ones, some of them whole, small integers."""
        dtype = np.dtype(dtype)
        if dtype.kind == "b":
            return self.numbers.integers(0, 2, shape).astype(bool)
        if dtype.kind == "i":
            return self.numbers.integers(-20, 21, shape).astype(dtype)
        if dtype.kind == "u":
            return self.numbers.integers(0, 41, shape).astype(dtype)
        array = self.numbers.normal(0, 1, shape).astype(dtype)
        if self.rng.random() < 0.15:
            array = np.rint(array * 2).astype(dtype)
        if self.wild and array.size and array.ndim:
            flat = array.reshape(-1)
            for special in (np.nan, np.inf, -np.inf, -0.0):
                if self.rng.random() < 0.5:
                    flat[self.rng.randrange(flat.size)] = special
        return array

    # --- nodes ---

    def add(
        self, op: str, inputs: Sequence["Value | None"], outputs: int = 1, **attributes: Any
    ) -> list[Value]:
        """Add a node and run it; `Rejected` if ONNX Runtime does not take it or its results are no good."""
        names = [v.name if v is not None else "" for v in inputs]
        node = helper.make_node(op, names, [self.name() for _ in range(outputs)], **attributes)
        return self.append(node, [v for v in inputs if v is not None])

    def append(self, node: onnx.NodeProto, reads: Sequence[Value]) -> list[Value]:
        """Add a ready-made node that reads `reads`, captured values included."""
        if not onnx.defs.has(node.op_type, max_inclusive_version=self.opset):
            raise Rejected("newer than the model")  # ONNX Runtime takes it all the same
        arrays = {v.name: v.array for v in reads}
        if node.op_type.startswith("Reduce") and not all(array.size for array in arrays.values()):
            raise Rejected("nothing to reduce, of which ONNX Runtime keeps the extent")
        results = run_node(node, arrays, self.opset)
        for array in results:
            if not isinstance(array, np.ndarray) or array.size > MOST_ELEMENTS:
                raise Rejected("not an array of modest size")
            if array.size == 0 and "kernel_shape" in {attribute.name for attribute in node.attribute}:
                raise Rejected("a window larger than what it moves over")
            if array.dtype.kind == "f" and not self.wild:
                if not np.isfinite(array).all() or (array.size and np.abs(array).max() > LARGEST):
                    raise Rejected("too large")
        self.nodes.append(node)
        added = [Value(n, a) for n, a in zip(node.output, results, strict=True) if n]
        self.values += added
        return added

    # --- choosing operands ---

    def choose(self, condition: Callable[[Value], bool] = lambda v: True) -> Value:
        """A value that fulfils `condition`, the newest ones more likely."""
        fits = [v for v in self.values if condition(v)]
        if not fits:
            raise Rejected("nothing to choose from")
        if self.rng.random() < 0.6:
            fits = fits[-4:]
        return self.rng.choice(fits)

    def floats(self, low: int = 0, high: int = 9) -> Value:
        """A float32 tensor (rarely of another width) of `low` to `high` dims."""
        kinds = ("f",)
        return self.choose(lambda v: v.dtype.kind in kinds and low <= v.array.ndim <= high)

    # --- the model ---

    def graph(
        self, name: str, outputs: Sequence[Value], symbols: dict[int, str] | None = None
    ) -> onnx.GraphProto:
        """The graph: `symbols` names the extents of inputs that are not known; a body knows ranks only."""
        known = symbols if symbols is not None else dict.fromkeys(range(1 << 16))
        return helper.make_graph(
            self.nodes,
            name,
            [
                _info(n, a, a.shape if n in self.known else [known.get(d, d) for d in a.shape])
                for n, a in self.inputs.items()
            ],
            [_info(v.name, v.array, [None] * v.array.ndim if known else v.shape) for v in outputs],
            [numpy_helper.from_array(a, n) for n, a in self.initializers.items()],
        )


def _info(name: str, array: np.ndarray, shape: Sequence[int | str | None]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape)


def captured(graph: onnx.GraphProto) -> set[str]:
    """Names that a subgraph reads and does not define."""
    own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    reads: set[str] = {v.name for v in graph.output}
    for node in graph.node:
        own.update(node.output)
        reads.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                reads |= captured(attribute.g)
    return {n for n in reads - own if n}


def run_node(node: onnx.NodeProto, arrays: dict[str, np.ndarray], opset: int) -> list[Any]:
    """The results of one node, or `Rejected`."""
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "one", [_info(n, a, a.shape) for n, a in arrays.items()], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return list(session.run(None, dict(arrays)))
    except Exception as error:
        raise Rejected(str(error)) from error


FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
