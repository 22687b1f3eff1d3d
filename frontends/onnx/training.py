"""Operators of `ai.onnx.preview.training`: steps of optimisers, and gradients."""

from collections.abc import Callable, Sequence

import numpy as np
from xdsl.ir import SSAValue

from stepwell.frontends.onnx.gradient import gradients
from stepwell.frontends.onnx.upgrades import Call, Emitter, Rule
from stepwell.frontends.onnx.writing import cast, one, operand, scalar

TRAINING_DOMAIN = "ai.onnx.preview.training"

TRAINING: dict[str, Rule] = {}
"""Operator name to the rule that returns its results."""

Step = Callable[[Call, Emitter, Sequence[SSAValue]], Sequence[SSAValue]]
"""From what belongs to one tensor (itself, its gradient, its state) to its new value and state."""


def _optimiser(op: str, parts: int) -> Callable[[Step], Step]:
    """Enter a step: rate, count of updates, then `parts` lists of tensors; results are the lists but the gradients."""

    def enter(step: Step) -> Step:
        def rule(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
            count = (len(call.operands) - 2) // parts
            if count < 1 or len(call.operands) != 2 + parts * count:
                why = f"{len(call.operands)} inputs, where 2 and {parts} for each tensor belong"
                raise emitter.error(call, why, "export the model again")
            lists = [[operand(call, 2 + part * count + k) for part in range(parts)] for k in range(count)]
            made = [step(call, emitter, values) for values in lists]
            return [result for column in zip(*made, strict=True) for result in column]

        TRAINING[op] = rule
        return step

    return enter


def _times(emitter: Emitter, value: SSAValue, factor: float) -> SSAValue:
    return value if factor == 1.0 else one(emitter, "Mul", value, scalar(emitter, value, factor))


def _regularised(call: Call, emitter: Emitter, x: SSAValue, gradient: SSAValue) -> SSAValue:
    """The gradient with that of `norm_coefficient / 2 * |x|^2`."""
    factor = call.attributes.get("norm_coefficient", 0.0)
    return gradient if not factor else one(emitter, "Add", _times(emitter, x, factor), gradient)


# h' = h + g^2, x' = x - rate / (1 + count * decay) * g / (sqrt(h') + epsilon)
@_optimiser("Adagrad", 3)
def _adagrad(call: Call, emitter: Emitter, values: Sequence[SSAValue]) -> Sequence[SSAValue]:
    x, gradient, history = values
    rate, count, attributes = operand(call), operand(call, 1), call.attributes
    gradient = _regularised(call, emitter, x, gradient)
    slowed = _times(emitter, cast(emitter, count, emitter.dtype(x)), attributes["decay_factor"])
    step = one(
        emitter,
        "Div",
        cast(emitter, rate, emitter.dtype(x)),
        one(emitter, "Add", slowed, scalar(emitter, x, 1.0)),
    )
    history = one(emitter, "Add", history, one(emitter, "Mul", gradient, gradient))
    size = one(emitter, "Add", one(emitter, "Sqrt", history), scalar(emitter, x, attributes["epsilon"]))
    moved = one(emitter, "Div", one(emitter, "Mul", step, gradient), size)
    return [one(emitter, "Sub", x, moved), history]


# v' = alpha v + (1 - alpha) g, h' = beta h + (1 - beta) g^2, x' = x - rate' * v' / (sqrt(h') + epsilon), where from the
# first update on rate' = rate * sqrt(1 - beta^count) / (1 - alpha^count)
@_optimiser("Adam", 4)
def _adam(call: Call, emitter: Emitter, values: Sequence[SSAValue]) -> Sequence[SSAValue]:
    x, gradient, velocity, history = values
    attributes, dtype = call.attributes, emitter.dtype(x)
    alpha, beta = attributes["alpha"], attributes["beta"]
    gradient = _regularised(call, emitter, x, gradient)
    velocity = one(emitter, "Add", _times(emitter, velocity, alpha), _times(emitter, gradient, 1 - alpha))
    square = one(emitter, "Mul", gradient, gradient)
    history = one(emitter, "Add", _times(emitter, history, beta), _times(emitter, square, 1 - beta))
    size = one(emitter, "Add", one(emitter, "Sqrt", history), scalar(emitter, x, attributes["epsilon"]))
    rate, count, unit = (
        cast(emitter, operand(call), dtype),
        cast(emitter, operand(call, 1), dtype),
        scalar(emitter, x, 1.0),
    )
    lacks = [
        one(emitter, "Sub", unit, one(emitter, "Pow", scalar(emitter, x, b), count)) for b in (alpha, beta)
    ]
    adjusted = one(emitter, "Div", one(emitter, "Mul", rate, one(emitter, "Sqrt", lacks[1])), lacks[0])
    started = one(emitter, "Greater", count, scalar(emitter, x, 0.0))
    step = one(emitter, "Where", started, adjusted, rate)
    moved = one(emitter, "Div", one(emitter, "Mul", step, velocity), size)
    result = _times(emitter, one(emitter, "Sub", x, moved), 1 - attributes["norm_coefficient_post"])
    return [result, velocity, history]


# v' = alpha v + beta g (beta is 1 in the first update), x' = x - rate * v', or with Nesterov x - rate * (g + alpha v')
@_optimiser("Momentum", 3)
def _momentum(call: Call, emitter: Emitter, values: Sequence[SSAValue]) -> Sequence[SSAValue]:
    x, gradient, velocity = values
    attributes, dtype = call.attributes, emitter.dtype(x)
    if attributes["mode"] not in ("standard", "nesterov"):
        raise emitter.error(call, f"the mode {attributes['mode']!r}", "use standard or nesterov")
    gradient = _regularised(call, emitter, x, gradient)
    count = operand(call, 1)
    started = one(emitter, "Greater", count, emitter.constant(np.array(0, emitter.dtype(count))))
    beta = one(emitter, "Where", started, scalar(emitter, x, attributes["beta"]), scalar(emitter, x, 1.0))
    velocity = one(
        emitter, "Add", _times(emitter, velocity, attributes["alpha"]), one(emitter, "Mul", beta, gradient)
    )
    step = velocity
    if attributes["mode"] == "nesterov":
        step = one(emitter, "Add", gradient, _times(emitter, velocity, attributes["alpha"]))
    rate = cast(emitter, operand(call), dtype)
    return [one(emitter, "Sub", x, one(emitter, "Mul", rate, step)), velocity]


def _gradient(call: Call, emitter: Emitter) -> Sequence[SSAValue]:
    """The derivatives of `y` by each of `xs`, at the values that they have in the model."""
    names = call.attributes["xs"]
    inputs = [emitter.named(name) for name in (*names, *call.attributes.get("zs", []))]
    if list(call.operands) != inputs:
        raise emitter.missing(
            call, "a gradient at other values than the model's", "differentiate where it is computed"
        )
    return gradients(call, emitter, emitter.named(call.attributes["y"]), inputs[: len(names)])


TRAINING["Gradient"] = _gradient
