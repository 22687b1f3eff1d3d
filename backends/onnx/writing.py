"""An ONNX model in a file: checked before it is written, large weights beside it."""

from pathlib import Path

import onnx
from onnx import external_data_helper
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp

from stepwell.backends.onnx.exporting import export_onnx
from stepwell.errors import CompileError, InternalError
from stepwell.files import write_atomically

_INSIDE_BYTES = 1 << 30
"""Weights that are written into the model itself; a protocol buffer ends at 2 GiB."""


def write_onnx(module: ModuleOp, ctx: Context, path: Path, inside_bytes: int = _INSIDE_BYTES) -> None:
    """
    Write `module` as an ONNX model to `path`. Weights of more than `inside_bytes` in all go to `<name>.data`
    beside it, as ONNX's external data.
    """
    model = export_onnx(module, ctx)
    outside = sum(len(weight.raw_data) for weight in model.graph.initializer) > inside_bytes
    if not outside:
        try:
            onnx.checker.check_model(model)
        except onnx.checker.ValidationError as error:
            raise InternalError(f"{path}: the exported model is not valid: {error}") from error
    try:
        if outside:
            data = f"{path.name}.data"
            (path.parent / data).unlink(missing_ok=True)  # onnx appends to what is there
            external_data_helper.convert_model_to_external_data(model, location=data, size_threshold=1024)
            external_data_helper.write_external_data_tensors(model, str(path.parent))
        write_atomically(path, model.SerializeToString())
    except OSError as error:
        raise CompileError(f"{path}: cannot be written: {error.strerror}; choose another place") from error
