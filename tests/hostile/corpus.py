"""Small valid models and IR files from which mutants are made: one of each kind of operator."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

LIT = Path(__file__).parents[1] / "lit"
Values = Sequence[tuple[str, int, Sequence[int | str]]]


def model(
    nodes: Sequence[onnx.NodeProto], inputs: Values, outputs: Values, initializers: dict[str, Any] | None = None,
    opset: int = 21, functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:  # fmt: skip
    """A model of these nodes."""
    weights = [nh.from_array(np.asarray(value), name) for name, value in (initializers or {}).items()]
    infos = [[h.make_tensor_value_info(*value) for value in values] for values in (inputs, outputs)]
    graph = h.make_graph(list(nodes), "g", *infos, weights)
    imports = [h.make_opsetid("", opset), *([h.make_opsetid("local", 1)] if functions else [])]
    return h.make_model(graph, opset_imports=imports, ir_version=10, functions=list(functions))


def _noise(*shape: int) -> np.ndarray:
    values = np.arange(int(np.prod(shape)), dtype=np.float32)
    return (np.sin(values * 12.9898) * 0.5).reshape(shape).astype(np.float32)


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def _node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node; names are separated by blanks, `-` is an absent one."""
    names = [[n if n != "-" else "" for n in text.split()] for text in (inputs, outputs)]
    return h.make_node(kind, *names, **attributes)


@cache
def onnx_models() -> dict[str, onnx.ModelProto]:
    """The corpus, by name."""
    n, f = _node, T.FLOAT
    models = {
        "conv": model(
            [n("Conv", "x w b", "c", pads=[1, 1, 1, 1], strides=[2, 1]), n("Relu", "c", "r"),
             n("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2]), n("GlobalAveragePool", "p", "y")],
            [("x", f, [1, 3, 8, 9])], [("y", f, [1, 4, 1, 1])], {"w": _noise(4, 3, 3, 3), "b": _noise(4)},
        ),
        "depthwise": model(
            [n("Conv", "x w", "c", group=4, dilations=[2, 1], pads=[0, 1, 1, 0]),
             n("BatchNormalization", "c s b m v", "n"), n("Clip", "n lo hi", "y")],
            [("x", f, [2, 4, 7, 6])], [("y", f, None)],
            {"w": _noise(4, 1, 3, 2), "s": _noise(4), "b": _noise(4), "m": _noise(4), "v": np.abs(_noise(4)) + 1,
             "lo": np.float32(-1), "hi": np.float32(6)},
        ),
        "matmul": model(
            [n("MatMul", "x w", "m"), n("Add", "m b", "a"), n("Softmax", "a", "s", axis=-1),
             n("ReduceMean", "s axes", "y", keepdims=0)],
            [("x", f, ["batch", 6, 16])], [("y", f, ["batch", 10])],
            {"w": _noise(16, 10), "b": _noise(10), "axes": _ints(1)},
        ),
        "gemm": model(
            [n("Gemm", "x w b", "y", alpha=0.5, beta=2.0, transB=1)],
            [("x", f, ["n", 8])], [("y", f, ["n", 5])], {"w": _noise(5, 8), "b": _noise(5)},
        ),
        "slice": model(
            [n("Slice", "x starts ends axes steps", "s"), n("Transpose", "s", "t", perm=[1, 0, 2]),
             n("Pad", "t pads", "p", mode="reflect"), n("Concat", "p p", "c", axis=1), n("Reshape", "c shape", "y")],
            [("x", f, [6, 5, 4])], [("y", f, None)],
            {"starts": _ints(5, 1), "ends": _ints(-100, 4), "axes": _ints(0, 1), "steps": _ints(-2, 1),
             "pads": _ints(1, 0, 0, 0, 2, 1), "shape": _ints(0, -1)},
        ),
        "gather": model(
            [n("Gather", "x i", "g", axis=1), n("TopK", "g k", "v j", axis=-1), n("ScatterND", "v at up", "s"),
             n("Cast", "j", "jf", to=T.FLOAT), n("Add", "s jf", "y")],
            [("x", f, [3, 5, 4])], [("y", f, None)],
            {"i": _ints(4, 0, -1), "k": _ints(2), "at": _ints(0, 1, 1, 2, 2, 0).reshape(3, 2), "up": _noise(3, 2)},
        ),
        "integers": model(
            [n("Div", "a b", "q"), n("Mod", "a b", "r"), n("Add", "q r", "s"), n("Shape", "s", "shape"),
             n("CumSum", "s axis", "c"), n("Where", "mask c a", "w"), n("Cast", "w", "y", to=T.FLOAT)],
            [("a", T.INT32, [4, 6]), ("b", T.INT32, [6]), ("mask", T.BOOL, [4, 1])],
            [("y", f, None), ("shape", T.INT64, [2])], {"axis": np.int64(1)},
        ),
        "norm": model(
            [n("LayerNormalization", "x s b", "l", axis=-1), n("Gelu", "l", "g"), n("Split", "g", "p q", num_outputs=2, axis=1),
             n("Mul", "p q", "m"), n("Einsum", "m q", "e", equation="bij,bkj->bik"), n("Erf", "e", "y")],
            [("x", f, ["b", 4, 8])], [("y", f, None)], {"s": _noise(8), "b": _noise(8)},
        ),
        "loop": model(
            [n("Loop", "n cond x", "last", body=h.make_graph(
                [n("Add", "v v", "d"), n("ReduceMax", "d", "m", keepdims=0), n("Less", "m lim", "go")], "body",
                [h.make_tensor_value_info("i", T.INT64, []), h.make_tensor_value_info("c", T.BOOL, []),
                 h.make_tensor_value_info("v", f, [3])],
                [h.make_tensor_value_info("go", T.BOOL, []), h.make_tensor_value_info("d", f, [3])]))],
            [("x", f, [3])], [("last", f, [3])],
            {"n": np.int64(5), "cond": np.bool_(True), "lim": np.float32(8)},
        ),
        "if": model(
            [n("ReduceSum", "x", "t", keepdims=0), n("Greater", "t zero", "c"),
             n("If", "c", "y",
               then_branch=h.make_graph([n("Relu", "x", "p")], "then", [], [h.make_tensor_value_info("p", f, [2, 3])]),
               else_branch=h.make_graph([n("Neg", "x", "q")], "else", [], [h.make_tensor_value_info("q", f, [2, 3])]))],
            [("x", f, [2, 3])], [("y", f, [2, 3])], {"zero": np.float32(0)},
        ),
        "quantised": model(
            [n("QuantizeLinear", "x sx zx", "q"), n("DequantizeLinear", "q sx zx", "d"),
             n("DequantizeLinear", "w sw zw", "dw"), n("MatMul", "d dw", "m"), n("QuantizeLinear", "m sx zx", "o"),
             n("MatMulInteger", "q w zx", "i"), n("DequantizeLinear", "o sx zx", "y")],
            [("x", f, [3, 8])], [("y", f, [3, 4]), ("i", T.INT32, [3, 4])],
            {"sx": np.float32(0.05), "zx": np.uint8(128), "sw": np.float32(0.1), "zw": np.int8(3),
             "w": (_noise(8, 4) * 100).astype(np.int8)},
        ),
        "resize": model(
            [n("Resize", "x - scales", "r", mode="linear"), n("AveragePool", "r", "a", kernel_shape=[3, 2], pads=[1, 0, 1, 1]),
             n("ConvTranspose", "a w", "t", strides=[2, 2], output_padding=[1, 0]), n("Sigmoid", "t", "y")],
            [("x", f, [1, 2, 4, 5])], [("y", f, None)],
            {"scales": np.float32([1, 1, 2, 1.5]), "w": _noise(2, 3, 2, 2)},
        ),
        "lstm": model(
            [n("LSTM", "x w r b", "a h c", hidden_size=4), n("Squeeze", "h axes", "s"), n("Tanh", "s", "y")],
            [("x", f, [5, 2, 3])], [("y", f, None), ("a", f, None)],
            {"w": _noise(1, 16, 3), "r": _noise(1, 16, 4), "b": _noise(1, 32), "axes": _ints(0)},
        ),
        "strings": model(
            [n("StringNormalizer", "x", "n", case_change_action="LOWER", stopwords=["the", "a"]),
             n("StringSplit", "n", "p c", delimiter=",", maxsplit=2), n("RegexFullMatch", "p", "m", pattern="[a-z]+|(b|\\d){2,3}"),
             n("StringConcat", "p p", "d"), n("Where", "m p d", "w"), n("Equal", "w p", "same"), n("Unique", "w", "u"),
             n("Cast", "c", "t", to=T.STRING), n("Cast", "t", "y", to=T.FLOAT),
             n("TfIdfVectorizer", "n", "v", mode="TFIDF", min_gram_length=1, max_gram_length=2, max_skip_count=1,
               ngram_counts=[0, 2], ngram_indexes=[0, 1, 2], pool_strings=["a", "b", "a", "b"], weights=[1.0, 2.0, 0.5])],
            [("x", T.STRING, ["words"])],
            [("u", T.STRING, None), ("same", T.BOOL, None), ("y", f, None), ("v", f, None)],
        ),
        "function": model(
            [h.make_node("Twice", ["x"], ["t"], domain="local", k=3.0), n("Expand", "t shape", "e"), n("Tile", "e reps", "y")],
            [("x", f, [2, 1])], [("y", f, None)], {"shape": _ints(1, 2, 3), "reps": _ints(2, 1, 2)},
            functions=[h.make_function(
                "local", "Twice", ["a"], ["c"],
                [n("Add", "a a", "b"), n("Pow", "b e", "c")], [h.make_opsetid("", 21)],
            )],
        ),
    }  # fmt: skip
    body = models["function"].functions[0]
    constant = _node("Constant", "", "e")
    constant.attribute.append(
        onnx.AttributeProto(name="value_float", ref_attr_name="k", type=onnx.AttributeProto.FLOAT)
    )
    body.node.insert(0, constant)
    body.attribute.append("k")
    return models


def inputs_of(proto: onnx.ModelProto, seed: int = 0, extent: int = 2) -> dict[str, np.ndarray]:
    """Small values for each input; unknown extents are `extent`."""
    rng = np.random.default_rng(seed)
    weights = {tensor.name for tensor in proto.graph.initializer}
    feeds = {}
    for value in proto.graph.input:
        if value.name in weights:
            continue
        kind = value.type.tensor_type
        shape = [
            dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else extent
            for dim in kind.shape.dim
        ]
        dtype = h.tensor_dtype_to_np_dtype(kind.elem_type)
        if kind.elem_type == T.STRING:
            feeds[value.name] = rng.choice(["", "a,b", "the", "1.5", "\u00e9,,"], shape).astype(object)
            continue
        if dtype.kind == "f":
            feeds[value.name] = rng.uniform(-2, 2, shape).astype(dtype)
        else:
            feeds[value.name] = rng.integers(*((0, 2) if dtype.kind == "b" else (1, 6)), shape).astype(dtype)
    return feeds


@cache
def lit_files() -> dict[str, tuple[str, str]]:
    """Of each part of each lit test: its text, and the pipeline that the test runs."""
    found = {}
    for path in sorted(LIT.rglob("*.ir")):
        text = path.read_text()
        command = next((line for line in text.split("\n") if "stepwell-opt" in line and "RUN" in line), "")
        words = command.replace("'", " ").replace('"', " ").split()
        pipeline = " ".join(words[words.index("-p") + 1 :]).split(" |")[0] if "-p" in words else ""
        pipeline = pipeline.split(" --")[0].split(" %")[0].strip()
        for number, part in enumerate(text.split("// -----")):
            if part.strip():
                found[f"{path.relative_to(LIT)}#{number}"] = (part, pipeline)
    return found


@cache
def level_dumps() -> dict[str, str]:
    """A small model's IR at every level, weights in the text."""
    from stepwell.compiler import Compilation, Options
    from stepwell.pipelines import LEVELS

    found = {}
    for name in ("matmul", "conv", "if", "strings"):
        compilation = Compilation(Options(target="x86-64-v3"))
        compilation.read(onnx_models()[name])
        for level in LEVELS:
            compilation.lower_to(level)
            found[f"{name}.{level}"] = compilation.ir_text()[0]
    return found


@cache
def rule_files() -> dict[str, str]:
    """The files of rewrite rules in the repository, by name."""
    root = Path(__file__).parents[2]
    paths = [path for folder in ("transforms", "examples") for path in (root / folder).rglob("*.pat")]
    return {path.stem: path.read_text(encoding="utf-8") for path in paths}


@cache
def llvm_ir() -> dict[str, str]:
    """Textual LLVM IR of small models, by name."""
    from stepwell.compiler import Compilation, Options

    texts = {}
    for name in ("gemm", "conv", "softmax"):
        if name in onnx_models():
            compilation = Compilation(Options(target="x86-64-v3", opt_level=1))
            compilation.read(onnx_models()[name].SerializeToString())
            compilation.lower_to("llvm")
            texts[name] = compilation.llvm_ir()[:12_000].rsplit("\n}\n", 1)[0] + "\n}\n"
    return texts
