"""
One model on stepwell and on ONNX Runtime: whether they agree, and if not, whether the model itself can tell.

Where the results differ by more than rounding, the judge is the same model in double precision, and again with a little
noise behind every operation that rounds: what that noise moves, a result may be off by. So a floor of a value that lies
on an integer, or an index of the largest of two equal values, is no difference.
"""

import json
import mmap
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import stepwell
from stepwell.comparison import Difference, compare
from stepwell.compiler import interpret_model
from tests.fuzz import known

onnxruntime.set_default_logger_severity(4)

Feeds = dict[str, np.ndarray]

INTERPRETER = "interpreter"

_NOISY_RUNS = 4
_FLOATS = {TensorProto.FLOAT: 2.0**-23, TensorProto.FLOAT16: 2.0**-10, TensorProto.DOUBLE: 2.0**-52}
"""Element types that the judge widens or makes noisy, and their machine epsilons."""

_EXACT = frozenset(
    """Identity Transpose Reshape Flatten Squeeze Unsqueeze Slice Split Concat Gather GatherElements GatherND Scatter
    ScatterElements ScatterND Expand Tile Pad Where Neg Abs Relu Max Min Floor Ceil Round Sign Cast CastLike Clip MaxPool
    GlobalMaxPool TopK ReduceMax ReduceMin Constant ConstantOfShape DepthToSpace SpaceToDepth Trilu Compress If Loop Scan
    Range OneHot EyeLike NonZero Unique ReverseSequence Sum_of_nothing""".split()
)
"""Operators that do not round: noise behind them would hide what they do wrong."""

_SUMS = frozenset(
    """MatMul Gemm Conv ConvTranspose Einsum ReduceSum ReduceMean ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum
    ReduceLogSumExp AveragePool GlobalAveragePool LpPool CumSum""".split()
)
"""Operators that round once for each term: of a sum that nearly cancels more is lost than its last digits."""


@dataclass(frozen=True)
class Case:
    """A model and several sets of inputs."""

    model: bytes
    feeds: Sequence[Feeds]

    def save(self, directory: Path) -> None:
        """Write `model.onnx` and `inputs_<i>.npz`."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "model.onnx").write_bytes(self.model)
        for index, feeds in enumerate(self.feeds):
            np.savez(directory / f"inputs_{index}.npz", **feeds)  # pyright: ignore[reportArgumentType]

    @staticmethod
    def load(directory: Path) -> "Case":
        feeds = []
        for path in sorted(directory.glob("inputs_*.npz")):
            with np.load(path) as file:
                feeds.append(dict(file))
        return Case((directory / "model.onnx").read_bytes(), feeds)


@dataclass
class Verdict:
    """What became of one case."""

    kind: str
    """
    "agrees", "differs", "refused" (by stepwell, in words), "fault" (stepwell's status 3), "invalid" (ONNX Runtime does
    not run it), "known" (a fault of ONNX Runtime, or a limit, that `known` names), "crash" or "hang" (of whoever `stage` says).
    """
    detail: str = ""
    stage: str = ""
    ops: list[str] = field(default_factory=list)

    @property
    def is_bad(self) -> bool:
        return self.kind not in ("agrees", "invalid", "known")

    def dumps(self) -> str:
        return json.dumps(vars(self))


class Stage:
    """What a child process was doing last, where its parent can read it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 64)

    def enter(self, name: str) -> None:
        self._memory[:] = name.encode()[:64].ljust(64, b"\0")

    def __str__(self) -> str:
        return bytes(self._memory).rstrip(b"\0").decode()


def run_reference(model: bytes, feeds: Feeds, optimised: bool = False) -> list[np.ndarray]:
    """What ONNX Runtime gives, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


def judge(case: Case, ways: Sequence[str], stage: Stage | None = None) -> Verdict:
    """Run `case` in each of `ways`, "-O0" to "-O3" or by the interpreter, and compare with ONNX Runtime."""
    stage = stage or Stage()
    stage.enter("onnxruntime")
    proto = onnx.load_from_string(case.model)
    ops = sorted({node.op_type for node in _nodes(proto.graph)})
    wants, accepted = [], []
    trouble = ""
    for feeds in case.feeds:
        try:
            wants.append(run_reference(case.model, feeds))
            accepted.append(feeds)
        except Exception as error:  # whatever it says
            trouble = trouble or str(error)
    if not wants:
        return Verdict("invalid", trouble, "onnxruntime", ops)
    for way in ways:
        try:
            if way == INTERPRETER:
                verdict = _interpret_and_compare(proto, accepted, wants, stage)
            else:
                verdict = _compile_and_compare(proto, accepted, wants, way, stage)
        except stepwell.InternalError as error:
            verdict = Verdict("fault", str(error), str(stage))
        except stepwell.Error as error:
            verdict = _refused(str(error), stage)
        if verdict is not None:
            verdict.ops = ops
            return verdict
    return Verdict("agrees", ops=ops)


def _refused(message: str, stage: Stage) -> Verdict:
    reason = known.refusal(message)
    return Verdict(
        "known" if reason else "refused", f"{reason}: {message}" if reason else message, str(stage)
    )


def _compile_and_compare(
    proto: onnx.ModelProto, all_feeds: Sequence[Feeds], wants: Sequence[list[Any]], way: str, stage: Stage
) -> Verdict | None:
    """The verdict on the library made at the level `way`, on one thread and two; None if all agrees."""
    stage.enter(f"compile {way}")
    with tempfile.TemporaryDirectory(prefix="stepwell-fuzz-") as directory:
        library = Path(directory) / "model.so"
        stepwell.compile(proto, opt_level=int(way[2:])).save(str(library))
        one, two = stepwell.load(str(library), threads=1), stepwell.load(str(library), threads=2)
    names = [output.name for output in proto.graph.output]
    refused = None
    for feeds, want in zip(all_feeds, wants, strict=True):
        stage.enter(f"run {way}")
        try:
            results = one.run(feeds)
        except stepwell.RunError as error:  # for inputs of other shapes it may run
            refused = _refused(f"{error}; inputs {_shapes(feeds)}", stage)
            continue
        got = [np.asarray(results[name]) for name in names]
        for name, mine in zip(names, got, strict=True):
            other = np.asarray(two.run(feeds)[name])
            if mine.tobytes() != other.tobytes():
                return Verdict("differs", f"{way}: {name}: two threads give other bits than one", str(stage))
        if verdict := _verdict_on(proto, feeds, got, want, way, stage):
            return verdict
    return refused


def _interpret_and_compare(
    proto: onnx.ModelProto, all_feeds: Sequence[Feeds], wants: Sequence[list[Any]], stage: Stage
) -> Verdict | None:
    """The verdict on what our own interpreter gives; None if all agrees."""
    for feeds, want in zip(all_feeds, wants, strict=True):
        stage.enter(INTERPRETER)
        constants = {tensor.name for tensor in proto.graph.initializer}
        inputs = [feeds[value.name] for value in proto.graph.input if value.name not in constants]
        got = [np.asarray(value) for value in interpret_model(proto, inputs)]
        if verdict := _verdict_on(proto, feeds, got, want, INTERPRETER, stage):
            return verdict
    return None


def _verdict_on(
    proto: onnx.ModelProto, feeds: Feeds, got: list[np.ndarray], want: list[Any], way: str, stage: Stage
) -> Verdict | None:
    if compare(got, want).agrees:
        return None
    stage.enter("judge")
    found = settle(proto, feeds, got, want)
    if found.agrees:
        return None
    detail = f"{way}: output {proto.graph.output[found.output].name}: {found}; inputs {_shapes(feeds)}"
    reason = known.reason(proto, found)
    return Verdict("known" if reason else "differs", f"{reason}: {detail}" if reason else detail, way)


def _shapes(feeds: Feeds) -> dict[str, list[int]]:
    return {name: list(array.shape) for name, array in feeds.items()}


def settle(proto: onnx.ModelProto, feeds: Feeds, got: list[np.ndarray], want: list[np.ndarray]) -> Difference:
    """The worst difference that is left when what is ill-conditioned, or a matter of taste, is allowed."""
    candidates = [want]
    try:  # what ONNX Runtime's own optimisations change cannot be held against anybody
        candidates.append(run_reference(proto.SerializeToString(), feeds, optimised=True))
    except Exception:
        pass
    wide = {name: _widened(value) for name, value in feeds.items()}
    # ONNX Runtime computes some operators of float16 in float32, and leaves out the rounding between them.
    if run := _in_double(in_double(proto, 0, rounded=True), wide):
        candidates.append(run)
    exact: list[np.ndarray] | None = None
    for seed in range(_NOISY_RUNS + 1):
        try:
            run = run_reference(in_double(proto, seed).SerializeToString(), wide)
        except Exception:
            break
        if seed == 0:
            exact = run
        candidates.append(run)
    if exact is None:  # no kernels in double for some operator: the noise alone, in the model's own types
        exact = _in_double(in_double(proto, 0), wide)
        for seed in range(1, _NOISY_RUNS + 1):
            try:
                candidates.append(
                    run_reference(in_double(proto, seed, widen=False).SerializeToString(), feeds)
                )
            except Exception:
                break
    worst = Difference(0.0)
    for index, (g, w) in enumerate(zip(got, want, strict=True)):
        judged = None if exact is None else [exact[index]]
        patched = g.copy()
        if g.shape == w.shape and g.dtype == w.dtype:
            with np.errstate(all="ignore"):
                for other in candidates:
                    _allow(patched, w, other[index], candidates)
                patched = _within_spread(patched, w, [c[index] for c in candidates])
        found = compare([patched], [w], judged)
        if found.ratio > worst.ratio:
            worst = Difference(**{**vars(found), "output": index})
    return worst


def _in_double(model: onnx.ModelProto, feeds: Feeds) -> list[np.ndarray] | None:
    """
    What ONNX Runtime gives, or where it has no kernel in double, ONNX's own evaluator, which knows every element type; None
    if it does not run the model either.
    """
    from onnx.reference import ReferenceEvaluator

    try:
        return run_reference(model.SerializeToString(), feeds)
    except Exception:  # whatever it says
        pass
    try:
        with np.errstate(all="ignore"):
            found = ReferenceEvaluator(model).run(None, feeds)
        return [np.asarray(value) for value in found]  # pyright: ignore[reportGeneralTypeIssues]
    except Exception:
        return None


def _allow(got: np.ndarray, want: np.ndarray, other: np.ndarray, _: Any) -> None:
    """Set `got` to `want` where it is what `other`, an equally good run of the reference, gives."""
    if other.shape != got.shape:
        return
    same = np.isclose(got.astype(np.float64), other.astype(np.float64), 1e-5, 1e-8, equal_nan=True)
    got[same] = want[same]


def _within_spread(got: np.ndarray, want: np.ndarray, runs: list[np.ndarray]) -> np.ndarray:
    """`got`, set to `want` where it lies within some times the spread of the runs."""
    runs = [run.astype(np.float64) for run in runs if run.shape == got.shape]
    if len(runs) < 3:
        return got
    stacked = np.stack(runs)
    low, high = stacked.min(0), stacked.max(0)
    mixed = np.isnan(stacked).any(0) | ~np.isfinite(stacked).all(0)
    unsure = mixed & ~(np.isnan(stacked).all(0) | (low == high))
    margin = 4 * (high - low)
    inside = (got >= low - margin) & (got <= high + margin) & ~(low == high)
    return np.where(inside | unsure, want, got).astype(got.dtype)


# --- the model in double precision, with noise --------------------------------------------------


def in_double(
    proto: onnx.ModelProto, seed: int, widen: bool = True, rounded: bool = False
) -> onnx.ModelProto:
    """
    `proto` with float16 and float32 made float64; with a `seed` but 0, noise behind what rounds. `rounded`: each value
    has the digits of its own type, no more.
    """
    wide = onnx.ModelProto()
    wide.CopyFrom(proto)
    types = element_types(proto)
    rng = np.random.default_rng(seed)
    _rewrite(wide.graph, types, rng if seed else None, widen, rounded)
    if widen:
        _widen_inside(wide)
    return wide


def _widen_inside(model: onnx.ModelProto) -> None:
    """Let the normalisations compute in double what they compute in single precision whatever their type is."""
    opset = next(imported.version for imported in model.opset_import if imported.domain in ("", "ai.onnx"))
    for node in _nodes(model.graph):
        if node.op_type.endswith("Normalization") and not node.domain:
            if "stash_type" in onnx.defs.get_schema(node.op_type, opset).attributes:
                kept = [attribute for attribute in node.attribute if attribute.name != "stash_type"]
                del node.attribute[:]
                node.attribute.extend([*kept, helper.make_attribute("stash_type", TensorProto.DOUBLE)])


def element_types(proto: onnx.ModelProto) -> dict[str, int]:
    """The element type of every value that shape inference knows, by name, subgraphs included."""
    inferred = onnx.shape_inference.infer_shapes(proto)
    types: dict[str, int] = {}
    for graph in _graphs(inferred.graph):
        for value in (*graph.input, *graph.output, *graph.value_info):
            types[value.name] = value.type.tensor_type.elem_type
        for tensor in graph.initializer:
            types[tensor.name] = tensor.data_type
    return types


def _rewrite(
    graph: onnx.GraphProto,
    types: Mapping[str, int],
    rng: np.random.Generator | None,
    widen: bool,
    rounded: bool,
) -> None:
    if widen:
        for tensor in graph.initializer:
            _widen_tensor(tensor)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.type.tensor_type.elem_type in _FLOATS:
                value.type.tensor_type.elem_type = TensorProto.DOUBLE
    nodes = []
    for node in graph.node:
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        for attribute in kept.attribute:
            if attribute.HasField("t") and widen:
                _widen_tensor(attribute.t)
            if attribute.HasField("g"):
                _rewrite(attribute.g, types, rng, widen, rounded)
            if widen and node.op_type == "Cast" and attribute.name == "to" and attribute.i in _FLOATS:
                attribute.i = TensorProto.DOUBLE
        if rng is not None and node.op_type in _SUMS:
            nodes.extend(_noisy_terms(kept, types, rng, widen))
        nodes.append(kept)
        if rounded:
            nodes.extend(_rounded(kept, types))
        if rng is None or node.op_type in _EXACT:
            continue
        for index, name in enumerate(kept.output):
            if name and (kind := types.get(name)) in _FLOATS:
                quiet, factor = f"{name}__quiet", f"{name}__noise"
                size = 1 + _FLOATS[kind] * rng.uniform(-3, 3)
                scalar = np.array(size, np.float64 if widen else helper.tensor_dtype_to_np_dtype(kind))
                kept.output[index] = quiet
                nodes.append(
                    helper.make_node("Constant", [], [factor], value=numpy_helper.from_array(scalar))
                )
                nodes.append(helper.make_node("Mul", [quiet, factor], [name]))
    del graph.node[:]
    graph.node.extend(nodes)


def _rounded(node: onnx.NodeProto, types: Mapping[str, int]) -> list[onnx.NodeProto]:
    """Nodes that round what `node` computes in double to its type in the model."""
    made = []
    for index, name in enumerate(node.output):
        if name and (kind := types.get(name)) in (TensorProto.FLOAT, TensorProto.FLOAT16):
            node.output[index] = f"{name}__wide"
            made.append(helper.make_node("Cast", [f"{name}__wide"], [f"{name}__narrow"], to=kind))
            made.append(helper.make_node("Cast", [f"{name}__narrow"], [name], to=TensorProto.DOUBLE))
    return made


def _noisy_terms(
    node: onnx.NodeProto, types: Mapping[str, int], rng: np.random.Generator, widen: bool
) -> list[onnx.NodeProto]:
    """
    Nodes that make noise of its own for each element that `node` sums, which reads it from then on: the sine of the element
    many times over, since ONNX Runtime has no random numbers for every opset.
    """
    made = []
    for index, name in enumerate(node.input):
        if (kind := types.get(name)) not in _FLOATS:
            continue
        stem = f"{name}__in_{node.output[0]}_{index}"
        dtype = np.float64 if widen else helper.tensor_dtype_to_np_dtype(kind)
        numbers = {
            "least": -1000,
            "most": 1000,
            "times": rng.uniform(3, 30),
            "size": 8 * _FLOATS[kind],
            "one": 1,
        }
        for part, number in numbers.items():
            scalar = numpy_helper.from_array(np.array(number, dtype))
            made.append(helper.make_node("Constant", [], [f"{stem}_{part}"], value=scalar))
        for op, operands, result in (
            ("Mul", [name, f"{stem}_times"], f"{stem}_many"),
            ("Clip", [f"{stem}_many", f"{stem}_least", f"{stem}_most"], f"{stem}_angle"),  # infinities too
            ("Sin", [f"{stem}_angle"], f"{stem}_sine"),
            ("Mul", [f"{stem}_sine", f"{stem}_size"], f"{stem}_part"),
            ("Add", [f"{stem}_part", f"{stem}_one"], f"{stem}_factor"),
            ("Mul", [name, f"{stem}_factor"], f"{stem}_noisy"),
        ):
            made.append(helper.make_node(op, operands, [result]))
        node.input[index] = f"{stem}_noisy"
    return made


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _graphs(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    found = [graph]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += _graphs(attribute.g)
    return found


def _nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    return [node for inner in _graphs(graph) for node in inner.node]
