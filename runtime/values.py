"""Sequences, optionals and maps between Python and the C interface: lists, None, dicts, and `stepwell_value`."""

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np

from stepwell.backends.cpu.signature import DTYPES
from stepwell.errors import RunError, shown
from stepwell.runtime.library import (
    DATA,
    DEVICE,
    KIND,
    NDIM_DTYPE,
    SHAPE,
    STRIDES,
    TEXT_KIND,
    TEXT_NDIM,
    TEXT_SHAPE,
    VALUE_WORDS,
    header_words,
)  # fmt: skip
from stepwell.runtime.text import as_objects, read_strings, string_table

ABSENT_KIND, TENSOR_KIND, SEQUENCE_KIND, MAP_KIND = 0, 1, 3, 4
_VALUES, _COUNT = 1, 2
"""The words of a sequence: where its values lie, and how many there are."""
_MAP_KEYS, _MAP_VALUES = 1, 2
"""The words of a map: where its two tensors lie."""


class Encoder:
    """Writes values as `stepwell_value`s; what they point to lives as long as the encoder."""

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []

    def values(self, count: int) -> np.ndarray:
        """The words of `count` values, all absent."""
        return self.kept(np.zeros(max(count, 1) * VALUE_WORDS, np.int64))

    def kept(self, array: np.ndarray) -> np.ndarray:
        self._kept.append(array)
        return array

    def write(
        self, words: np.ndarray, name: str, layers: str, dtype: np.dtype, type: str, value: Any
    ) -> None:
        """
        Write `value` into the first words; `layers` says what it is made of, `type` is the signature's name of
        its elements. Shapes are the runtime's to check.
        """
        if layers.startswith("o"):
            if value is not None:
                self.write(words, name, layers[1:], dtype, type, value)
        elif layers.startswith("s"):
            self._write_sequence(words, name, layers, dtype, type, value)
        elif layers:
            self._write_map(words, name, layers, dtype, type, value)
        else:
            self._write_tensor(words, name, dtype, type, value)

    def _write_sequence(
        self, words: np.ndarray, name: str, layers: str, dtype: np.dtype, type: str, value: Any
    ) -> None:
        if not isinstance(value, list | tuple):
            elements = "dicts" if layers[1:] in ("i", "t") else "arrays"
            raise RunError(f"input '{name}': {_article(value)}, expected a list of {elements}; pass a list")
        array = self.values(len(value))
        for index, item in enumerate(value):
            place = array[index * VALUE_WORDS : (index + 1) * VALUE_WORDS]
            self.write(place, f"{name}[{index}]", layers[1:], dtype, type, item)
        words[KIND], words[_VALUES], words[_COUNT] = SEQUENCE_KIND, array.ctypes.data, len(value)

    def _write_map(
        self, words: np.ndarray, name: str, layers: str, dtype: np.dtype, type: str, value: Any
    ) -> None:
        if not isinstance(value, Mapping):
            raise RunError(f"input '{name}': {_article(value)}, expected a dict; pass one of keys and values")
        parts = self.values(2)
        key_type = "int64" if layers.startswith("i") else "string"
        keys = _scalars(name, "key", value.keys(), key_type)
        self._write_tensor(parts[:VALUE_WORDS], f"{name}.keys", keys.dtype, key_type, keys)
        values = _scalars(name, "value", value.values(), type)
        self._write_tensor(parts[VALUE_WORDS:], f"{name}.values", dtype, type, values)
        words[KIND], words[_MAP_KEYS] = MAP_KIND, parts.ctypes.data
        words[_MAP_VALUES] = parts.ctypes.data + 8 * VALUE_WORDS

    def _write_tensor(self, words: np.ndarray, name: str, dtype: np.dtype, type: str, value: Any) -> None:
        if not isinstance(value, np.ndarray | np.generic):
            if not hasattr(value, "__dlpack__"):
                raise RunError(
                    f"input '{name}': {_article(value)}, expected an array; pass np.asarray(value, dtype='{type}')"
                )
            value = np.from_dlpack(value)
        array = np.asarray(value)
        if type == "string" and (objects := as_objects(array)) is not None:
            table, _ = map(self.kept, string_table(name, objects))
            shape = self.kept(np.array([*array.shape, 0], np.int64))
            words[KIND], words[DATA] = TEXT_KIND, table.ctypes.data
            words[TEXT_SHAPE], words[TEXT_NDIM] = shape.ctypes.data, array.ndim
            return
        if array.dtype != dtype:
            raise RunError(
                f"input '{name}': dtype {array.dtype}, expected {dtype}; convert it with .astype('{dtype}')"
            )
        array = self.kept(np.ascontiguousarray(array).reshape(array.shape))
        shape = self.kept(np.array([*array.shape, 0], np.int64))
        device, header = header_words(array.ndim, *DTYPES[type])
        words[KIND], words[DATA], words[DEVICE] = TENSOR_KIND, array.ctypes.data, device
        words[NDIM_DTYPE], words[SHAPE], words[STRIDES] = header, shape.ctypes.data, 0


def read(words: Any, dtype: np.dtype) -> Any:
    """The value in these words, its tensors copied: they lie in memory of the context."""
    if words[KIND] == ABSENT_KIND:
        return None
    if words[KIND] == SEQUENCE_KIND:
        count = words[_COUNT]
        if not count:
            return []
        array = (ctypes.c_int64 * (count * VALUE_WORDS)).from_address(words[_VALUES])
        if array[KIND] == MAP_KIND:
            return _read_maps(array[:], dtype)
        return [
            read(array[at : at + VALUE_WORDS], dtype) for at in range(0, count * VALUE_WORDS, VALUE_WORDS)
        ]
    if words[KIND] == MAP_KIND:
        return _read_maps(words, dtype)[0]
    if words[KIND] == TEXT_KIND:
        rank = words[TEXT_NDIM] & 0xFFFFFFFF
        shape = tuple((ctypes.c_int64 * rank).from_address(words[TEXT_SHAPE])) if rank else ()
        return read_strings(words[DATA], shape)
    rank = words[NDIM_DTYPE] & 0xFFFFFFFF
    shape = tuple((ctypes.c_int64 * rank).from_address(words[SHAPE])) if rank else ()
    result = np.empty(shape, dtype)
    if result.nbytes:
        ctypes.memmove(result.ctypes.data, words[DATA], result.nbytes)
    return result


_NUMBERS: dict[np.dtype, Any] = {
    np.dtype(np.float64): ctypes.c_double,
    np.dtype(np.float32): ctypes.c_float,
    np.dtype(np.int64): ctypes.c_int64,
}
"""Element types that ctypes reads as a list at once."""


def _read_maps(words: Any, dtype: np.dtype) -> list[dict[Any, Any]]:
    """The maps in these words, one after the other. Keys that maps share, as those of one ZipMap do, are read once."""
    number = _NUMBERS.get(dtype)
    keys: list[Any] = []
    last, row, found = 0, ctypes.c_int64 * 0, []
    for at in range(0, len(words), VALUE_WORDS):
        if words[at + _MAP_KEYS] != last:
            last = words[at + _MAP_KEYS]
            held = _words_at(last)
            count = ctypes.c_int64.from_address(held[TEXT_SHAPE if held[KIND] == TEXT_KIND else SHAPE]).value
            row = (number or ctypes.c_int64) * count
            if held[KIND] == TEXT_KIND:
                keys = read_strings(held[DATA], (count,)).tolist()
            else:
                keys = (ctypes.c_int64 * count).from_address(held[DATA])[:]
        held = words[at + _MAP_VALUES]
        if number is None:
            values = read(_words_at(held), dtype).tolist()
        else:
            values = row.from_address(ctypes.c_int64.from_address(held + 8 * DATA).value)[:]
        found.append(dict(zip(keys, values, strict=True)))
    return found


def _words_at(address: int) -> Any:
    return (ctypes.c_int64 * VALUE_WORDS).from_address(address)


def _scalars(name: str, what: str, items: Any, type: str) -> np.ndarray:
    """Keys or values of a dict, as an array of the type of this name; a number may be of any type that holds it."""
    items = list(items)
    kinds, expected = _SCALARS[np.dtype(type).kind] if type != "string" else ((str, bytes), "a string")
    for item in items:
        if not isinstance(item, kinds):
            raise RunError(
                f"input '{name}': the {what} {shown(repr(item))} is {_article(item)}, expected {expected}"
            )
    if type == "string":
        return np.array([*items, None], object)[:-1]
    try:
        return np.array(items, type)
    except OverflowError:
        raise RunError(f"input '{name}': a {what} does not fit into {type}; pass smaller numbers") from None


_SCALARS: dict[str, tuple[tuple[type, ...], str]] = {
    "f": ((int, float, np.integer, np.floating), "a number"),
    "i": ((int, np.integer), "an integer"),
}
"""What may stand for a scalar of an element type of this kind, and how it is called."""


def _article(value: Any) -> str:
    return "None" if value is None else f"a {shown(type(value).__name__)}"
