"""Weights outside the IR: the store behind `dense_resource<key>`, and its sidecar files.

A blob is a run of bytes under a key; a key is made from the content (`w_<sha256>`), so equal weights are
stored once and a stage writes only the blobs that it made. The type stands in the IR, never in the store:
a reshaped constant shares its blob. Sidecars are safetensors files, memory-mapped and read when asked for.
"""

import contextlib
import json
import mmap
import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdsl.context import Context
from xdsl.dialects.builtin import (
    ArrayAttr,
    BytesAttr,
    DenseArrayBase,
    DenseIntOrFPElementsAttr,
    DenseResourceAttr,
    DictionaryAttr,
    IndexType,
    IntegerType,
    Signedness,
    StringAttr,
    TensorType,
)
from xdsl.ir import Attribute, Operation

from stepwell.errors import CompileError

if TYPE_CHECKING:
    import numpy as np

RESOURCES_KEY = "stepwell.resources"
"""
The module attribute that lists sidecar files, relative to the file of the module. `<stem>.safetensors` beside
`<stem>.ir` is never listed, so that equal modules in two files are equal texts; it names further sidecars itself.
"""

WEIGHTS_KEY = "stepwell.weights"
"""The module attribute with the byte offset of every resource in the blob of a library, at the llvm level."""

INLINE_ELEMENTS = 64
"""A constant of fewer elements is written into the IR."""

_FLOATS = {
    "bf16": "bfloat16",
    "f8E4M3FN": "float8_e4m3fn",
    "f8E4M3FNUZ": "float8_e4m3fnuz",
    "f8E5M2": "float8_e5m2",
    "f8E5M2FNUZ": "float8_e5m2fnuz",
    "f8E8M0FNU": "float8_e8m0fnu",
    "f4E2M1FN": "float4_e2m1fn",
}
_SAFETENSORS = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "uint16": "U16",
    "int16": "I16",
    "float16": "F16",
    "bfloat16": "BF16",
    "uint32": "U32",
    "int32": "I32",
    "float32": "F32",
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
}
_NUMPY_NAMES = {name: numpy_name for numpy_name, name in _SAFETENSORS.items()}
_ALIGNMENT = 64
_FILLER = "__fill_"
_LINKS = "sidecars"
"""The entry of a sidecar's metadata: other sidecars to read values from, relative to it, as a JSON list."""
_MAX_SPLAT_BYTES = 1 << 26
"""A splat is held as all of its bytes (xDSL's attribute does so); above this it becomes a resource."""


def dtype_of(element_type: Attribute) -> "np.dtype[Any]":
    """The numpy dtype of an element type: `i1` is bool, `iN` signed, `index` int64, 4 bits one a byte."""
    import numpy as np

    if isinstance(element_type, IndexType):
        return np.dtype(np.int64)
    if isinstance(element_type, IntegerType):
        width = element_type.width.data
        unsigned = element_type.signedness.data == Signedness.UNSIGNED
        if width == 1:
            return np.dtype(np.bool_)
        if width in (2, 4):
            import ml_dtypes

            return np.dtype(getattr(ml_dtypes, f"{'u' if unsigned else ''}int{width}"))
        return np.dtype(f"{'u' if unsigned else 'i'}{width // 8}")
    name = str(element_type)
    if name in ("f16", "f32", "f64"):
        return np.dtype(f"f{int(name[1:]) // 8}")
    if name in _FLOATS:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, _FLOATS[name]))
    if name in ("!graph.string", "!text.string"):
        return np.dtype(object)
    if name.startswith("complex<f"):
        return np.dtype({"complex<f32>": "c8", "complex<f64>": "c16"}[name])
    raise TypeError(f"no numpy dtype for element type {element_type}")


def element_type_of(dtype: "np.dtype[Any]") -> Any:
    """The element type of a numpy dtype: the inverse of `dtype_of`, `index` excepted."""
    from xdsl.dialects import builtin

    if dtype.kind == "b":
        return builtin.i1
    if dtype.name.startswith(("int", "uint")):
        unsigned = dtype.name.startswith("u")
        width = int(dtype.name.removeprefix("u").removeprefix("int"))
        return IntegerType(width, Signedness.UNSIGNED) if unsigned else IntegerType(width)
    if dtype.kind == "c":
        return builtin.ComplexType(builtin.f32 if dtype.itemsize == 8 else builtin.f64)
    names = {"float16": "f16", "float32": "f32", "float64": "f64"}
    names |= {numpy_name: name for name, numpy_name in _FLOATS.items()}
    if dtype.name in names:
        return getattr(builtin, names[dtype.name])
    raise TypeError(f"no element type for numpy dtype {dtype}")


class ResourceStore:
    """The blobs of one Context. Values are never written to once they are in the store."""

    def __init__(self) -> None:
        self._blobs: dict[str, memoryview] = {}
        self._dtypes: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._absent: list[Path] = []
        self._stored_in: dict[str, Path] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._blobs

    def keys(self) -> list[str]:
        return list(self._blobs)

    def add_bytes(self, key: str, data: "bytes | memoryview") -> None:
        """Store `data` under a given key, as an inline resource section of a file asks for."""
        self._blobs[key] = memoryview(data).cast("B")

    def add(self, array: "np.ndarray") -> str:
        """Store the bytes of `array` (kept, not copied, where contiguous) and return their key."""
        import numpy as np

        array = np.ascontiguousarray(array)
        data = array.reshape(-1).view(np.uint8).data if array.size else memoryview(b"")
        key = f"w_{sha256(data).hexdigest()[:32]}"
        if key not in self._blobs:
            self._blobs[key] = data
            self._dtypes[key] = (array.dtype.name, array.shape)
        return key

    def blob(self, key: str) -> memoryview:
        """The bytes under `key`; an error names the sidecar files that were looked into."""
        found = self._blobs.get(key)
        if found is not None:
            return found
        files = ", ".join(str(path) for path in [*self._absent, *dict.fromkeys(self._stored_in.values())])
        raise CompileError(
            f"dense_resource<{key}>: its values are in none of the files [{files}];"
            " put the sidecar file beside the .ir file or name it with --resources"
        )

    def array(self, key: str, type: Attribute) -> "np.ndarray":
        """The values under `key` as an array of the shaped `type`: a view, not a copy."""
        import numpy as np

        dtype = dtype_of(type.get_element_type())  # pyright: ignore[reportAttributeAccessIssue]
        shape = type.get_shape()  # pyright: ignore[reportAttributeAccessIssue]
        blob = self.blob(key)
        data = np.frombuffer(blob, dtype=np.uint8)
        expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if data.nbytes != expected:
            raise CompileError(
                f"dense_resource<{key}>: {data.nbytes} bytes are stored, {type} needs {expected};"
                " write the file again with its sidecar"
            )
        array = _typed(data, dtype).reshape(shape)
        array.flags.writeable = False
        return array

    def keep(self, keys: set[str]) -> None:
        """Forget all blobs but those under `keys`."""
        for key in self._blobs.keys() - keys:
            del self._blobs[key]
            self._dtypes.pop(key, None)
            self._stored_in.pop(key, None)

    def copy(self) -> "ResourceStore":
        """A store of its own with the same blobs, which are shared."""
        other = ResourceStore()
        other._blobs, other._dtypes = dict(self._blobs), dict(self._dtypes)
        other._absent, other._stored_in = list(self._absent), dict(self._stored_in)
        return other

    # Sidecar files

    def attach(self, path: Path) -> None:
        """Make the blobs of the sidecar at `path` and of those that it names available, mapped and not read."""
        waiting, seen = [path], set()
        while waiting:
            path = waiting.pop()
            if path.resolve() in seen:
                continue
            seen.add(path.resolve())
            if not os.path.isfile(path):
                self._absent.append(path)
                continue
            blobs, links = _map_sidecar(path)
            for key, (view, dtype, shape) in blobs.items():
                self._blobs.setdefault(key, view)
                self._dtypes.setdefault(key, (dtype, shape))
                self._stored_in.setdefault(key, path)
            waiting.extend(path.parent / link for link in links)

    def attach_listed(self, module: Operation, directory: Path) -> None:
        """Attach the files that `module` lists; one that is missing is noted until its values are read."""
        for name in sidecars_of(module):
            path = directory / name
            if os.path.isfile(path):
                self.attach(path)
            else:
                self._absent.append(path)

    def bind(self, module: Operation, directory: Path, new_file: Path | None) -> int:
        """
        List on `module` the files that hold its values, as seen from `directory`. Values that are in no
        file yet are added to `new_file`; how many there are if there is none.
        """
        keys = resource_keys(module)
        new = self._new(keys)
        if new and new_file is not None:
            self._extend(new_file, new, set())
        module.attributes.pop(RESOURCES_KEY, None)
        names = sorted(os.path.relpath(file, directory) for file in self._files(keys))
        if names:
            module.attributes[RESOURCES_KEY] = ArrayAttr([StringAttr(name) for name in names])
        return len(new) if new_file is None else 0

    def bind_beside(self, module: Operation, path: Path) -> int:
        """
        Make the sidecar of `path`, the file that `module` will be written to, lead to all of its values: those
        that are in no file yet are added to it, the files of the others are named in it. Always 0: none is left.
        """
        keys, own = resource_keys(module), sidecar_of(path)
        module.attributes.pop(RESOURCES_KEY, None)
        new = self._new(keys)
        links = {os.path.relpath(file, own.parent) for file in self._files(keys) if file != own}
        if new or links:
            self._extend(own, new, links)
        return 0

    def save(self, path: Path, keys: set[str]) -> int:
        """Write what is under `keys` to a new sidecar that names no other; its bytes."""
        entries = {key: (self.blob(key), *self._dtypes.get(key, ("", ()))) for key in sorted(keys)}
        write_safetensors(path, entries, [])
        return sum(view.nbytes for view, _, _ in entries.values())

    def _new(self, keys: set[str]) -> list[str]:
        return sorted(key for key in keys if key in self._blobs and key not in self._stored_in)

    def _files(self, keys: set[str]) -> set[Path]:
        """The sidecars that hold, or should hold, what is under `keys`."""
        files = {self._stored_in[key] for key in keys if key in self._stored_in}
        if any(key not in self._blobs for key in keys):
            files.update(self._absent)
        return files

    def _extend(self, file: Path, new: list[str], links: set[str]) -> None:
        """Add the blobs under `new` and the names `links` to the sidecar `file`."""
        entries, known = _map_sidecar(file) if os.path.isfile(file) else ({}, [])
        if not new and links <= set(known):
            return
        entries |= {key: (self._blobs[key], *self._dtypes.get(key, ("", ()))) for key in new}
        write_safetensors(file, entries, sorted(links | set(known)))
        self._stored_in.update(dict.fromkeys(new, file))


def sidecar_of(path: Path) -> Path:
    """Where the values of the module in the file `path` are, unless it says otherwise."""
    return path.with_suffix(".safetensors")


def sidecars_of(module: Operation) -> list[str]:
    """The sidecar files that `module` lists."""
    listed = module.attributes.get(RESOURCES_KEY)
    return [a.data for a in listed if isinstance(a, StringAttr)] if isinstance(listed, ArrayAttr) else []


def resource_keys(module: Operation) -> set[str]:
    """The keys of all `dense_resource` attributes that the ops of `module` carry, and of weights laid out."""
    placed = module.attributes.get(WEIGHTS_KEY)
    keys = set(placed.data) if isinstance(placed, DictionaryAttr) else set()
    for op in module.walk():
        for attribute in (*op.properties.values(), *op.attributes.values()):
            if isinstance(attribute, DenseResourceAttr):
                keys.add(attribute.resource_handle.data)
    return keys


# Values of attributes


def resources_of(ctx: Context) -> ResourceStore:
    """The store of `ctx`, which has to be one of ours (`stepwell.compat.new_context`)."""
    store = getattr(ctx, "resources", None)
    assert isinstance(store, ResourceStore), "the Context has no resources: make it with new_context()"
    return store


def value_of(attr: Attribute, ctx: Context) -> "np.ndarray":
    """
    The values of a dense, dense_resource or dense array attribute as a read-only array, without a copy
    (booleans excepted); a splat is a broadcast view of one element.
    """
    import numpy as np

    if isinstance(attr, DenseResourceAttr):
        return resources_of(ctx).array(attr.resource_handle.data, attr.type)
    if isinstance(attr, DenseArrayBase):
        return _typed(np.frombuffer(attr.data.data, np.uint8), dtype_of(attr.elt_type))
    assert isinstance(attr, DenseIntOrFPElementsAttr), f"{type(attr).__name__} holds no array"
    dtype, shape = dtype_of(attr.type.element_type), attr.type.get_shape()
    raw = np.frombuffer(attr.data.data, np.uint8)
    elements = raw.reshape(-1, dtype.itemsize) if raw.size else raw.reshape(0, dtype.itemsize)
    if len(elements) > 1 and (elements[0] == elements[-1]).all() and (elements == elements[0]).all():
        return np.broadcast_to(_typed(elements[0], dtype).reshape(()), shape)
    return _typed(raw, dtype).reshape(shape)


def constant_attr(
    array: "np.ndarray", ctx: Context, element_type: Attribute | None = None
) -> DenseIntOrFPElementsAttr | DenseResourceAttr:
    """
    `array` as an attribute of type `tensor<shape x element_type>`: written out below
    `INLINE_ELEMENTS` elements and for a splat, else a resource named by its content. The element type
    follows from the dtype where it is not given (int64 is `i64`, uint8 `ui8`, bool `i1`).
    """
    import numpy as np

    array = np.asarray(array)
    element = element_type_of(array.dtype) if element_type is None else element_type
    tensor_type = TensorType(element, array.shape)
    expected = dtype_of(element)
    if array.dtype != expected:
        array = array.astype(expected)
    if array.size >= INLINE_ELEMENTS:
        splat = array.nbytes <= _MAX_SPLAT_BYTES and bool((array == array.reshape(-1)[0]).all())
        if not splat:
            return DenseResourceAttr.from_params(resources_of(ctx).add(array), tensor_type)
    if array.dtype == np.bool_:  # xDSL spells true as 0xFF; equal attributes need equal bytes
        array = array.astype(np.uint8) * np.uint8(255)
    return DenseIntOrFPElementsAttr(tensor_type, BytesAttr(np.ascontiguousarray(array).tobytes()))  # pyright: ignore


def _typed(raw: "np.ndarray", dtype: "np.dtype[Any]") -> "np.ndarray":
    """`raw` bytes as `dtype`; any byte but 0 is true."""
    return raw != 0 if dtype.kind == "b" else raw.view(dtype)


# The safetensors format: u64 length, JSON header {name: {dtype, shape, data_offsets}}, data


_Blobs = dict[str, tuple[memoryview, str, tuple[int, ...]]]


def write_safetensors(path: Path, blobs: _Blobs, links: Sequence[str] = ()) -> None:
    """
    Write blobs (bytes, numpy dtype name or "", shape) to `path` atomically, each one aligned to 64 bytes;
    `links` are further sidecars to name.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "stepwell"}}
    if links:
        header["__metadata__"][_LINKS] = json.dumps(list(links))
    offset, pieces = 0, []
    for key, (data, dtype, shape) in blobs.items():
        # The format allows no holes: a blob of odd length is followed by a named filler.
        known = _SAFETENSORS.get(dtype)
        entry = {"dtype": known or "U8", "shape": list(shape) if known else [data.nbytes]}
        header[key] = entry | {"data_offsets": [offset, offset + data.nbytes]}
        offset += data.nbytes
        pieces.append(data)
        if fill := -offset % _ALIGNMENT:
            header[f"{_FILLER}{offset:x}"] = {
                "dtype": "U8",
                "shape": [fill],
                "data_offsets": [offset, offset + fill],
            }
            offset += fill
            pieces.append(memoryview(bytes(fill)))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            file.write(len(text).to_bytes(8, "little"))
            file.write(text)
            for piece in pieces:
                file.write(piece)
        os.replace(temporary, path)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):
            temporary.unlink()
        reason = getattr(error, "strerror", None) or error
        raise CompileError(f"{path}: the weights cannot be written: {reason}; give another path") from error


def map_safetensors(path: Path) -> _Blobs:
    """
    The blobs of a safetensors file by name, mapped, with numpy dtype (empty if not one of numpy's) and
    shape; an error names the broken part.
    """
    return _map_sidecar(path)[0]


def _map_sidecar(path: Path) -> tuple[_Blobs, list[str]]:
    """The blobs of a safetensors file and the sidecars that it names."""

    def broken(why: str) -> CompileError:
        return CompileError(f"{path}: not a safetensors file: {why}; write it again")

    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < 8:
                raise broken(f"{size} bytes are too few")
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise CompileError(f"{path}: the weights cannot be read: {error.strerror}") from error
    length = int.from_bytes(mapped[:8], "little")
    if length > size - 8:
        raise broken(f"its header of {length} bytes is longer than the file")
    data = mapped[8 + length :]
    blobs: _Blobs = {}
    links: list[str] = []
    try:
        for name, entry in json.loads(bytes(mapped[8 : 8 + length])).items():
            if name == "__metadata__":
                links = [str(link) for link in json.loads(entry.get(_LINKS, "[]"))]
                continue
            if name.startswith(_FILLER):
                continue
            start, end = (int(offset) for offset in entry["data_offsets"])
            if not 0 <= start <= end <= data.nbytes:
                raise broken(f"{name} is said to be bytes {start} to {end} of {data.nbytes}")
            dtype = _NUMPY_NAMES.get(entry["dtype"], "")
            blobs[name] = (data[start:end], dtype, tuple(int(extent) for extent in entry["shape"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise broken("its header is no valid JSON index") from error
    return blobs, links
