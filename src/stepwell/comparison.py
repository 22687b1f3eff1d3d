"""Whether two results agree: the tolerance, how far apart they are, and the judge in float64."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RELATIVE, ABSOLUTE = 1e-3, 1e-5
"""Whole models agree where `|got - want| <= RELATIVE * |want| + ABSOLUTE * max|want|`."""

_STAGE_RELATIVE, _STAGE_ABSOLUTE = 1e-4, 1e-5
"""
Tighter for stages of one compilation, which differ by the order of sums, by contraction and by polynomials of 3.5 ulp;
Winograd's algorithm loses up to 1e-5 of the largest value.
"""
_NOISE = 16
"""Times the error of the float32 reference itself against float64 that a stage may have besides."""


@dataclass(frozen=True)
class Difference:
    """The worst element of a result: how far it is off, and how much of the tolerance that is."""

    ratio: float
    """Above 1: no rounding explains it."""
    absolute: float = 0.0
    relative: float = 0.0
    ulps: float = 0.0
    output: int = 0
    place: tuple[int, ...] = ()
    got: str = ""
    want: str = ""
    why: str = ""
    """Where elements were not even compared."""

    @property
    def agrees(self) -> bool:
        return self.ratio <= 1.0

    def __str__(self) -> str:
        if self.why:
            return self.why
        if self.got == self.want:
            return "equal"
        at = f" at [{', '.join(map(str, self.place))}]" if self.place else ""
        return (
            f"{self.got} instead of {self.want}{at} of output {self.output}"
            f" (absolute {self.absolute:.3g}, relative {self.relative:.3g}, {self.ulps:.3g} ulp)"
        )


def disagreement(got: Any, want: Any) -> float:
    """The largest |got - want| as a multiple of the tolerance of whole models; inf if a NaN differs."""
    return compare([got], [want], tolerance=(RELATIVE, ABSOLUTE)).ratio


def compare(
    got: Sequence[Any],
    want: Sequence[Any],
    exact: Sequence[Any] | None = None,
    tolerance: tuple[float, float] = (_STAGE_RELATIVE, _STAGE_ABSOLUTE),
) -> Difference:
    """
    The worst difference between results `got` and those of the reference `want`. `exact`, if given, is what the
    reference gives in float64: errors are then measured against it, and what the reference itself gets wrong, by
    rounding or by a decision on a rounded value, is allowed to others too.
    """
    worst = Difference(0.0)
    if len(got) != len(want):
        return Difference(float("inf"), why=f"{len(got)} results instead of {len(want)}")
    for index, (g, w) in enumerate(zip(got, want, strict=True)):
        e = exact[index] if exact is not None else None
        if w is None or g is None:
            found = Difference(0.0 if w is g else float("inf"), why="" if w is g else "an absent value")
        elif isinstance(w, dict):
            found = _compare_maps(g, w, e, tolerance)
        elif isinstance(w, list):
            found = (
                compare(g, w, e, tolerance)
                if isinstance(g, list)
                else Difference(float("inf"), why="no list")
            )
        else:
            found = _compare_arrays(
                np.asarray(g), np.asarray(w), None if e is None else np.asarray(e), tolerance
            )
        if found.ratio > worst.ratio:
            worst = Difference(**{**vars(found), "output": index})
    return worst


def _compare_maps(got: Any, want: dict[Any, Any], exact: Any, tolerance: tuple[float, float]) -> Difference:
    """The worst difference between the values of equal keys, which are Python's numbers and strings."""
    if not isinstance(got, dict) or got.keys() != want.keys():
        return Difference(float("inf"), why="other keys" if isinstance(got, dict) else "no map")

    def values(map: dict[Any, Any]) -> np.ndarray:
        array = np.array([*(map[key] for key in want), None], object)[:-1]
        return array.astype(np.float32) if any(isinstance(v, float) for v in array) else array

    same = isinstance(exact, dict) and exact.keys() == want.keys()
    return _compare_arrays(values(got), values(want), values(exact) if same else None, tolerance)


def rounding_of(values: Sequence[Any], exact: Sequence[Any]) -> float:
    """How many ulps the floats of `values` are off at most from what they are in float64."""
    worst = 0.0
    for value, judge in zip(values, exact, strict=True):
        if (
            isinstance(value, np.ndarray)
            and isinstance(judge, np.ndarray)
            and _is_float(value)
            and value.size
        ):
            if value.shape == judge.shape:
                rounded = judge.astype(value.dtype)
                worst = max(worst, compare([value], [rounded], tolerance=(0.0, 0.0)).ulps)
    return worst


def _is_float(array: np.ndarray) -> bool:
    return array.dtype.kind in "fcV"  # V: ml_dtypes


def _compare_arrays(
    got: np.ndarray, want: np.ndarray, exact: np.ndarray | None, tolerance: tuple[float, float]
) -> Difference:
    if got.shape != want.shape:
        return Difference(float("inf"), why=f"shape {list(got.shape)} instead of {list(want.shape)}")
    if got.dtype != want.dtype:
        return Difference(float("inf"), why=f"type {got.dtype} instead of {want.dtype}")
    if want.size == 0:
        return Difference(0.0)
    if exact is not None and exact.shape != want.shape:
        exact = None
    if not _is_float(want):
        differ = got != want
        if exact is not None:
            differ &= exact == want  # else rounding decides it
        if not differ.any():
            return Difference(0.0)
        return _described(got, want, differ, np.where(differ, np.inf, 0.0))
    wide_got, wide_want = _wide(got), _wide(want)
    judge = wide_want if exact is None else _wide(exact)
    both = np.isfinite(wide_want) & np.isfinite(judge)
    with np.errstate(all="ignore"):
        same = (wide_got == wide_want) | (np.isnan(wide_got) & np.isnan(wide_want))
        finite = judge[both]
        scale = float(np.abs(finite).max()) if finite.size else 0.0
        eps = _eps(want.dtype)
        relative, absolute = max(tolerance[0], 4 * eps), max(tolerance[1], eps)
        noise = _NOISE * float(np.abs(wide_want[both] - finite).max()) if finite.size else 0.0
        allowed = relative * np.abs(judge) + absolute * scale + noise + 1e-30
        error = np.abs(wide_got - judge)
        ratio = np.where(same, 0.0, np.where(both & np.isfinite(wide_got), error / allowed, np.inf))
    if exact is not None:
        # Where the reference overflows or makes a NaN and float64 does not, anybody may do either.
        ratio = np.where(np.isfinite(wide_want) != np.isfinite(judge), 0.0, ratio)
    return _described(got, want, ratio > 0, ratio, judge)


def _wide(array: np.ndarray) -> np.ndarray:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _eps(dtype: np.dtype) -> float:
    if dtype.kind == "f":
        return float(np.finfo(dtype).eps)
    if dtype.kind == "c":
        return float(np.finfo(dtype).eps)
    import ml_dtypes

    return float(ml_dtypes.finfo(dtype).eps)


def _described(
    got: np.ndarray, want: np.ndarray, differ: np.ndarray, ratio: np.ndarray, judge: np.ndarray | None = None
) -> Difference:
    """The element with the largest ratio, in figures."""
    if not differ.any():
        return Difference(0.0)
    place = tuple(int(i) for i in np.unravel_index(int(ratio.argmax()), ratio.shape))
    g, w = got[place], want[place]
    if got.dtype.kind not in "biufcV":
        return Difference(float(ratio.max()), place=place, got=repr(g), want=repr(w), why=f"{g!r}, not {w!r}")
    reference = w if judge is None else judge[place]
    with np.errstate(all="ignore"):
        absolute = float(abs(np.complex128(g) - np.complex128(reference)))
        size = float(abs(np.complex128(reference)))
        relative = absolute / size if size else (0.0 if absolute == 0 else float("inf"))
        ulp = max(size, float(np.finfo(np.float32).tiny)) * _eps(want.dtype) if _is_float(want) else 1.0
    return Difference(
        float(ratio.max()), absolute, relative, absolute / ulp, 0, place, f"{g:.9g}" if _is_float(got) else str(g),
        f"{w:.9g}" if _is_float(want) else str(w),
    )  # fmt: skip


def random_array(rng: np.random.Generator, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Normal floats, integers 0 and 1, booleans."""
    if dtype.kind in "biu":
        return rng.integers(0, 2, shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)
