"""Recurrent layers: the input's projection is one contraction over all steps, the rest a loop over time."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from xdsl.dialects import arith
from xdsl.ir import SSAValue

from stepwell.conversion.graph_to_linalg.contraction import matmul
from stepwell.conversion.graph_to_linalg.data_movement import concat
from stepwell.conversion.graph_to_linalg.indexing import loop
from stepwell.conversion.graph_to_linalg.lowering import Lowering, Shape, dims, lowers
from stepwell.conversion.graph_to_linalg.scalar import Scalar
from stepwell.diagnostics import unsupported
from stepwell.dialects.graph.shape import Dim

_ACTIVATIONS: dict[str, Callable[[Scalar], Scalar]] = {
    "sigmoid": Scalar.sigmoid,
    "tanh": Scalar.tanh,
    "relu": lambda x: x.maximum(0.0),
    "hardsigmoid": lambda x: (x * 0.2 + 0.5).clamp(0.0, 1.0),
    "softsign": lambda x: x / (x.absolute() + 1.0),
}


class _Layer:
    """One direction of a recurrent op, with its weights cut out and transposed."""

    def __init__(self, low: Lowering, op: Any, gates: int, direction: int, defaults: Sequence[str]):
        self.low, self.op, self.direction = low, op, direction
        x, w, r, b, lengths = [*low.operands(op), None, None, None][:5]
        self.batch_first = bool(low.attr(op, "layout"))
        self.clip = low.attr(op, "clip")
        self.lengths = lengths
        self.x = x = low.transpose(x, [1, 0, 2]) if self.batch_first else x
        hidden = low.attr(op, "hidden_size") or low.shape(r)[-1]
        assert isinstance(hidden, int), "the checks refuse recurrent weights of unknown shape"
        self.hidden = hidden
        self.element = low.element(x)
        self.time, self.batch, _ = low.shape(x)
        self.gates = gates
        self.w = self._cut(w)
        self.r = self._cut(r)
        self.b = None if b is None else self._bias(b)
        names = [n.lower() for n in (low.attr(op, "activations") or [])]
        names = names[direction * len(defaults) : (direction + 1) * len(defaults)] or list(defaults)
        unknown = [n for n in names if n not in _ACTIVATIONS]
        if unknown:
            raise unsupported(op, f"the activation {unknown[0]}", f"use {', '.join(_ACTIVATIONS)}")
        self.functions = [self._clipped(_ACTIVATIONS[n]) for n in names]
        kind = low.attr(op, "direction") or "forward"
        self.reverse = kind == "reverse" or (kind == "bidirectional" and direction == 1)

    def _clipped(self, function: Callable[[Scalar], Scalar]) -> Callable[[Scalar], Scalar]:
        """The activation of an input held between `-clip` and `clip`."""
        clip = self.clip
        return function if clip is None else lambda x: function(x.clamp(-clip, clip))

    def _cut(self, weights: SSAValue) -> SSAValue:
        """This direction's `[gates * hidden, n]` as `[n, gates * hidden]`."""
        low = self.low
        shape = low.shape(weights)
        if (array := low.data(weights)) is not None:
            return low.tensor_constant(np.ascontiguousarray(array[self.direction].T), low.element(weights))
        piece = low.reshape(low.slice(weights, [self.direction, 0, 0], [1, *shape[1:]]), shape[1:])
        return low.transpose(piece, [1, 0])

    def _bias(self, b: SSAValue) -> tuple[SSAValue, SSAValue]:
        """The biases of the input's side and of the recurrence."""
        low, width = self.low, self.gates * self.hidden
        if (array := low.data(b)) is not None:
            row = array[self.direction]
            return low.tensor_constant(row[:width].copy()), low.tensor_constant(row[width:].copy())
        pieces = [low.slice(b, [self.direction, at], [1, width]) for at in (0, width)]
        return low.reshape(pieces[0], (width,)), low.reshape(pieces[1], (width,))

    def state(self, position: int) -> SSAValue:
        """The initial state that is operand `position`, or zeros."""
        low = self.low
        values = [*low.operands(self.op), *[None] * 8]
        shape = (self.batch, self.hidden)
        given = values[position]
        if given is None:
            return low.fill(0.0, shape, self.element)
        if self.batch_first:
            given = low.transpose(given, [1, 0, 2])
        return low.reshape(low.slice(given, [self.direction, 0, 0], [1, *shape]), shape)

    def peepholes(self, position: int) -> list[SSAValue] | None:
        """This direction's weights of the cell in operand `position`, one vector a gate; None if absent."""
        low = self.low
        given = [*low.operands(self.op), *[None] * 8][position]
        if given is None:
            return None
        return [
            low.reshape(low.slice(given, [self.direction, k * self.hidden], [1, self.hidden]), (self.hidden,))
            for k in range(3)
        ]

    def projected(self) -> SSAValue:
        """`x @ w + bias` of all steps: `[time, batch, gates * hidden]`."""
        low = self.low
        product = matmul(low, self.x, self.w)
        if self.b is None:
            return product
        return low.map(lambda v, b: v + b, [product, self.b[0]], low.shape(product), self.element)

    def run(
        self, states: list[SSAValue], step: Callable[[SSAValue, list[SSAValue]], list[SSAValue]]
    ) -> tuple[SSAValue, list[SSAValue]]:
        """
        The loop over time: `step(projection of the step, states)` gives the next states, the first of which is
        the output. Beyond the length of a sequence its states stay and its output is 0.
        """
        low = self.low
        inputs = self.projected()
        width = low.shape(inputs)[-1]
        out: Shape = (self.time, self.batch, self.hidden)
        result = low.empty(out, self.element)

        def body(i: SSAValue, carried: list[SSAValue]) -> list[SSAValue]:
            total, *now = carried
            t = i
            if self.reverse:
                last = low.value(arith.SubiOp(low.index(self.time), low.constant(1)))
                t = low.value(arith.SubiOp(last, i))
            at: Dim = low.dim_of(t)
            piece = low.reshape(low.slice(inputs, [at, 0, 0], [1, self.batch, width]), (self.batch, width))
            following = step(piece, now)
            output = following[0]
            if self.lengths is not None:
                output = self._masked(t, following[0], None)
                following = [self._masked(t, new, old) for new, old in zip(following, now, strict=True)]
            line = low.reshape(output, (1, self.batch, self.hidden))
            return [low.insert(line, total, [at, 0, 0]), *following]

        outputs, *final = loop(low, self.time, [result, *states], body)
        return outputs, final

    def _masked(self, t: SSAValue, new: SSAValue, old: SSAValue | None) -> SSAValue:
        """`new` where step `t` is within the sequence, else `old` (0 if None)."""
        low = self.low
        d = dims(2)
        inputs = [self.lengths, new] if old is None else [self.lengths, new, old]

        def body(length: Scalar, v: Scalar, *before: Scalar) -> Scalar:
            inside = v.body.wrap(t).below(length.as_index())
            return v.body.select(inside, v, before[0] if before else 0.0)

        at: list[Any] = [[d[0]], d, d][: len(inputs)]
        return low.map(body, inputs, low.shape(new), self.element, at=at)

    def recurrent(self, h: SSAValue) -> SSAValue:
        """`h @ r`: `[batch, gates * hidden]`."""
        return matmul(self.low, h, self.r)

    def map(
        self, body: Callable[..., Scalar], inputs: Sequence[SSAValue], shape: Shape, at: Any = None
    ) -> SSAValue:
        return self.low.map(body, inputs, shape, self.element, at=at)

    def cut_columns(self, weights: SSAValue, start: int, count: int) -> SSAValue:
        """Columns of a weight matrix."""
        low = self.low
        if (array := low.data(weights)) is not None:
            return low.tensor_constant(
                np.ascontiguousarray(array[:, start : start + count]), low.element(weights)
            )
        return low.slice(weights, [0, start], [low.shape(weights)[0], count])

    def gates_of(self, sums: SSAValue) -> list[SSAValue]:
        """The gates in `[batch, gates * hidden]` or `[gates * hidden]`, cut apart."""
        low, lead = self.low, self.low.shape(sums)[:-1]
        return [
            low.slice(sums, [*([0] * len(lead)), k * self.hidden], [*lead, self.hidden])
            for k in range(self.gates)
        ]


def _results(low: Lowering, op: Any, outputs: list[SSAValue], finals: list[list[SSAValue]]) -> list[SSAValue]:
    """Y `[time, directions, batch, hidden]` and the final states `[directions, batch, hidden]`."""

    def stacked(values: list[SSAValue], axis: int) -> SSAValue:
        grown = [low.reshape(v, (*low.shape(v)[:axis], 1, *low.shape(v)[axis:])) for v in values]
        return concat(low, grown, axis)

    listed = op.result_list()
    batch_first = bool(low.attr(op, "layout"))
    made: list[SSAValue] = []
    for i, result in enumerate(listed):
        if result is None:
            continue
        value = stacked(outputs, 1) if i == 0 else stacked([f[i - 1] for f in finals], 0)
        if batch_first:  # [batch, time, directions, hidden] and [batch, directions, hidden]
            value = low.transpose(value, [2, 0, 1, 3] if i == 0 else [1, 0, 2])
        made.append(value)
    return made


def _every_direction(
    low: Lowering, op: Any, one: Callable[[Lowering, Any, int], tuple[SSAValue, list[SSAValue]]]
) -> list[SSAValue]:
    """The results of an op from `one` direction's outputs and final states."""
    count = 2 if low.attr(op, "direction") == "bidirectional" else 1
    outputs, finals = zip(*(one(low, op, d) for d in range(count)), strict=True)
    return _results(low, op, list(outputs), list(finals))


# i, o, f, c = split(x W' + h R' + b), i and f with a term p * C of the old C, o of the new one (peepholes);
# C = f * C + i * g(c);  H = o * h(C)
@lowers("lstm")
def _lstm(low: Lowering, op: Any) -> list[SSAValue]:
    return _every_direction(low, op, _lstm_direction)


def _lstm_direction(low: Lowering, op: Any, direction: int) -> tuple[SSAValue, list[SSAValue]]:
    layer = _Layer(low, op, 4, direction, ["sigmoid", "tanh", "tanh"])
    f, g, h = layer.functions
    shape: Shape = (layer.batch, layer.hidden)
    bias = [] if layer.b is None else [layer.b[1]]

    peepholes = layer.peepholes(7)
    coupled = bool(low.attr(op, "input_forget"))
    along = dims(2)[1:]

    def cell(i: Scalar, forget: Scalar, candidate: Scalar, c: Scalar, *p: Scalar) -> Scalar:
        enter = f(i + p[0] * c) if p else f(i)
        keep = 1.0 - enter if coupled else f(forget + p[2] * c) if p else f(forget)
        return keep * c + enter * g(candidate)

    def output(o: Scalar, c: Scalar, *p: Scalar) -> Scalar:
        return f(o + p[0] * c if p else o) * h(c)

    def step(piece: SSAValue, states: list[SSAValue]) -> list[SSAValue]:
        sums = layer.map(_sum, [piece, layer.recurrent(states[0]), *bias], low.shape(piece))
        enter, leave, forget, fresh = layer.gates_of(sums)
        d = dims(2)
        extra = peepholes or []
        new = layer.map(
            cell, [enter, forget, fresh, states[1], *extra], shape, [d] * 4 + [along] * len(extra)
        )
        late = extra[1:2]
        return [layer.map(output, [leave, new, *late], shape, [d] * 2 + [along] * len(late)), new]

    return layer.run([layer.state(5), layer.state(6)], step)


def _sum(*values: Scalar) -> Scalar:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


# z, r = f(x W' + h R' + b);  n = g(x W' + (r * h) R' + b), or r * (h R' + b) inside;  H = (1 - z) * n + z * H
@lowers("gru")
def _gru(low: Lowering, op: Any) -> list[SSAValue]:
    return _every_direction(low, op, _gru_direction)


def _gru_direction(low: Lowering, op: Any, direction: int) -> tuple[SSAValue, list[SSAValue]]:
    late = bool(low.attr(op, "linear_before_reset"))
    layer = _Layer(low, op, 3, direction, ["sigmoid", "tanh"])
    f, g = layer.functions
    hidden = layer.hidden
    shape: Shape = (layer.batch, hidden)
    zeros = low.tensor_constant(np.zeros(3 * hidden, np.float32), layer.element)
    bias = zeros if layer.b is None else layer.b[1]
    candidate = layer.r if late else layer.cut_columns(layer.r, 2 * hidden, hidden)

    biases = layer.gates_of(bias)

    def step(piece: SSAValue, states: list[SSAValue]) -> list[SSAValue]:
        (old,) = states
        inputs, sums = layer.gates_of(piece), layer.gates_of(layer.recurrent(old))
        update, reset = (
            layer.map(lambda a, b, c: f(a + b + c), [inputs[k], sums[k], biases[k]], shape) for k in (0, 1)
        )
        if late:
            values = [inputs[2], reset, sums[2], biases[2]]
            fresh = layer.map(lambda a, r, b, c: g(a + r * (b + c)), values, shape)
        else:
            inner = matmul(low, layer.map(lambda r, h: r * h, [reset, old], shape), candidate)
            fresh = layer.map(lambda a, b, c: g(a + b + c), [inputs[2], inner, biases[2]], shape)
        return [layer.map(lambda z, n, h: (1.0 - z) * n + z * h, [update, fresh, old], shape)]

    return layer.run([layer.state(5)], step)


@lowers("rnn")
def _rnn(low: Lowering, op: Any) -> list[SSAValue]:
    return _every_direction(low, op, _rnn_direction)


def _rnn_direction(low: Lowering, op: Any, direction: int) -> tuple[SSAValue, list[SSAValue]]:
    layer = _Layer(low, op, 1, direction, ["tanh"])
    (f,) = layer.functions
    shape: Shape = (layer.batch, layer.hidden)
    bias = [] if layer.b is None else [layer.b[1]]

    def step(piece: SSAValue, states: list[SSAValue]) -> list[SSAValue]:
        return [layer.map(lambda *v: f(_sum(*v)), [piece, layer.recurrent(states[0]), *bias], shape)]

    return layer.run([layer.state(5)], step)
