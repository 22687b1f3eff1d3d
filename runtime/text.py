"""Tensors of strings between Python and the C interface: objects, and arrays of `stepwell_string`."""

import ctypes

import numpy as np

from stepwell.errors import RunError, shown


def as_objects(value: np.ndarray) -> np.ndarray | None:
    """An array of strings of any of NumPy's types as one of objects; None for any other array."""
    if value.dtype == object:
        return value
    return value.astype(object) if value.dtype.kind in "UST" else None


def string_table(name: str, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    An array of `stepwell_string`, where each string lies and its length, and the array of bytes that they lie in. A str
    may hold bytes that are no UTF-8 in the way of `os.fsdecode`.
    """
    parts: list[bytes] = []
    for place, text in enumerate(value.ravel().tolist()):
        try:
            parts.append(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
        except (AttributeError, UnicodeEncodeError) as error:
            where = [int(i) for i in np.unravel_index(place, value.shape)]
            surrogate = isinstance(error, UnicodeEncodeError)
            what = "has a lone surrogate" if surrogate else f"is a {shown(type(text).__name__)}"
            raise RunError(
                f"input '{name}': element {where} {what}, expected a string; pass str or bytes"
            ) from None
    data = np.frombuffer(b"".join((*parts, b"\0")), np.uint8)
    table = np.empty((len(parts), 2), np.int64)
    table[:, 1] = [len(part) for part in parts]
    table[:, 0] = data.__array_interface__["data"][0] + np.cumsum(table[:, 1]) - table[:, 1]
    return table, data


def read_strings(address: int, shape: tuple[int, ...]) -> np.ndarray:
    """The strings of an array of `stepwell_string`, as str."""
    result = np.empty(shape, object)
    table = (ctypes.c_int64 * (2 * result.size)).from_address(address)[:] if result.size else []
    result.reshape(-1)[:] = [
        ctypes.string_at(start, length).decode("utf-8", "surrogateescape") if length else ""
        for start, length in zip(table[::2], table[1::2], strict=True)
    ]
    return result
