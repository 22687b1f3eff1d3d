"""Inputs and outputs of a model on the command line: files, random values, and one line for each."""

from collections.abc import Iterator, Sequence
from typing import Any

from stepwell.errors import RunError

_RANDOM_LENGTH = 2
"""Elements of a sequence of random values."""


def read_inputs(texts: list[str], inputs: Sequence[Any]) -> dict[str, Any]:
    """The arrays of `NAME=FILE.npy`; those of one name are the elements of a sequence."""
    import numpy as np

    kinds = {entry.name: entry.kind for entry in inputs}
    feeds: dict[str, Any] = {}
    for text in texts:
        name, separator, path = text.rpartition("=")
        if not separator:
            raise RunError(f"--input {text}: expected NAME=FILE.npy")
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise RunError(f"--input {text}: cannot read {path} as .npy: {error}") from error
        if "sequence of " in kinds.get(name, ""):
            feeds.setdefault(name, []).append(array)
        elif name in feeds:
            raise RunError(f"--input {text}: {name} is given twice; only a sequence takes several files")
        else:
            feeds[name] = array
    return feeds


_RANDOM_WORDS = ("", "a", "one", "Two words", "3.5", "\u00e9t\u00e9")


def random_inputs(inputs: Sequence[Any], seed: int, dims: dict[str, int]) -> dict[str, Any]:
    """
    Seeded values for each input: normal floats, small non-negative integers, short words; unknown extents are 1, sequences have two
    elements, optionals are there.
    """
    import numpy as np

    rng = np.random.default_rng(seed)

    def array(entry: Any) -> Any:
        extents = (1,) if entry.shape is None else entry.shape
        shape = [extent if isinstance(extent, int) else dims.get(str(extent), 1) for extent in extents]
        if entry.dtype == "string":
            return rng.choice(_RANDOM_WORDS, shape).astype(object)
        dtype = np.dtype(entry.dtype)
        if dtype.kind in "biu":
            return rng.integers(0, 2, shape).astype(dtype)
        return rng.standard_normal(shape).astype(dtype)

    return {
        entry.name: [array(entry) for _ in range(_RANDOM_LENGTH)]
        if "sequence of " in entry.kind
        else array(entry)
        for entry in inputs
    }


def arrays_of(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The arrays of a value with their names: `name`, or `name[0]`, ...; nothing of an absent one."""
    if isinstance(value, list):
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
