"""Random models of our own, for the operators that NNSmith lacks: `generate(seed)` is a valid model with its inputs."""

import random
from math import prod

import numpy as np
import onnx
from onnx import helper

from tests.fuzz.build import Builder, Rejected
from tests.fuzz.oracle import Case, Feeds
from tests.fuzz.productions import PRODUCTIONS

EXTENTS = (1, 2, 3, 4, 5, 7, 8, 16, 17, 33, 65, 130)
OPSETS = (13, 17, 18, 20, 21, 22, 23)
OTHER_EXTENTS = (0, 1, 2, 5, 19, 40)
"""Of a dim that is not known."""


def generate(seed: int) -> Case:
    """A model of 1 to 12 productions; about one in ten meets NaN and infinities."""
    rng = random.Random(f"model {seed}")
    b = Builder(rng, rng.choice(OPSETS), wild=rng.random() < 0.08)
    pool = rng.sample(EXTENTS, 3)
    for _ in range(rng.choice([1, 1, 2])):
        b.input(b.random(_shape(rng, pool), np.float32))
    if rng.random() < 0.3:
        b.input(
            b.random(
                _shape(rng, pool),
                rng.choice([np.int64, np.int32, np.float64, np.float16, np.uint8, np.bool_]),
            )
        )
    weights = [weight for _, weight in PRODUCTIONS]
    wanted = rng.choice((1, 2, 3, 4, 5, 6, 8, 12))
    for _ in range(4 * wanted):
        if wanted == 0:
            break
        before = len(b.nodes), len(b.values), set(b.inputs), set(b.initializers)
        production = rng.choices(PRODUCTIONS, weights)[0][0]
        try:
            production(b)
            wanted -= 1
        except Rejected:
            _undo(b, *before)
    return _finished(b, rng)


def _shape(rng: random.Random, pool: list[int]) -> list[int]:
    while True:
        shape = [rng.choice(pool) for _ in range(rng.choice([1, 2, 2, 3, 3, 4, 4]))]
        if prod(shape) <= 6000:
            return shape


def _undo(b: Builder, nodes: int, values: int, inputs: set[str], initializers: set[str]) -> None:
    """Drop what a production left half done."""
    del b.nodes[nodes:], b.values[values:]
    b.inputs = {n: a for n, a in b.inputs.items() if n in inputs}
    b.initializers = {n: a for n, a in b.initializers.items() if n in initializers}


def _finished(b: Builder, rng: random.Random) -> Case:
    """The model of `b`: its outputs, which dims are unknown, and what is fed."""
    made = {name for node in b.nodes for name in node.output}
    from tests.fuzz.build import captured

    read = {name for node in b.nodes for name in node.input}
    for node in b.nodes:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                read |= captured(attribute.g)
    results = [v for v in b.values if v.name in made]
    ends = [v for v in results if v.name not in read]
    outputs = ends + [v for v in results if v.name in read and rng.random() < 0.15]
    used = {n: a for n, a in b.inputs.items() if n in read}
    b.inputs = used or b.inputs
    symbols: dict[int, str] = {}
    extents = sorted({d for a in b.inputs.values() for d in a.shape})
    if extents and rng.random() < 0.4:
        chosen = rng.sample(extents, min(len(extents), rng.choice([1, 1, 2])))
        symbols = {extent: f"n{index}" for index, extent in enumerate(chosen)}
    graph = b.graph("fuzz", outputs, symbols)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", b.opset)], ir_version=10)
    onnx.checker.check_model(model)
    feeds: list[Feeds] = [dict(b.inputs)]
    if symbols:
        for _ in range(2):
            others = {extent: rng.choice(OTHER_EXTENTS) for extent in symbols}
            feeds.append({name: _stretched(b, name, others) for name in b.inputs})
    return Case(model.SerializeToString(), feeds)


def _stretched(b: Builder, name: str, others: dict[int, int]) -> np.ndarray:
    """An input of other extents where these are not known."""
    array = b.inputs[name]
    shape = tuple(d if name in b.known else others.get(d, d) for d in array.shape)
    return array if shape == array.shape else b.random(shape, array.dtype)
