"""Every op of the `text` dialect on values worked out by hand: on the interpreter, and compiled."""

import re

import numpy as np
import pytest

import stepwell
from stepwell.compat import new_context, parse_module
from stepwell.dialects.text import TEXT
from stepwell.interpreter import interpret
from stepwell.registry import DIALECTS


def words(*texts: str) -> np.ndarray:
    return np.array([*texts, None], object)[:-1]


def numbers(*values, dtype) -> np.ndarray:
    return np.array(values, dtype)


def in_bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.int8)


# The automaton of `a*`: class 0 is `a`, class 1 all else; state 1 accepts, state 0 is the end of all hope.
_CLASSES = np.array([0 if byte == ord("a") else 1 for byte in range(256)], np.int8)
_I64, _F32, _F64 = np.int64, np.float32, np.float64

# op: (inputs, attributes, result)
CASES = {
    "text.view": ([in_bytes("abcde"), numbers(0, 2, 2, 5, dtype=_I64)], "", words("ab", "", "cde")),
    "text.equal": ([words("é", "a", ""), words("é", "b", "")], "", numbers(True, False, True, dtype=bool)),
    "text.concat": ([words("a", "", "ü"), words("b", "c", "")], "", words("ab", "c", "ü")),
    # a..z by -32; every second of 0x100..0x10f by 1: Ă is 0x102, ā 0x101
    "text.map": (
        [words("aZ-z", "Ăā", ""), numbers([97, 122, 1, -32], [0x100, 0x10F, 2, 1], dtype=np.int32)],
        "", words("AZ-Z", "ăā", ""),
    ),
    "text.find": (
        [words("b", "bb", "", "z"), in_bytes("abb\0"), numbers(0, 1, 3, dtype=_I64)],
        "", numbers(-1, 1, -1, -1, dtype=_I64),
    ),
    "text.rank": ([words("b", "é", "a", "b")], "", numbers(1, 2, 0, 1, dtype=_I64)),
    "text.match": (
        [words("aaa", "", "ab"), _CLASSES, numbers(0, 0, 1, 0, dtype=np.int32), numbers(False, True, dtype=bool)],
        "", numbers(True, True, False, dtype=bool),
    ),
    "text.count": ([words("a,b", "", ",,"), in_bytes(",")], "limit = -1 : i64", numbers(2, 1, 3, dtype=_I64)),
    "text.split": (
        [words("a,b,c", "", "d"), in_bytes(",")],
        "limit = 1 : i64", words("a", "b,c", "", "", "d", "").reshape(3, 2),
    ),
    "text.parse_f64": ([words(" -2.5e3", "0x1p-2", "inf")], "", numbers(-2500, 0.25, np.inf, dtype=_F64)),
    # 2^24 + 1 lies between two floats; with the 1 at the end it is nearer to the upper one
    "text.parse_f32": (
        [words("16777217.0000000001", "0.1")], "", numbers(16777218, 0.1, dtype=_F32),
    ),
    "text.parse_i64": (
        [words("-7", "9223372036854775807", "3.9")],
        "is_unsigned = 0 : i64", numbers(-7, 2**63 - 1, 3, dtype=_I64),
    ),
    "text.format_f64": (
        [numbers(0.1, 1e20, -np.inf, np.nan, dtype=_F64)],
        "digits = 8 : i64", words("0.1", "1e+20", "-INF", "NaN"),
    ),
    "text.format_fixed": (
        [numbers(0.1, -1e20, -np.inf, np.nan, 2e-9, dtype=_F64)],
        "digits = 6 : i64", words("0.100000", "-100000000000000000000.000000", "-inf", "nan", "0.000000"),
    ),
    "text.format_i64": ([numbers(-5, 0, dtype=_I64)], "is_unsigned = 0 : i64", words("-5", "0")),
    # Rows 1 2 1 2 and 2 2 1 3. Of one item: 2 at column 0; of two: 1 2 at column 1, also with one item between.
    "text.grams": (
        [
            numbers([1, 2, 1, 2], [2, 2, 1, 3], dtype=_I64), numbers(2, 1, 2, dtype=_I64), numbers(0, 1, dtype=_I64),
            numbers([1, 0, 0, 1], [2, 1, 1, 1], dtype=_I64),
        ],
        "columns = 2 : i64, most_skipped = 0 : i64", numbers([2, 2], [2, 0], dtype=_F32),
    ),
}  # fmt: skip

_ELEMENTS = {"O": "!text.string", "b": "i1"}


def _type(array: np.ndarray) -> str:
    element = _ELEMENTS.get(array.dtype.kind) or f"{array.dtype.kind}{8 * array.dtype.itemsize}"
    return f"tensor<{''.join(f'{n}x' for n in array.shape)}{element}>"


def program(name: str) -> str:
    """`@main` at the tensor level, with this op alone."""
    inputs, attributes, want = CASES[name]
    arguments = ", ".join(f"%x{i}: {_type(x)}" for i, x in enumerate(inputs))
    values, types = ", ".join(f"%x{i}" for i in range(len(inputs))), ", ".join(map(_type, inputs))
    result = _type(want)
    return (
        f"func.func @main({arguments}) -> {result} {{\n"
        f"  %o = tensor.empty() : {result}\n"
        f"  %y = {name} ins({values} : {types}) outs(%o : {result}) {{{attributes}}} -> {result}\n"
        f"  func.return %y : {result}\n}}\n"
    )


def agrees(got: np.ndarray, want: np.ndarray) -> bool:
    if want.dtype == object:
        return np.asarray(got, object).tolist() == want.tolist()
    return got.dtype == want.dtype and np.array_equal(got, want)


@pytest.mark.parametrize("name", CASES)
def test_its_meaning_and_its_code(name, tmp_path):
    inputs, _, want = CASES[name]
    ctx = new_context(DIALECTS)
    got = interpret(parse_module(ctx, program(name)), inputs, ctx)[0]
    assert agrees(got, want), f"interpreted: {got}"
    (tmp_path / "text.ir").write_text(program(name))
    compiled = stepwell.compile(str(tmp_path / "text.ir"), cache=False)(*inputs)
    assert agrees(compiled, want), f"compiled: {compiled}"


def test_every_op_has_a_case():
    assert set(CASES) == {op.name for op in TEXT.operations}


def test_what_the_verifier_refuses():
    from xdsl.utils.exceptions import VerifyException

    ctx = new_context(DIALECTS)
    for text, message in (
        (program("text.concat").replace("(%x0, %x1 :", "(%x0 :").replace("string>, tensor<3x!text.string>) outs", "string>) outs"), "2 operands, expected 3"),
        (re.sub(r"tensor<4xi64>", "tensor<4xi32>", program("text.rank")), "has elements of i32"),
        (program("text.match").replace("tensor<256xi8>", "tensor<255xi8>"), "no automaton"),
    ):  # fmt: skip
        with pytest.raises(VerifyException, match=message):
            parse_module(ctx, text).verify()
