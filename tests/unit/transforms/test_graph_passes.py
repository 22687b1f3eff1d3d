"""On random programs of small integers, so that sums are exact, each pass keeps every bit of every result."""

from collections.abc import Callable

import numpy as np
import pytest
from xdsl.dialects.builtin import FunctionType, ModuleOp, f32
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Block, Region, SSAValue
from xdsl.passes import ModulePass

from stepwell.compat import StepwellContext, new_context, parse_module, print_module
from stepwell.dialects.graph import ONNX_NAMES, ConstantOp, GraphOp, dims_of, symbol, tensor_type
from stepwell.interpreter.graph import interpret
from stepwell.registry import DIALECTS
from stepwell.resources import constant_attr
from stepwell.transforms.graph.fold_batch_norm import FoldBatchNormPass
from stepwell.transforms.graph.fold_constants import FoldConstantsPass
from stepwell.transforms.graph.fold_transposes import FoldTransposesPass
from stepwell.transforms.graph.graph_decompose import GraphDecomposePass
from stepwell.transforms.graph.infer_shapes import InferShapesPass
from stepwell.transforms.graph.merge_products import MergeProductsPass
from stepwell.transforms.graph.simplify_graph import SimplifyGraphPass
from stepwell.transforms.graph.specialise_dims import SpecialiseDimsPass
from stepwell.transforms.set_target import SetTargetPass


class RandomProgram:
    """A function of one argument `[2, 3, 4]` (the first extent perhaps symbolic) and a few operators."""

    def __init__(self, seed: int, symbolic: bool):
        self.rng = np.random.default_rng(seed)
        self.ctx: StepwellContext = new_context(DIALECTS)
        first = symbol("n") if symbolic else 2
        argument = tensor_type([first, 3, 4], f32)
        self.block = Block(arg_types=[argument])
        function = FuncOp("main", FunctionType.from_lists([argument], []), Region(self.block))
        self.values: list[SSAValue] = [self.block.args[0]]
        for _ in range(12):
            self._grow()
        outputs = self.values[-3:]
        self.block.add_op(ReturnOp(*outputs))
        function.properties["function_type"] = FunctionType.from_lists([argument], [v.type for v in outputs])
        self.module = ModuleOp([function])

    def emit(self, name: str, *operands: SSAValue, **attributes: object) -> SSAValue:
        op = ONNX_NAMES[name].build(operands, attributes)
        self.block.add_op(op)
        return op.results[0]

    def constant(self, array: np.ndarray) -> SSAValue:
        op = ConstantOp.build([], {"value": constant_attr(array, self.ctx)})
        self.block.add_op(op)
        return op.results[0]

    def _grow(self) -> None:
        x = self.values[self.rng.integers(len(self.values))]
        rank = len(dims_of(x.type))
        choices: list[Callable[[], SSAValue]] = [
            lambda: self.emit(str(self.rng.choice(["Neg", "Relu", "Identity", "Abs", "Ceil"])), x),
            lambda: self.emit("Neg", self.emit("Neg", x)),
            lambda: self.emit("Transpose", x, perm=self.rng.permutation(rank).tolist()),
            lambda: self.emit(
                str(self.rng.choice(["Add", "Mul", "Sub"])),
                x,
                self.constant(np.float32(self.rng.choice([0.0, -0.0, 1.0, 2.0]))),
            ),
            lambda: self.emit("Add", x, x),
            lambda: self.emit("Sum", x, x, x),
            lambda: self.emit("Max", x, self.constant(np.float32(1)), self.constant(np.float32(-2))),
            lambda: self.emit("Cast", x, to=f32),
            lambda: self.emit("Unsqueeze", x, self.constant(np.array([self.rng.integers(rank + 1)]))),
            lambda: self.emit("Reshape", x, self.emit("Shape", x)),
            lambda: self.emit("Reshape", x, self.constant(np.array([0, -1] if rank > 1 else [-1]))),
            lambda: self.emit("Flatten", x, axis=int(self.rng.integers(rank + 1))),
            lambda: self.emit("ReduceSumSquare", x, self.constant(np.array([rank - 1])), keepdims=1),
            lambda: self.emit("Concat", x, x, axis=int(self.rng.integers(rank))),
            lambda: self.emit("Where", self.constant(np.array(bool(self.rng.integers(2)))), x, self.emit("Neg", x)),
            lambda: self.emit("Mul", x, self.emit("Add", *[self.constant(np.float32(k)) for k in (1, 2)])),
            lambda: self.emit("Expand", x, self.emit("Shape", x)),
        ]  # fmt: skip
        if rank < 6:
            self.values.append(choices[self.rng.integers(len(choices))]())


PASSES: list[ModulePass] = [
    SimplifyGraphPass(),
    FoldConstantsPass(),
    FoldTransposesPass(),
    FoldBatchNormPass(),
    InferShapesPass(),
    GraphDecomposePass(),
    SpecialiseDimsPass(("n:2",)),
]


@pytest.mark.parametrize("passed", PASSES, ids=lambda p: p.name)
@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
def test_pass_keeps_every_bit(passed: ModulePass, symbolic: bool) -> None:
    if isinstance(passed, SpecialiseDimsPass) and not symbolic:
        pytest.skip("nothing to specialise")
    for seed in range(12):
        program = RandomProgram(seed, symbolic)
        x = np.random.default_rng(seed).integers(-3, 4, (2, 3, 4)).astype(np.float32)
        before = interpret(program.module, [x], resources=program.ctx.resources)
        passed.apply(program.ctx, program.module)
        program.module.verify()
        text = print_module(program.module)
        assert print_module(parse_module(program.ctx, text)) == text
        after = interpret(program.module, [x], resources=program.ctx.resources)
        for old, new in zip(before, after, strict=True):
            assert old.shape == new.shape and old.dtype == new.dtype
            assert old.tobytes() == new.tobytes(), f"seed {seed}"


def test_simplification_ends_where_it_says() -> None:
    for seed in range(25):
        program = RandomProgram(seed, symbolic=True)
        SimplifyGraphPass().apply(program.ctx, program.module)
        text = print_module(program.module)
        SimplifyGraphPass().apply(program.ctx, program.module)
        assert print_module(program.module) == text
        names = [op.ONNX_NAME for op in program.module.walk() if isinstance(op, GraphOp)]
        assert "Identity" not in names
        assert "Cast" not in names


def _merge(program: RandomProgram, names: list[str]) -> list[str]:
    """Merge the products of `program`, which must keep every bit; the operators of `names` that are left."""
    SetTargetPass("x86-64-v4").apply(program.ctx, program.module)
    x = np.random.default_rng(0).integers(-3, 4, (2, 3, 4)).astype(np.float32)
    before = interpret(program.module, [x], resources=program.ctx.resources)
    MergeProductsPass().apply(program.ctx, program.module)
    program.module.verify()
    after = interpret(program.module, [x], resources=program.ctx.resources)
    for old, new in zip(before, after, strict=True):
        assert old.shape == new.shape and old.tobytes() == new.tobytes()
    ops = [op.ONNX_NAME for op in program.module.walk() if isinstance(op, GraphOp)]
    return [name for name in ops if name in names]


@pytest.mark.parametrize("symbolic", [False, True], ids=["static", "symbolic"])
def test_merged_products_keep_every_bit(symbolic: bool) -> None:
    """Products of one tensor with rows to add or without, of many columns or few, beside those that may not be merged."""
    for seed in range(8):
        program = _unfinished(seed, symbolic)
        rng = program.rng
        x = program.emit("Concat", *[program.block.args[0]] * 24, axis=2)
        outputs: list[SSAValue] = []
        for _ in range(rng.integers(2, 5)):
            columns = int(rng.integers(50, 200) if symbolic else rng.integers(300, 600))
            weights = rng.integers(-2, 3, (96, columns)).astype(np.float32)
            y = program.emit("MatMul", x, program.constant(weights))
            if rng.integers(2):
                row = rng.integers(-2, 3, [(columns,), (1, columns), (1,)][rng.integers(3)]).astype(
                    np.float32
                )
                y = program.emit("Add", *[y, program.constant(row)][:: rng.choice([1, -1])])
            outputs.append(program.emit("Transpose", y, perm=[0, 2, 1]))
        other = program.emit(
            "MatMul", program.emit("Neg", x), program.constant(np.ones((96, 300), np.float32))
        )
        _return(program, [*outputs, program.emit("Transpose", other, perm=[2, 0, 1])])
        assert _merge(program, ["MatMul", "Split"]) == ["MatMul", "Split", "MatMul"]


def test_products_with_factors_are_merged() -> None:
    for transposed in (0, 1):
        program = _unfinished(0, symbolic=False)
        rng = program.rng
        x = program.emit("Reshape", program.block.args[0], program.constant(np.array([1, 24])))
        x = program.emit("Concat", *[x] * 8, axis=0 if transposed else 1)
        outputs: list[SSAValue] = []
        depth = 8 if transposed else 192
        for columns, row in ((500, None), (260, (260,)), (700, (1, 700)), (900, (1,))):
            weights = rng.integers(-2, 3, (columns, depth)).astype(np.float32)
            operands = [x, program.constant(weights)]
            if row is not None:
                operands.append(program.constant(rng.integers(-2, 3, row).astype(np.float32)))
            y = program.emit("Gemm", *operands, alpha=0.5, beta=2.0, trans_a=transposed, trans_b=1)
            outputs.append(program.emit("Transpose", y, perm=[1, 0]))
        _return(program, outputs)
        assert _merge(program, ["Gemm", "Split"]) == ["Gemm", "Split"]


def _unfinished(seed: int, symbolic: bool) -> RandomProgram:
    """A random program whose results are not yet chosen."""
    program = RandomProgram(seed, symbolic)
    last = program.block.last_op
    assert last is not None
    program.block.erase_op(last)
    return program


def _return(program: RandomProgram, outputs: list[SSAValue]) -> None:
    """Make `outputs` the results of `program`."""
    function = program.block.parent_op()
    assert isinstance(function, FuncOp)
    program.block.add_op(ReturnOp(*outputs))
    inputs = [a.type for a in program.block.args]
    function.properties["function_type"] = FunctionType.from_lists(inputs, [v.type for v in outputs])


def test_batch_norm_folds_into_every_layer() -> None:
    rng = np.random.default_rng(0)
    layers = [
        ("Conv", (2, 4, 5, 5), (6, 2, 3, 3), {"group": 2}, 6),
        ("ConvTranspose", (2, 4, 5, 5), (4, 3, 2, 2), {"group": 2}, 6),
        ("Gemm", (2, 4), (6, 4), {"trans_b": 1, "alpha": 0.5, "beta": 2.0}, 6),
        ("Gemm", (2, 4), (4, 6), {}, 6),
    ]
    for name, shape, weights, attributes, channels in layers:
        program = RandomProgram(0, symbolic=False)
        block = Block(arg_types=[tensor_type(shape, f32)])
        program.block = block
        parameters = [rng.integers(-3, 4, channels).astype(np.float32) for _ in range(4)]
        variance = rng.integers(1, 5, channels).astype(np.float32)
        values = [rng.integers(-3, 4, weights).astype(np.float32), *parameters, variance]
        w, c, scale, bias, mean, var = (program.constant(value) for value in values)
        y = program.emit(name, block.args[0], w, c, **attributes)
        block.add_op(ReturnOp(program.emit("BatchNormalization", y, scale, bias, mean, var)))
        type = FunctionType.from_lists([block.args[0].type], [y.type])
        module = ModuleOp([FuncOp("main", type, Region(block))])
        x = rng.integers(-3, 4, shape).astype(np.float32)
        (before,) = interpret(module, [x], resources=program.ctx.resources)
        FoldBatchNormPass().apply(program.ctx, module)
        module.verify()
        names = [op.ONNX_NAME for op in module.walk() if isinstance(op, GraphOp)]
        assert "BatchNormalization" not in names
        (after,) = interpret(module, [x], resources=program.ctx.resources)
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-4)
