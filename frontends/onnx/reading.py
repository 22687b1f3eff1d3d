"""Get an ONNX model off the disk, and its external weights, without trusting a byte of either."""

import mmap
import os
import stat
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Self

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from stepwell.errors import ImportModelError

_EXTERNAL_KEYS = {"location", "offset", "length", "checksum", "basepath"}
_EXCERPT = 200


def quoted(text: str | bytes) -> str:
    """A name out of the model, safe to print: escaped, at most 200 characters."""
    if isinstance(text, bytes):  # protobuf gives bytes where a string is not UTF-8
        text = text.decode("latin-1")
    shown = text.encode("unicode_escape").decode("ascii").replace('"', '\\"')
    return f'"{shown if len(shown) <= _EXCERPT else shown[:_EXCERPT] + "..."}"'


def failure(where: str, why: str, fix: str) -> ImportModelError:
    """The error for a model that breaks the rules: where: why; what to do."""
    return ImportModelError(f"{where}: {why}; {fix}")


@dataclass
class ExternalFiles:
    """
    The files of weights beside a model, each mapped once.

    The directory is opened with the model, and every component below it with `openat` and `O_NOFOLLOW`: what is
    checked is the opened file, never a name (CVE-2022-25882, CVE-2024-27318, CVE-2026-27489, GHSA-q56x-g2fj-4rj6).
    """

    directory: int | None
    _mapped: dict[str, memoryview] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.directory is not None:
            os.close(self.directory)
            self.directory = None

    def bytes_of(self, tensor: onnx.TensorProto, count: int, where: str) -> memoryview:
        """The `count` bytes that the `external_data` of `tensor` names; no copy is made."""
        entries: dict[str, str] = {}
        for entry in tensor.external_data:
            if entry.key not in _EXTERNAL_KEYS or entry.key in entries:
                why = f"external data has the unknown or repeated key {quoted(entry.key)}"
                raise failure(where, why, f"use only {', '.join(sorted(_EXTERNAL_KEYS))}, each once")
            entries[entry.key] = entry.value
        if not (location := entries.get("location")):
            raise failure(where, "external data names no location", "save the model again")
        file = self._map(location, where)
        offset = self._number(entries, "offset", 0, where)
        length = self._number(entries, "length", len(file) - offset, where)
        if offset > len(file) or length > len(file) - offset:
            why = f"bytes {offset} to {offset + length} lie outside {quoted(location)} of {len(file)} bytes"
            raise failure(
                where, why, "the file of weights is cut off or belongs to another model: copy it again"
            )
        if length != count:
            why = f"{length} bytes of external data for a tensor of {count} bytes"
            raise failure(where, why, "save the model again")
        return file[offset : offset + length]

    @staticmethod
    def _number(entries: dict[str, str], key: str, default: int, where: str) -> int:
        text = entries.get(key)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 19):
            raise failure(
                where, f"external data has the {key} {quoted(text)}", "give a decimal number of bytes"
            )
        return int(text)

    def _map(self, location: str, where: str) -> memoryview:
        if (known := self._mapped.get(location)) is not None:
            return known
        if self.directory is None:
            why = (
                f"the weights are in the file {quoted(location)}, and a model given as bytes has no directory"
            )
            raise failure(where, why, "give the path of the model file, or embed the weights")
        parts = location.replace("\\", "/").split("/")
        while parts[:1] == ["."]:
            parts.pop(0)
        if "\0" in location or ":" in location or any(part in ("", ".", "..") for part in parts):
            why = (
                f"external data at {quoted(location)}, which is no relative path below the model's directory"
            )
            raise failure(where, why, "put the weights beside the model")
        folder = self.directory
        opened: list[int] = []
        try:
            for part in parts[:-1]:
                folder = os.open(
                    part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder
                )
                opened.append(folder)
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.open(parts[-1], flags, dir_fd=folder)
            opened.append(file)
            facts = os.fstat(file)
            if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1:
                why = f"external data at {quoted(location)}, which is no plain file with one name"
                raise failure(where, why, "put a copy of the weights beside the model, no link and no device")
            mapped = mmap.mmap(file, 0, access=mmap.ACCESS_READ) if facts.st_size else b""
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            why = f"cannot open the external data {quoted(location)}: {reason}"
            raise failure(where, why, "put the weights beside the model, without links") from None
        finally:
            for descriptor in opened:
                os.close(descriptor)
        self._mapped[location] = memoryview(mapped)
        return self._mapped[location]


@dataclass
class Source:
    """A model, the name that errors give it, and where its external weights may be."""

    label: str
    model: onnx.ModelProto
    files: ExternalFiles


def read_model(source: str | os.PathLike[str] | bytes | onnx.ModelProto) -> Source:
    """Read `source` (a path, the bytes of a file, or a model); only its outermost form is checked here."""
    if isinstance(source, onnx.ModelProto):
        return Source("model", source, ExternalFiles(None))
    if isinstance(source, bytes | bytearray | memoryview):
        return Source("model", _parse(bytes(source), "model"), ExternalFiles(None))
    path = Path(source)
    label = quoted(path.name)[1:-1]
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(file, "rb") as stream:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise failure(label, "not a regular file", "give the path of an .onnx file")
            data = stream.read()
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise failure(label, f"cannot be read: {reason}", "check the path") from None
    try:
        return Source(label, _parse(data, label), ExternalFiles(directory))
    except BaseException:
        os.close(directory)
        raise


def _parse(data: bytes, label: str) -> onnx.ModelProto:
    if not data:
        raise failure(label, "the file is empty", "export or copy the model again")
    if data[4:8] == b"ORTM":
        raise failure(
            label, "this is ONNX Runtime's own .ort format", "give the .onnx file that it was made from"
        )
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        why = "not an ONNX model, or cut off (its protobuf cannot be decoded)"
        raise failure(label, why, "export or copy the model again") from None
    if not model.HasField("graph"):
        raise failure(label, "the file holds no graph", "give an .onnx model file")
    return model


MAX_TENSOR_BYTES = 1 << 38
"""No tensor of a model may be larger (256 GiB): far below where 64-bit sizes overflow."""


def checked_count(dims: list[int], where: str) -> int:
    """The number of elements of a tensor of the file; negative or absurd extents are errors."""
    if len(dims) > 64:
        raise failure(where, f"a tensor of rank {len(dims)}", "use at most 64 dimensions")
    count = 1
    for extent in dims:
        if extent < 0:
            raise failure(where, f"a tensor with the extent {extent}", "extents are at least 0")
        count *= extent
    if prod(extent or 1 for extent in dims) > MAX_TENSOR_BYTES:
        raise failure(
            where, f"a tensor {dims[:8]} of too many elements", f"the limit is {MAX_TENSOR_BYTES} bytes"
        )
    return count


_T = onnx.TensorProto
_STORED_IN: dict[int, str] = {
    **dict.fromkeys((_T.FLOAT, _T.COMPLEX64), "float_data"),
    **dict.fromkeys((_T.DOUBLE, _T.COMPLEX128), "double_data"),
    **dict.fromkeys((_T.UINT32, _T.UINT64), "uint64_data"),
    _T.INT64: "int64_data",
    _T.STRING: "string_data",
}
_FIELDS = ("float_data", "int32_data", "int64_data", "uint64_data", "double_data", "string_data")
_PACKED_BITS = {
    getattr(_T, name): bits
    for name, bits in {"UINT4": 4, "INT4": 4, "FLOAT4E2M1": 4, "UINT2": 2, "INT2": 2}.items()
    if hasattr(_T, name)
}


def array_of(tensor: onnx.TensorProto, files: ExternalFiles, where: str) -> np.ndarray:
    """
    The value of a tensor of the file, without a copy where it is raw or external.
    Errors: an unknown type, data that do not fill the shape exactly, data in more than one place.
    """
    kind, dims = tensor.data_type, list(tensor.dims)
    count = checked_count(dims, where)
    if tensor.HasField("segment"):
        raise failure(where, "a segmented tensor", "save the tensor in one piece")
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    except KeyError:
        raise failure(
            where, f"a tensor of the unknown type {kind}", "save the model with a newer exporter"
        ) from None
    bits = _PACKED_BITS.get(kind)
    nbytes = -(-count * bits // 8) if bits else count * dtype.itemsize
    typed = [name for name in _FIELDS if getattr(tensor, name)]
    raw = tensor.HasField("raw_data")
    external = tensor.data_location == _T.EXTERNAL
    if len(typed) + (raw and bool(tensor.raw_data)) + external > 1:
        raise failure(where, "a tensor whose data stand in two places", "save the model again")
    if kind == _T.STRING:
        if raw or external or (typed not in ([], ["string_data"])) or len(tensor.string_data) != count:
            why = f"a string tensor of {count} elements with {len(tensor.string_data)} strings"
            raise failure(where, why, "save the model again")
        return np.array(list(tensor.string_data), dtype=object).reshape(dims)
    if external:
        return _from_bytes(files.bytes_of(tensor, nbytes, where), kind, dtype, dims, bits)
    if raw or not typed:
        data = tensor.raw_data
        if len(data) != nbytes:
            raise failure(
                where, f"{len(data)} bytes of data for a tensor {dims} of {nbytes} bytes", "save it again"
            )
        return _from_bytes(data, kind, dtype, dims, bits)
    stored = _STORED_IN.get(kind, "int32_data")
    if typed != [stored]:
        raise failure(
            where, f"a tensor of type {_T.DataType.Name(kind)} with {typed[0]}", f"store it as {stored}"
        )
    wanted = nbytes if bits else count * (2 if kind in (_T.COMPLEX64, _T.COMPLEX128) else 1)
    if (got := len(getattr(tensor, stored))) != wanted:
        raise failure(where, f"{got} numbers for a tensor {dims} of {wanted}", "save the model again")
    if not bits:
        values = getattr(tensor, stored)
        if kind in (_T.FLOAT, _T.DOUBLE, _T.INT64, _T.UINT64):
            return np.array(values, dtype=dtype).reshape(dims)
        if kind in (_T.BOOL, _T.INT32, _T.INT16, _T.INT8, _T.UINT8, _T.UINT16):
            return np.array(values, dtype=np.int32).astype(dtype).reshape(dims)
    return onnx.numpy_helper.to_array(tensor)


def _from_bytes(
    data: bytes | memoryview, kind: int, dtype: np.dtype, dims: list[int], bits: int | None
) -> np.ndarray:
    if bits:
        proto = onnx.TensorProto(data_type=kind, dims=dims, raw_data=bytes(data))
        return onnx.numpy_helper.to_array(proto)
    if kind == _T.BOOL:
        return (np.frombuffer(data, dtype=np.uint8) != 0).reshape(dims)
    return np.frombuffer(data, dtype=dtype.newbyteorder("<") if dtype.itemsize > 1 else dtype).reshape(dims)


def sparse_array_of(sparse: onnx.SparseTensorProto, files: ExternalFiles, where: str) -> np.ndarray:
    """The dense value of a sparse tensor of the file (COO: linear or coordinate indices)."""
    dims = list(sparse.dims)
    count = checked_count(dims, where)
    values = array_of(sparse.values, files, where)
    indices = array_of(sparse.indices, files, where)
    if count * values.itemsize > 1 << 30:
        raise failure(where, f"a sparse tensor of {count} elements", "the limit of a dense one is 1 GiB")
    if indices.dtype != np.int64 or values.ndim != 1:
        raise failure(
            where, "a sparse tensor whose values are no list or whose indices are not int64", "save it again"
        )
    if indices.ndim == 2 and indices.shape == (len(values), len(dims)):
        if ((indices < 0) | (indices >= np.array(dims))).any():
            raise failure(where, "a sparse tensor with an index out of range", "save the model again")
        indices = np.ravel_multi_index(tuple(indices.T), tuple(dims)) if len(values) else indices.reshape(-1)
    if indices.shape != values.shape or ((indices < 0) | (indices >= count)).any():
        raise failure(where, "a sparse tensor whose indices do not fit its values", "save the model again")
    dense = np.zeros(count, values.dtype)
    dense[indices] = values
    return dense.reshape(dims)
