"""The `graph` dialect: whole operators on tensors, as in ONNX; one op per meaning, one file per family.

See `docs/dialects/graph.md`; the law of names is in `docs/levels.md`.
"""

from xdsl.ir import Dialect

from stepwell.dialects.graph import core as _core
from stepwell.dialects.graph.attention import *  # noqa: F403
from stepwell.dialects.graph.classical import *  # noqa: F403
from stepwell.dialects.graph.contraction import *  # noqa: F403
from stepwell.dialects.graph.control_flow import *  # noqa: F403
from stepwell.dialects.graph.control_flow import YieldOp
from stepwell.dialects.graph.core import (
    GraphOp,
    attribute_of,
    fresh_symbol,
    known_integers,
    snake_case,
    symbolic_value,
    value_of,
)
from stepwell.dialects.graph.creation import *  # noqa: F403
from stepwell.dialects.graph.data_movement import *  # noqa: F403
from stepwell.dialects.graph.elementwise import *  # noqa: F403
from stepwell.dialects.graph.image import *  # noqa: F403
from stepwell.dialects.graph.indexing import *  # noqa: F403
from stepwell.dialects.graph.loss import *  # noqa: F403
from stepwell.dialects.graph.normalization import *  # noqa: F403
from stepwell.dialects.graph.pooling import *  # noqa: F403
from stepwell.dialects.graph.quantization import *  # noqa: F403
from stepwell.dialects.graph.recurrent import *  # noqa: F403
from stepwell.dialects.graph.reduction import *  # noqa: F403
from stepwell.dialects.graph.sequence import *  # noqa: F403
from stepwell.dialects.graph.shape import Dim, Expr, ShapeAttr, compatible, dims_of, symbol, tensor_type
from stepwell.dialects.graph.trees import *  # noqa: F403
from stepwell.dialects.graph.types import (
    ONNX_ELEMENTS,
    STRING,
    MapType,
    NothingType,
    OptionalType,
    SequenceType,
    StringType,
    dense_from_numpy,
    element_of,
    held,
    joined,
    numpy_dtype,
    numpy_from_dense,
)

ONNX_NAMES: dict[str, type[GraphOp]] = dict(sorted(_core.OPERATORS.items()))
"""ONNX operator (of the default domain) to the class of its op."""

_TYPES = [StringType, SequenceType, OptionalType, MapType, NothingType]
GRAPH = Dialect("graph", [*ONNX_NAMES.values(), YieldOp], [ShapeAttr, *_TYPES])

__all__ = [
    "GRAPH",
    "ONNX_ELEMENTS",
    "ONNX_NAMES",
    "STRING",
    "Dim",
    "Expr",
    "GraphOp",
    "MapType",
    "NothingType",
    "OptionalType",
    "SequenceType",
    "ShapeAttr",
    "StringType",
    "YieldOp",
    "attribute_of",
    "compatible",
    "dense_from_numpy",
    "dims_of",
    "element_of",
    "fresh_symbol",
    "held",
    "joined",
    "known_integers",
    "numpy_dtype",
    "numpy_from_dense",
    "snake_case",
    "symbol",
    "symbolic_value",
    "tensor_type",
    "value_of",
    *(c.__name__ for c in ONNX_NAMES.values()),
]
