"""Tensors made from sizes, numbers or chance."""

from collections.abc import Sequence
from typing import ClassVar

from xdsl.dialects.builtin import DenseIntOrFPElementsAttr, f32, i32
from xdsl.ir import Attribute
from xdsl.irdl import operand_def, result_def
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph.core import (
    MAX_TRACKED,
    TENSOR,
    GraphOp,
    Known,
    dims,
    element,
    element_type,
    integer,
    integers,
    operator,
    real,
    require_rank,
    same_elements,
    symbolic_value,
    tensor_value,
)
from stepwell.dialects.graph.data_movement import constant_array
from stepwell.dialects.graph.shape import Dim, ceildiv, maximum, sign_of, tensor_type


@operator
class RangeOp(GraphOp):
    """`start, start + delta, ..` up to, without, `limit`."""

    start = operand_def(TENSOR)
    limit = operand_def(TENSOR)
    delta = operand_def(TENSOR)
    output = result_def(TENSOR)
    stash_type = element(f32)

    def output_types(self) -> Sequence[Attribute]:
        found = same_elements(self, *self.operands)
        bounds = [symbolic_value(v) for v in self.operands]
        if all(b is not None and len(b) == 1 for b in bounds):
            start, limit, delta = (b[0] for b in bounds if b is not None)
            if delta == 0:
                raise VerifyException(f"{self.name}: delta must not be 0")
            if isinstance(delta, int) and sign_of(delta) is not None:
                span = limit - start if delta > 0 else start - limit
                return [tensor_type([maximum(ceildiv(span, abs(delta)), 0)], found)]
        arrays = [constant_array(v) for v in self.operands]
        if all(a is not None and a.size == 1 for a in arrays):
            import math

            start, limit, delta = (float(a.item()) for a in arrays)
            if delta == 0 or not all(map(math.isfinite, (start, limit, delta))):
                raise VerifyException(
                    f"{self.name}: bounds {start}, {limit} and delta {delta} must be finite, delta not 0"
                )
            return [tensor_type([max(math.ceil((limit - start) / delta), 0)], found)]
        return [tensor_type([self.fresh(0, 0)], found)]

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        bounds = [known(v) for v in self.operands]
        numbers = [b[0] for b in bounds if b and isinstance(b[0], int)]
        if len(numbers) != 3 or numbers[2] == 0:
            return None
        values = range(*(n for n in numbers if isinstance(n, int)))
        return list(values) if len(values) <= MAX_TRACKED else None


@operator
class ConstantOfShapeOp(GraphOp):
    """A tensor of the given extents, filled with the one element of `value` (0.0 : f32 if absent)."""

    input = operand_def(TENSOR)
    output = result_def(TENSOR)
    value = tensor_value()

    def output_types(self) -> Sequence[Attribute]:
        found = self.value.get_element_type() if isinstance(self.value, DenseIntOrFPElementsAttr) else f32
        (rank,) = require_rank(self, self.input, 1)
        extents = symbolic_value(self.input)
        if not isinstance(rank, int):
            raise VerifyException(
                f"{self.name}: operand {self.input.type} decides the rank; its extent must be known"
            )
        if extents is None:
            extents = [self.fresh(0, i) for i in range(rank)]
        return [tensor_type(extents, found)]

    def symbolic_output(self, index: int, known: Known) -> list[Dim] | None:
        extents = known(self.input)
        if (
            not isinstance(self.value, DenseIntOrFPElementsAttr)
            or not extents
            or not isinstance(extents[0], int)
        ):
            return None
        (number, *_) = self.value.get_values()
        if not isinstance(number, int) or not 0 <= extents[0] <= MAX_TRACKED:
            return None
        elements: list[Dim] = [number] * extents[0]
        return elements


@operator
class EyeLikeOp(GraphOp):
    """Ones on the `k`-th diagonal of a matrix shaped like the operand, zeros elsewhere."""

    input = operand_def(TENSOR)
    output = result_def(TENSOR)
    dtype = element(optional=True)
    k = integer(0)

    def output_types(self) -> Sequence[Attribute]:
        require_rank(self, self.input, 2)
        return [tensor_type(dims(self.input), self.dtype or element_type(self.input))]


class _Random(GraphOp):
    PURE: ClassVar[bool] = False


class _RandomShape(_Random):
    output = result_def(TENSOR)
    dtype = element(f32)
    seed = real(optional=True)
    shape = integers(optional=False)

    def output_types(self) -> Sequence[Attribute]:
        return [tensor_type(self.get("shape"), self.dtype)]


class _RandomLike(_Random):
    input = operand_def(TENSOR)
    output = result_def(TENSOR)
    dtype = element(optional=True)
    seed = real(optional=True)

    def output_types(self) -> Sequence[Attribute]:
        return [tensor_type(dims(self.input), self.dtype or element_type(self.input))]


@operator
class RandomNormalOp(_RandomShape):
    """Random numbers of the normal distribution of the given mean and standard deviation (`scale`)."""

    mean = real(0.0)
    scale = real(1.0)


@operator
class RandomNormalLikeOp(_RandomLike):
    """As `graph.random_normal`, shaped like the operand."""

    mean = real(0.0)
    scale = real(1.0)


@operator
class RandomUniformOp(_RandomShape):
    """Random numbers, uniform in `[low, high)`."""

    high = real(1.0)
    low = real(0.0)


@operator
class RandomUniformLikeOp(_RandomLike):
    """As `graph.random_uniform`, shaped like the operand."""

    high = real(1.0)
    low = real(0.0)


@operator
class BernoulliOp(_RandomLike):
    """1 with the probability that the operand says, else 0."""


@operator
class MultinomialOp(_Random):
    """`sample_size` classes drawn for each row of unnormalised log-probabilities."""

    input = operand_def(TENSOR)
    output = result_def(TENSOR)
    dtype = element(i32)
    sample_size = integer(1)
    seed = real(optional=True)

    def output_types(self) -> Sequence[Attribute]:
        rows = require_rank(self, self.input, 2)[0]
        return [tensor_type([rows, self.get("sample_size")], self.dtype)]


class _SignalWindow(GraphOp):
    size = operand_def(TENSOR)
    output = result_def(TENSOR)
    output_datatype = element(f32)
    periodic = integer(1)

    def output_types(self) -> Sequence[Attribute]:
        size = symbolic_value(self.size)
        return [tensor_type([size[0] if size else self.fresh(0, 0)], self.output_datatype)]


@operator
class BlackmanWindowOp(_SignalWindow):
    """The Blackman window of `size` samples."""


@operator
class HammingWindowOp(_SignalWindow):
    """The Hamming window of `size` samples."""


@operator
class HannWindowOp(_SignalWindow):
    """The Hann window of `size` samples."""


@operator
class MelWeightMatrixOp(GraphOp):
    """
    The weights that map a spectrum of `dft_length // 2 + 1` bins to `num_mel_bins` bins of the mel scale.
    """

    num_mel_bins = operand_def(TENSOR)
    dft_length = operand_def(TENSOR)
    sample_rate = operand_def(TENSOR)
    lower_edge_hertz = operand_def(TENSOR)
    upper_edge_hertz = operand_def(TENSOR)
    output = result_def(TENSOR)
    output_datatype = element(f32)

    def output_types(self) -> Sequence[Attribute]:
        bins, length = symbolic_value(self.num_mel_bins), symbolic_value(self.dft_length)
        rows = length[0] // 2 + 1 if length else self.fresh(0, 0)
        return [tensor_type([rows, bins[0] if bins else self.fresh(0, 1)], self.output_datatype)]
