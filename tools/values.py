"""Inputs and outputs of a model on the command line: files, random values, and one line for each."""

from collections.abc import Iterator, Sequence
from typing import Any

from stepwell.errors import RunError

_RANDOM_LENGTH = 2
"""Elements of a sequence, or of a map, of random values."""
_MAP = "map from "


def read_inputs(texts: list[str], inputs: Sequence[Any]) -> dict[str, Any]:
    """
    The arrays of `NAME=FILE.npy`; those of one name are the elements of a sequence, `NAME.keys` and `NAME.values` a map.
    """
    import numpy as np

    kinds = {entry.name: entry.kind for entry in inputs}
    feeds: dict[str, Any] = {}
    parts: dict[str, dict[str, list[tuple[str, Any]]]] = {}
    for text in texts:
        name, separator, path = text.rpartition("=")
        if not separator:
            raise RunError(f"--input {text}: expected NAME=FILE.npy")
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise RunError(f"--input {text}: cannot read {path} as .npy: {error}") from error
        whole, _, part = name.rpartition(".")
        if part in ("keys", "values") and _MAP in kinds.get(whole, ""):
            parts.setdefault(whole, {"keys": [], "values": []})[part].append((text, array))
        elif _MAP in kinds.get(name, ""):
            raise RunError(
                f"--input {text}: {name} is a map; give {name}.keys=FILE.npy and {name}.values=FILE.npy"
            )
        elif "sequence of " in kinds.get(name, ""):
            feeds.setdefault(name, []).append(array)
        elif name in feeds:
            raise RunError(f"--input {text}: {name} is given twice; only a sequence takes several files")
        else:
            feeds[name] = array
    for name, given in parts.items():
        maps = _maps(name, given["keys"], given["values"])
        several = "sequence of " in kinds[name]
        if len(maps) > 1 and not several:
            raise RunError(
                f"--input {given['keys'][1][0]}: {name} is given twice; only a sequence takes several files"
            )
        feeds[name] = maps if several else maps[0]
    return feeds


def _maps(name: str, keys: list[tuple[str, Any]], values: list[tuple[str, Any]]) -> list[dict[Any, Any]]:
    """The maps of files of keys and files of values, in the order in which they are given."""
    if len(keys) != len(values):
        raise RunError(f"--input {name}: {len(keys)} files of keys and {len(values)} of values; give as many")
    maps: list[dict[Any, Any]] = []
    for (text, own), (_, held) in zip(keys, values, strict=True):
        if own.ndim != 1 or own.shape != held.shape:
            raise RunError(
                f"--input {text}: keys of shape {list(own.shape)} for values of shape {list(held.shape)};"
                f" give two vectors of one length"
            )
        maps.append(dict(zip(own.tolist(), held.tolist(), strict=True)))
    return maps


_RANDOM_WORDS = ("", "a", "one", "Two words", "3.5", "\u00e9t\u00e9")


def random_inputs(inputs: Sequence[Any], seed: int, dims: dict[str, int]) -> dict[str, Any]:
    """
    Seeded values for each input: normal floats, small non-negative integers, short words; unknown extents are 1, sequences have two
    elements and maps two keys, optionals are there.
    """
    import numpy as np

    rng = np.random.default_rng(seed)

    def value(entry: Any) -> Any:
        if _MAP in entry.kind:
            keys: list[Any] = ["a", "b"] if f"{_MAP}string" in entry.kind else [0, 1]
            return dict(zip(keys, numbers(entry.dtype, [_RANDOM_LENGTH]).tolist(), strict=True))
        extents = (1,) if entry.shape is None else entry.shape
        shape = [extent if isinstance(extent, int) else dims.get(str(extent), 1) for extent in extents]
        return numbers(entry.dtype, shape)

    def numbers(name: str, shape: list[int]) -> Any:
        if name == "string":
            return rng.choice(_RANDOM_WORDS, shape).astype(object)
        dtype = np.dtype(name)
        if dtype.kind in "biu":
            return rng.integers(0, 2, shape).astype(dtype)
        return rng.standard_normal(shape).astype(dtype)

    return {
        entry.name: [value(entry) for _ in range(_RANDOM_LENGTH)]
        if "sequence of " in entry.kind
        else value(entry)
        for entry in inputs
    }


def arrays_of(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """
    The arrays of a value with their names: `name`, or `name[0]`, ...; of a map `name.keys`, in order, and `name.values`;
    nothing of an absent one.
    """
    import numpy as np

    if isinstance(value, dict):
        keys = sorted(value)
        for part, items in (("keys", keys), ("values", [value[key] for key in keys])):
            text = bool(items) and isinstance(items[0], str)
            yield f"{name}.{part}", np.array(items, object if text else None)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from arrays_of(f"{name}[{index}]", item)
    elif value is not None:
        yield name, value


def describe(value: Any) -> str:
    """Type, shape and the range of an output, and its values if they are few."""
    import numpy as np

    if value is None:
        return "absent"
    if isinstance(value, list):
        return "[" + ", ".join(describe(item) for item in value) + "]"
    if isinstance(value, dict):
        entries = ", ".join(f"{key!r:.20}: {item!r:.20}" for key, item in list(value.items())[:8])
        return f"{{{entries}{', ...' if len(value) > 8 else ''}}}"
    array = np.asarray(value)
    text = f"{array.dtype}{list(array.shape)}"
    if array.size and array.dtype.kind == "O":
        words = ", ".join(repr(str(word)[:20]) for word in array.reshape(-1)[:4])
        return f"strings{list(array.shape)} = [{words}{', ...' if array.size > 4 else ''}]"
    if array.size == 0 or array.dtype.kind not in "biuf":
        return text
    if array.size <= 8:
        return f"{text} = {array.reshape(-1).tolist()}"
    wide = array.astype(np.float64)
    return (
        f"{text} min {wide.min():.6g} max {wide.max():.6g} mean {wide.mean():.6g} argmax {int(wide.argmax())}"
    )


def describe_entry(entry: dict[str, Any]) -> str:
    """An input or output of a signature: `x: sequence of float32[?, 3]`."""
    kind = entry.get("kind", "tensor").removesuffix("tensor")
    shape = entry.get("shape")
    extents = "..." if shape is None else ", ".join(map(str, shape))
    return f"{entry['name']}: {kind}{entry['dtype']}[{extents}]"
