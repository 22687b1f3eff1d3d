"""A compiled model in Python: NumPy arrays in and out, checked, without copies."""

import ctypes
import os
import re
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stepwell.backends.cpu.signature import DTYPES, TENSOR, is_symbol, layers_of
from stepwell.errors import RunError, shown
from stepwell.runtime.library import (
    DATA,
    DEVICE,
    KIND,
    NDIM_DTYPE,
    NO_SPIN,
    POISON,
    PROFILE,
    SHAPE,
    TENSOR_KIND,
    TEXT_KIND,
    TEXT_NDIM,
    TEXT_SHAPE,
    VALUE_WORDS,
    Library,
    header_words,
    open_library,
)  # fmt: skip
from stepwell.runtime.profile import Profile, sites_of
from stepwell.runtime.text import as_objects, read_strings, string_table
from stepwell.runtime.values import Encoder, read

Extent = int | str


def numpy_dtype(name: str) -> np.dtype:
    """
    The array element type for a signature's. Types that NumPy lacks (bfloat16, float8) are those of ml_dtypes
    where it is installed, else unsigned integers that hold their bits. Strings are objects.
    """
    if name == "string":
        return np.dtype(object)
    try:
        return np.dtype(name)
    except TypeError:
        try:
            import ml_dtypes  # pyright: ignore[reportMissingImports]

            return np.dtype(getattr(ml_dtypes, name))
        except (ImportError, AttributeError):
            return np.dtype(f"uint{max(DTYPES[name][1], 8)}")


@dataclass(frozen=True)
class TensorInfo:
    """
    One input or output: its name, element type (NumPy's name), and shape, with symbols for unknown extents.
    Of a sequence or optional, both are those of the tensors that it is made of, of a map those of its values; "?" is an extent that may be
    another one in each, and a shape of None any shape.
    """

    name: str
    dtype: str
    shape: tuple[Extent, ...] | None
    kind: str = TENSOR
    """`tensor`, `sequence of tensor` (a list), `optional tensor` (or None), `optional sequence of tensor`,
    `map from string to tensor` (a dict), `sequence of map from int64 to tensor`, ..."""


class _Frame:
    """What one call needs: a context and, ready filled but for data and unknown extents, its arguments."""

    __slots__ = ("arguments", "array", "context", "results", "seen", "shapes", "symbols", "words")

    def __init__(self, context: int, inputs: list["_Slot"], outputs: list["_Slot"]):
        self.context = context
        slots = [*inputs, *outputs]
        extents = sum(max(len(slot.shape), 1) for slot in slots)
        self.array = np.zeros(len(slots) * VALUE_WORDS + extents, np.int64)
        base = self.array.ctypes.data
        pointers = [ctypes.c_void_p(at) for at in (context, base, base + 8 * VALUE_WORDS * len(inputs))]
        self.arguments = (
            *pointers[:2],
            ctypes.c_size_t(len(inputs)),
            pointers[2],
            ctypes.c_size_t(len(outputs)),
        )
        self.words = memoryview(self.array)  # pyright: ignore[reportArgumentType]
        self.shapes: list[int] = []
        self.seen: list[Any] = [None] * len(inputs)
        """The shapes of the last inputs that fitted the signature; what follows from them:"""
        self.symbols: dict[str, int] = {}
        self.results: list[tuple[_Slot, tuple[int, ...] | None]] = []
        at = len(slots) * VALUE_WORDS
        for index, slot in enumerate(slots):
            word = index * VALUE_WORDS
            if slot.layers:  # an output that is absent is the context's to make
                self.shapes.append(at)
                at += max(len(slot.shape), 1)
                continue
            if slot.text:
                self.words[word + KIND] = TEXT_KIND
                self.words[word + TEXT_SHAPE], self.words[word + TEXT_NDIM] = base + 8 * at, len(slot.shape)
            else:
                self.words[word + KIND] = TENSOR_KIND
                device, header = header_words(len(slot.shape), *DTYPES[slot.info.dtype])
                self.words[word + DEVICE], self.words[word + NDIM_DTYPE] = device, header
                self.words[word + SHAPE] = base + 8 * at
            self.shapes.append(at)
            for extent in slot.shape:
                self.words[at] = extent if isinstance(extent, int) else -1
                at += 1
            at += not slot.shape


class _Slot:
    """What checking one input or making one output needs, looked up once."""

    __slots__ = ("at_data", "dtype", "evaluate", "index", "info", "layers", "open_axes", "shape", "text")

    def __init__(self, index: int, info: TensorInfo, known: set[str]):
        self.index = index
        self.at_data = index * VALUE_WORDS + DATA
        self.info = info
        self.dtype = numpy_dtype(info.dtype)
        self.layers = layers_of(info.kind)
        self.text = info.dtype == "string" and not self.layers
        self.shape: tuple[Any, ...] = info.shape or ()
        self.open_axes = [axis for axis, extent in enumerate(self.shape) if isinstance(extent, str)]
        # The library makes the strings of an output, the array that they lie in, and all that is no plain tensor.
        self.evaluate = None if self.text or self.layers else shape_function(self.shape, known)


_TOKEN = re.compile(r"\s*(?:(\d+)|([A-Za-z_][A-Za-z0-9_.$]*)|([-+*(),]))")


def shape_function(
    shape: tuple[Extent, ...], known: set[str]
) -> Callable[[Mapping[str, int]], tuple[int, ...]] | None:
    """
    A function from symbol values to the shape, or None where an extent is not an expression over `known`:
    sums, products, `floordiv`, `ceildiv`, `mod`, `max(a, b)`, `min(a, b)`.
    """
    terms: list[str] = []
    for extent in shape:
        if isinstance(extent, int):
            terms.append(str(extent))
            continue
        text, at = "", 0
        while at < len(extent.rstrip()):
            match = _TOKEN.match(extent, at)
            if match is None:
                return None
            at, word = match.end(), match[2]
            if word is None:
                text += match[1] or match[3]
            elif word in ("floordiv", "mod"):
                text += {"floordiv": "//", "mod": "%"}[word]
            elif word in ("max", "min"):
                text += word
            elif word in known:
                text += f"s[{word!r}]"
            else:  # a symbol that only the run defines, or `ceildiv`, which has no Python operator
                return None
        terms.append(text)
    try:
        # Digits, the names above and operators only: nothing else can be in `terms`.
        return eval(f"lambda s: ({''.join(term + ', ' for term in terms)})", {"max": max, "min": min})
    except SyntaxError:
        return None


class Model:
    """
    A compiled model. `run` takes and gives arrays by name, a call takes them in order; both may be used from
    several threads at once, each call then has working memory of its own.
    """

    def __init__(
        self, library: Library, threads: int | None = None, *, spin: bool = True, poison: bool = False
    ):
        signature = library.manifest["signature"]
        self._library = library
        self.signature: dict[str, Any] = signature
        self.inputs = tuple(_info(slot) for slot in signature["inputs"])
        self.outputs = tuple(_info(slot) for slot in signature["outputs"])
        self.metadata: dict[str, Any] = dict(signature.get("metadata") or {})
        self.threads = signature["threads"] if threads is None else threads
        if not isinstance(self.threads, int) or not 1 <= self.threads <= 256:
            raise RunError(f"{library.path}: threads is {self.threads!r}; expected 1 to 256")
        known = {str(extent) for info in self.inputs if info.kind == TENSOR
                 for extent in info.shape or () if is_symbol(extent)}  # fmt: skip
        self._inputs = [_Slot(index, info, known) for index, info in enumerate(self.inputs)]
        self._outputs = [
            _Slot(index, info, known) for index, info in enumerate(self.outputs, len(self.inputs))
        ]
        self._takes_values = any(slot.layers for slot in self._inputs)
        self._input_names = [info.name for info in self.inputs]
        self._output_names = [info.name for info in self.outputs]
        self._unknown_shapes = any(slot.evaluate is None for slot in self._outputs)
        self._flags = (0 if spin else NO_SPIN) | (POISON if poison else 0)
        self._frames: list[_Frame] = []
        self._frames.append(self._new_frame())
        # Not at exit: threads of the program may still be inside.
        weakref.finalize(self, _close, library, self._frames).atexit = False

    @property
    def path(self) -> Path:
        """The library's file."""
        return self._library.path

    def __repr__(self) -> str:
        def slots(infos: tuple[TensorInfo, ...]) -> str:
            return ", ".join(f"{i.name}: {_described(i)}" for i in infos)

        return f"<stepwell.Model ({slots(self.inputs)}) -> ({slots(self.outputs)})>"

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """
        Every output by name, for every input by name: an array each; of a sequence a list, of a map a dict, of an
        absent optional None.
        """
        return dict(zip(self._output_names, self.run_in_order(inputs), strict=True))

    def run_in_order(self, inputs: Mapping[str, Any]) -> list[Any]:
        """What `run` gives, as a list in the order of `outputs`."""
        try:
            values = [inputs[name] for name in self._input_names]
        except (KeyError, IndexError, TypeError):
            raise self._wrong_names(inputs) from None
        if len(inputs) != len(values):
            raise self._wrong_names(inputs)
        return self._run(values)

    def __call__(self, *values: Any) -> Any:
        """The outputs for the inputs in order: one as it is, several as a tuple."""
        if len(values) != len(self._inputs):
            names = shown(", ".join(self._input_names))
            raise RunError(
                f"{self._name}: {len(values)} inputs, expected {len(self._inputs)} ({names}); pass them"
                f" in this order"
            )
        results = self._run(values)
        return results[0] if len(results) == 1 else tuple(results)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the library to `path`; whole or not at all."""
        try:
            self._library.save(Path(path).absolute())
        except OSError as error:
            raise RunError(
                f"{error.filename or path}: cannot be written: {error.strerror}; choose another place"
            ) from None

    @property
    def _name(self) -> str:
        return shown(str(self.metadata.get("graph_name") or self.path.name))

    def profile(self, inputs: Mapping[str, Any], runs: int = 10) -> Profile:
        """Where the time of `runs` runs goes, after one that is not counted, in a context of their own."""
        if runs < 1:
            raise RunError(f"{self._name}: {runs} runs to profile; ask for 1 or more")
        self.run(inputs)  # names are checked, pages touched
        values = [inputs[name] for name in self._input_names]
        profile = Profile(sites_of(self._library.manifest))
        frame = self._new_frame(PROFILE)
        try:
            for number in range(runs + 1):
                self._run_in(frame, values)
                if number:
                    profile.runs.append(self._library.events(frame.context))
        finally:
            self._library.destroy(frame.context)
        return profile

    def _new_frame(self, flags: int = 0) -> _Frame:
        context = self._library.create_context(self.threads, self._flags | flags)
        frame = _Frame(context, self._inputs, self._outputs)
        if not self._inputs:
            self._bind_shapes(frame, [])
        return frame

    def _run(self, values: Any) -> list[Any]:
        try:
            frame = self._frames.pop()
        except IndexError:
            frame = self._new_frame()
        try:
            return self._run_in(frame, values)
        finally:
            self._frames.append(frame)

    def _run_values(self, frame: _Frame, values: Any) -> list[Any]:
        """A run of a model that takes sequences, optionals or maps: the runtime checks all shapes and makes all outputs."""
        encoder, inputs = Encoder(), len(self._inputs)
        words = encoder.values(inputs + len(self._outputs))
        for slot, value in zip(self._inputs, values, strict=True):
            place = words[slot.index * VALUE_WORDS : (slot.index + 1) * VALUE_WORDS]
            if not slot.layers:
                value = _adopt(slot, value)
            encoder.write(place, shown(slot.info.name), slot.layers, slot.dtype, slot.info.dtype, value)
        context, base = ctypes.c_void_p(frame.context), words.ctypes.data
        results = ctypes.c_void_p(base + 8 * VALUE_WORDS * inputs)
        counts = ctypes.c_size_t(inputs), ctypes.c_size_t(len(self._outputs))
        if self._library.run(context, ctypes.c_void_p(base), counts[0], results, counts[1]):
            raise RunError(f"{self._name}: {self._library.error_text(frame.context)}")
        every = words.tolist()
        return [
            read(every[slot.index * VALUE_WORDS : (slot.index + 1) * VALUE_WORDS], slot.dtype)
            for slot in self._outputs
        ]

    def _run_in(self, frame: _Frame, values: Any) -> list[Any]:
        # Written for few bytecodes: a call of a small model costs about 4 us, most of it here.
        if self._takes_values:
            return self._run_values(frame, values)
        words = frame.words
        arrays: list[np.ndarray] = []  # those made here must outlive the call
        keep: list[Any] = []
        new_shapes = False
        for slot, value, shape in zip(self._inputs, values, frame.seen, strict=True):
            if value.__class__ is not _ndarray:
                value = _adopt(slot, value)
            if value.dtype is not slot.dtype and value.dtype != slot.dtype:
                value = _as_objects(slot, value)
            if value.shape != shape:
                new_shapes = True
            if not value.flags.c_contiguous:
                value = _contiguous(slot, value)
            arrays.append(value)
            if slot.text:
                value, data = string_table(shown(slot.info.name), value)
                keep += value, data
            words[slot.at_data] = _address(value)
        if new_shapes:
            self._bind_shapes(frame, [array.shape for array in arrays])
        results: list[Any] = []
        for slot, shape in frame.results:
            if shape is None:
                words[slot.at_data] = words[slot.at_data + (TEXT_SHAPE if slot.text else SHAPE) - DATA] = 0
                results.append(None)
                continue
            try:
                result = _empty(shape, slot.dtype)
            except (MemoryError, ValueError) as error:
                raise _no_output(slot, frame.symbols, error) from None
            results.append(result)
            words[slot.at_data] = _address(result)
        if self._library.run(*frame.arguments):
            raise RunError(f"{self._name}: {self._library.error_text(frame.context)}")
        if self._unknown_shapes:
            for index, slot in enumerate(self._outputs):
                if slot.evaluate is None:
                    results[index] = _copy_output(slot, words, slot.at_data - DATA)
        return results

    def _bind_shapes(self, frame: _Frame, shapes: list[tuple[int, ...]]) -> None:
        """Check the inputs' shapes, and note in the frame the extents that follow from them."""
        frame.seen = [None] * len(shapes)
        words, symbols = frame.words, frame.symbols
        symbols.clear()
        for slot, shape in zip(self._inputs, shapes, strict=True):
            if shape != slot.shape:
                _bind(slot, shape, symbols)
                start = frame.shapes[slot.index]
                for axis in slot.open_axes:
                    words[start + axis] = shape[axis]
        frame.results = [(slot, self._output_shape(frame, slot)) for slot in self._outputs]
        frame.seen = shapes

    def _output_shape(self, frame: _Frame, slot: _Slot) -> tuple[int, ...] | None:
        """The shape of an output for the frame's symbols; None where only the run tells."""
        if slot.evaluate is None or not slot.open_axes:
            return None if slot.evaluate is None else slot.shape
        try:
            shape = slot.evaluate(frame.symbols)
            start = frame.shapes[slot.index]
            for axis in slot.open_axes:
                frame.words[start + axis] = shape[axis]
        except (ArithmeticError, ValueError) as error:
            raise _no_output(slot, frame.symbols, error) from None
        return shape

    def _wrong_names(self, inputs: Any) -> RunError:
        expected = shown(", ".join(self._input_names)) or "none"
        if not isinstance(inputs, Mapping):
            return RunError(
                f"{self._name}: inputs are {type(inputs).__name__}, expected a dict of {expected}; name them"
            )
        missing = [name for name in self._input_names if name not in inputs]
        unknown = [str(name) for name in inputs if name not in self._input_names]
        text = [f"missing {shown(', '.join(missing))}"] if missing else []
        text += [f"unknown {shown(', '.join(unknown))}"] if unknown else []
        return RunError(f"{self._name}: inputs: {'; '.join(text)}; expected {expected}; pass exactly these")


_ndarray, _empty = np.ndarray, np.empty
_from_buffer, _address_of = ctypes.c_char.from_buffer, ctypes.addressof


def _address(array: np.ndarray) -> int:
    """Where the array's data lies: 0.3 us by the buffer protocol, against 0.9 us by `__array_interface__`."""
    try:
        return _address_of(_from_buffer(array))  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):  # read-only, empty, or an element type without a buffer format
        return array.__array_interface__["data"][0]


def _described(info: TensorInfo) -> str:
    shape = "..." if info.shape is None else ", ".join(map(str, info.shape))
    return f"{info.kind.removesuffix(TENSOR)}{info.dtype}[{shape}]"


def _info(slot: Mapping[str, Any]) -> TensorInfo:
    shape = slot["shape"]
    return TensorInfo(
        slot["name"], slot["dtype"], None if shape is None else tuple(shape), slot.get("kind", TENSOR)
    )


def _close(library: Library, frames: list[_Frame]) -> None:
    while frames:
        library.destroy(frames.pop().context)
    library.close()


def _adopt(slot: _Slot, value: Any) -> np.ndarray:
    """An array on the same memory, for what is not exactly a NumPy array."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    name = f"input '{shown(slot.info.name)}'"
    if hasattr(value, "__dlpack__"):
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise RunError(
                f"{name}: its DLPack memory cannot be shared: {error}; pass a NumPy array"
            ) from None
    raise RunError(
        f"{name}: a {type(value).__name__}, expected an array; pass np.asarray(value, dtype='{slot.dtype}')"
    )


def _as_objects(slot: _Slot, value: np.ndarray) -> np.ndarray:
    """Strings of any of NumPy's types as objects; any other type is wrong."""
    objects = as_objects(value) if slot.text else None
    if objects is None:
        raise _wrong_dtype(slot, value)
    return objects


def _contiguous(slot: _Slot, value: np.ndarray) -> np.ndarray:
    try:
        return np.ascontiguousarray(value).reshape(value.shape)
    except MemoryError:
        raise RunError(
            f"input '{shown(slot.info.name)}': no memory to copy {value.nbytes} bytes; pass a contiguous array"
        ) from None


def _wrong_dtype(slot: _Slot, value: np.ndarray) -> RunError:
    return RunError(
        f"input '{shown(slot.info.name)}': dtype {value.dtype.str if value.dtype.byteorder == '>' else value.dtype},"
        f" expected {slot.dtype}; convert it with .astype('{slot.dtype}')"
    )


def _no_output(slot: _Slot, symbols: Mapping[str, int], error: Exception) -> RunError:
    sizes = shown(", ".join(f"{name} = {extent}" for name, extent in symbols.items()))
    return RunError(
        f"output '{shown(slot.info.name)}': no array of shape [{', '.join(map(str, slot.shape))}] for"
        f" {sizes or 'it'}:"
        f" {error}; pass inputs of other extents"
    )


def _bind(slot: _Slot, shape: tuple[int, ...], symbols: dict[str, int]) -> None:
    """Check a shape against the signature, and note what its symbols stand for."""
    want = slot.shape
    text = f"[{shown(', '.join(map(str, want)))}]"
    name = f"input '{shown(slot.info.name)}'"
    if len(shape) != len(want):
        raise RunError(
            f"{name}: rank {len(shape)} (shape {list(shape)}), expected {len(want)} ({text}); reshape it"
        )
    for axis, (extent, expected) in enumerate(zip(shape, want, strict=True)):
        if isinstance(expected, int):
            if extent != expected:
                raise RunError(
                    f"{name}: axis {axis} has the extent {extent}, expected {expected};"
                    f" pass an array of shape {text}"
                )
        elif is_symbol(expected) and symbols.setdefault(expected, extent) != extent:
            raise RunError(
                f"{name}: axis {axis} has the extent {extent}, but '{shown(expected)}' is {symbols[expected]}"
                f" elsewhere;"
                f" make both the same"
            )


def _copy_output(slot: _Slot, words: memoryview, at: int) -> Any:
    """An output that lies in the context's memory until the next run, as an array or what it is."""
    if slot.layers:
        return read(words[at : at + VALUE_WORDS], slot.dtype)
    rank = len(slot.shape)
    place = words[at + (TEXT_SHAPE if slot.text else SHAPE)]
    shape = tuple((ctypes.c_int64 * rank).from_address(place)) if rank else ()
    if slot.text:
        return read_strings(words[at + DATA], shape)
    result = np.empty(shape, slot.dtype)
    ctypes.memmove(result.ctypes.data, words[at + DATA], result.nbytes)
    return result


def load(path: str | os.PathLike[str], threads: int | None = None, **options: bool) -> Model:
    """The model in a library that stepwell compiled; verified before it is opened."""
    return Model(open_library(path), threads, **options)
