"""Attention and what goes with it."""

from collections.abc import Sequence

from xdsl.ir import Attribute
from xdsl.irdl import operand_def, opt_operand_def, opt_result_def, result_def
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph.core import (
    TENSOR,
    GraphOp,
    dims,
    element,
    element_type,
    integer,
    operator,
    real,
    require_rank,
    require_same,
    string,
)
from stepwell.dialects.graph.shape import Dim, floordiv, tensor_type


@operator
class AttentionOp(GraphOp):
    """
    `softmax(q k' * scale + mask) v` per head. Operands are `[batch, heads, length, size]`, or `[batch,
    length, heads * size]` with `q_num_heads`, `kv_num_heads`; several heads of q may share one of k and v.
    `past_*` are put in front of k and v, which gives `present_*`; `qk_matmul_output` is a stage of the
    scores.
    """

    q = operand_def(TENSOR)
    k = operand_def(TENSOR)
    v = operand_def(TENSOR)
    attn_mask = opt_operand_def(TENSOR)
    past_key = opt_operand_def(TENSOR)
    past_value = opt_operand_def(TENSOR)
    nonpad_kv_seqlen = opt_operand_def(TENSOR)
    y = result_def(TENSOR)
    present_key = opt_result_def(TENSOR)
    present_value = opt_result_def(TENSOR)
    qk_matmul_output = opt_result_def(TENSOR)
    is_causal = integer(0)
    kv_num_heads = integer(optional=True)
    left_window_size = integer(-1)
    q_num_heads = integer(optional=True)
    qk_matmul_output_mode = integer(0)
    right_window_size = integer(-1)
    scale = real(optional=True)
    softcap = real(0.0)
    softmax_precision = element(optional=True)

    def _heads(self, value: object, count: int | None, what: str) -> list[Dim]:
        shape = require_rank(self, value, 3, 4)  # pyright: ignore[reportArgumentType]
        if len(shape) == 4:
            return shape
        if count is None or count < 1:
            raise VerifyException(
                f"{self.name}: {what} is needed for operands of rank 3, and must be positive"
            )
        batch, length, width = shape
        if isinstance(width, int) and width % count:
            raise VerifyException(f"{self.name}: extent {width} does not divide into {count} heads")
        return [batch, count, length, floordiv(width, count)]

    def output_types(self) -> Sequence[Attribute]:
        q = self._heads(self.q, self.get("q_num_heads"), "q_num_heads")
        k = self._heads(self.k, self.get("kv_num_heads"), "kv_num_heads")
        v = self._heads(self.v, self.get("kv_num_heads"), "kv_num_heads")
        require_same(self, q[3], k[3], "head sizes of q and k")
        require_same(self, k[2], v[2], "lengths of k and v")
        if isinstance(q[1], int) and isinstance(k[1], int) and (k[1] == 0 or q[1] % k[1]):
            raise VerifyException(f"{self.name}: {q[1]} heads of q do not divide by {k[1]} of k")
        found = element_type(self.q)
        total = k[2]
        if self.past_key is not None:
            total = total + require_rank(self, self.past_key, 4)[2]
        four = len(dims(self.q)) == 4
        y = [q[0], q[1], q[2], v[3]] if four else [q[0], q[2], q[1] * v[3]]
        return [
            tensor_type(y, found),
            tensor_type([k[0], k[1], total, k[3]], element_type(self.k)),
            tensor_type([v[0], v[1], total, v[3]], element_type(self.v)),
            tensor_type([q[0], q[1], q[2], total], found),
        ]


@operator
class RotaryEmbeddingOp(GraphOp):
    """
    Rotate pairs of features by the angles whose cosines and sines are given per position (`position_ids`).
    """

    x = operand_def(TENSOR)
    cos_cache = operand_def(TENSOR)
    sin_cache = operand_def(TENSOR)
    position_ids = opt_operand_def(TENSOR)
    y = result_def(TENSOR)
    interleaved = integer(0)
    num_heads = integer(optional=True)
    rotary_embedding_dim = integer(0)

    def output_types(self) -> Sequence[Attribute]:
        shape = require_rank(self, self.x, 3, 4)
        if len(shape) == 3 and not self.get("num_heads"):
            raise VerifyException(f"{self.name}: num_heads is needed for an operand of rank 3")
        return [self.x.type]


@operator
class LinearAttentionOp(GraphOp):
    """Attention without softmax, by a state that each position updates (`update_rule`) and reads."""

    query = operand_def(TENSOR)
    key = operand_def(TENSOR)
    value = operand_def(TENSOR)
    past_state = opt_operand_def(TENSOR)
    decay = opt_operand_def(TENSOR)
    beta = opt_operand_def(TENSOR)
    output = result_def(TENSOR)
    present_state = result_def(TENSOR)
    chunk_size = integer(64)
    kv_num_heads = integer()
    q_num_heads = integer()
    scale = real(0.0)
    update_rule = string("gated_delta")

    def output_types(self) -> Sequence[Attribute]:
        q, k, v = (require_rank(self, x, 3) for x in (self.query, self.key, self.value))
        heads, kv = self.get("q_num_heads"), self.get("kv_num_heads")
        if heads < 1 or kv < 1:
            raise VerifyException(f"{self.name}: q_num_heads {heads} and kv_num_heads {kv} must be positive")
        size, width = floordiv(k[2], kv), floordiv(v[2], kv)
        state_type = (
            element_type(self.past_state) if self.past_state is not None else element_type(self.query)
        )
        return [
            tensor_type([q[0], q[1], heads * width], element_type(self.query)),
            tensor_type([q[0], kv, size, width], state_type),
        ]
