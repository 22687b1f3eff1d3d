"""A model's signature in its one canonical form, and the C tables that the runtime checks calls against."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from stepwell.errors import CompileError

ABI_VERSION = 1
"""Of `stepwell.h`; a library of another version is refused before it is opened."""

DTYPES = {
    "float64": (2, 64), "float32": (2, 32), "float16": (2, 16), "bfloat16": (4, 16),
    "float8_e4m3fn": (10, 8), "float8_e4m3fnuz": (11, 8), "float8_e5m2": (12, 8), "float8_e5m2fnuz": (13, 8),
    "float8_e8m0fnu": (14, 8), "float4_e2m1fn": (17, 4),
    "int4": (0, 4), "uint4": (1, 4), "int2": (0, 2), "uint2": (1, 2),
    "int64": (0, 64), "int32": (0, 32), "int16": (0, 16), "int8": (0, 8),
    "uint64": (1, 64), "uint32": (1, 32), "uint16": (1, 16), "uint8": (1, 8),
    "bool": (6, 8), "complex64": (5, 64), "complex128": (5, 128),
    "string": (255, 128),
}  # fmt: skip
"""
Element type to DLPack's code and width in bits; an element of fewer than 8 takes a byte of its own. DLPack has no
strings: the code is ours, the width that of a `stepwell_string`.
"""

_MLIR_NAMES = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "i1": "bool",
    "f8E4M3FN": "float8_e4m3fn", "f8E4M3FNUZ": "float8_e4m3fnuz",
    "f8E5M2": "float8_e5m2", "f8E5M2FNUZ": "float8_e5m2fnuz",
    "complex<f32>": "complex64", "complex<f64>": "complex128",
    **{f"{prefix}i{width}": f"{name}{width}" for width in (8, 16, 32, 64)
       for prefix, name in (("", "int"), ("s", "int"), ("u", "uint"))},
}  # fmt: skip

API = ("abi_version", "signature_json", "create", "run", "last_error", "events", "destroy")
"""The public functions, each without its prefix."""

TENSOR = "tensor"
_LAYERS = {"sequence of ": "s", "optional ": "o", "map from int64 to ": "i", "map from string to ": "t"}
"""The words of a kind, such as `optional sequence of tensor`, and their letters in the table of the runtime."""

_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_.$]*\Z")


def canonical_dtype(name: str) -> str:
    """NumPy's name of an element type that is given by NumPy's or MLIR's name."""
    name = _MLIR_NAMES.get(name, name)
    if name not in DTYPES:
        raise CompileError(
            f"signature: element type '{name}' cannot cross the interface; use one of {', '.join(DTYPES)}"
        )
    return name


def canonical_signature(
    signature: Mapping[str, Any], target: Mapping[str, Any], threads: int
) -> dict[str, Any]:
    """
    The signature as every library carries it. `signature` has `inputs` and `outputs`, each a list of
    `{name, dtype, shape, kind}` with extents that are integers or expressions over symbols (of the tensors that
    a sequence or optional is made of; None: of any rank); `kind` is left out of that of a tensor. Other keys
    (`metadata`, ...) are kept.
    """

    def slots(role: str) -> list[dict[str, Any]]:
        return [
            {
                "name": str(slot["name"]),
                "dtype": canonical_dtype(slot["dtype"]),
                "shape": None
                if slot.get("shape") is None
                else [extent if isinstance(extent, str) else int(extent) for extent in slot["shape"]],
                **({"kind": str(slot["kind"])} if layers_of(slot.get("kind", TENSOR)) else {}),
            }
            for slot in signature.get(role, ())
        ]

    rest = {key: value for key, value in signature.items() if key not in ("inputs", "outputs")}
    return {
        **rest,
        "abi_version": ABI_VERSION,
        "inputs": slots("inputs"),
        "outputs": slots("outputs"),
        "target": dict(target),
        "threads": threads,
    }


def layers_of(kind: str) -> str:
    """
    What a value is made of, from the outside in: `s`, a sequence of; `o`, an optional; `i` and `t`, a map from
    integers and from strings; "" for a tensor.
    """
    layers = ""
    while kind != TENSOR:
        word = next((word for word in _LAYERS if kind.startswith(word)), None)
        if word is None:
            raise CompileError(
                f"signature: no value is a {kind!r}; use {TENSOR}, behind {', '.join(_LAYERS)}"
            )
        layers, kind = layers + _LAYERS[word], kind[len(word) :]
    return layers


def is_symbol(extent: int | str) -> bool:
    """Whether an extent is a symbol's bare name, which an input binds and the runtime checks."""
    return isinstance(extent, str) and _SYMBOL.match(extent) is not None


def _c_string(text: str) -> str:
    """
    A C literal of the text's UTF-8 bytes. Octal escapes end after three digits, hexadecimal ones do not.
    """
    plain = set(range(32, 127)) - set(b'"\\?')
    body = "".join(chr(byte) if byte in plain else f"\\{byte:03o}" for byte in text.encode())
    return '"' + body + '"'


def _c_table(role: str, slots: Sequence[Mapping[str, Any]], symbols: dict[str, int]) -> list[str]:
    lines, rows = [], []
    for index, slot in enumerate(slots):
        extents, layers = [], layers_of(slot.get("kind", TENSOR))
        for extent in slot["shape"] or ():
            if isinstance(extent, int):
                extents.append(str(extent))
            elif layers:
                extents.append("STEPWELL_ANY")
            elif is_symbol(extent) and (role == "inputs" or extent in symbols):
                extents.append(f"STEPWELL_SYMBOL({symbols.setdefault(extent, len(symbols))})")
            else:
                extents.append("STEPWELL_ANY")
        lines.append(f"static const int64_t {role}_{index}[] = {{{', '.join(extents) or '0'}}};")
        code, bits = DTYPES[slot["dtype"]]
        names = f"{_c_string(slot['name'])}, {_c_string(slot['dtype'])}"
        rank = -1 if slot["shape"] is None else len(slot["shape"])
        rows.append(f"  {{{names}, {role}_{index}, {rank}, {code}, {bits}, {_c_string(layers)}}},")
    # C has no empty arrays: a model without inputs gets one row that is never read.
    return [*lines, f"static const stepwell_slot {role}[] = {{", *(rows or ["  {0}"]), "};"]


def c_source(
    signature: Mapping[str, Any],
    prefix: str,
    features: Sequence[str] = (),
    weight_bytes: int = 0,
) -> str:
    """
    The C file that tells the runtime about one model and gives its functions their prefixed names.
    """
    symbols: dict[str, int] = {}
    tables = [
        *_c_table("inputs", signature["inputs"], symbols),
        *_c_table("outputs", signature["outputs"], symbols),
    ]
    names = ", ".join(map(_c_string, symbols)) or "0"
    text = json.dumps(signature, sort_keys=True)
    weights = f"{'stepwell_weights' if weight_bytes else '0'}, {weight_bytes}u"
    counts = (
        f"{len(signature['inputs'])}, {len(signature['outputs'])}, {len(symbols)}, {signature['threads']}"
    )
    lines = [
        '#include "stepwell_rt.h"',
        *tables,
        f"static const char *const symbols[] = {{{names}}};",
        f"static const char *const features[] = {{{', '.join([*map(_c_string, features), '0'])}}};",
        *(["extern char stepwell_weights[];"] if weight_bytes else []),
        f"const stepwell_model_table stepwell_model = {{{_c_string(text)},",
        f"  inputs, outputs, symbols, features, {counts}, {weights}}};",
    ]
    if prefix:
        c, p, o = "stepwell_context *c", prefix, "const stepwell_options *o"
        lines += [
            f"STEPWELL_API int {p}_abi_version(void) {{ return stepwell_abi_version(); }}",
            f"STEPWELL_API const char *{p}_signature_json(void) {{ return stepwell_signature_json(); }}",
            f"STEPWELL_API stepwell_context *{p}_create({o}) {{ return stepwell_create(o); }}",
            f"STEPWELL_API int {p}_run({c}, const stepwell_value *in, size_t n, stepwell_value *out,"
            f" size_t k) {{",
            "  return stepwell_run(c, in, n, out, k);",
            "}",
            f"STEPWELL_API const char *{p}_last_error(const {c}) {{ return stepwell_last_error(c); }}",
            f"STEPWELL_API const stepwell_event *{p}_events({c}, size_t *n) {{ return stepwell_events(c, n); }}",
            f"STEPWELL_API void {p}_destroy({c}) {{ stepwell_destroy(c); }}",
        ]
    return "\n".join(lines) + "\n"


def version_script(prefix: str) -> str:
    """What a library shows of itself: the interface under both names, and nothing else."""
    names = [f"stepwell_{name}" for name in API]
    if prefix:
        names += [f"{prefix}_{name}" for name in API]
    return "{\n  global: " + "; ".join(names) + ";\n  local: *;\n};\n"


def checked_prefix(prefix: str) -> str:
    """`prefix` itself, where it can begin a C identifier and does not hide the unprefixed names."""
    if prefix and (
        not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", prefix) or prefix in ("stepwell", "stepwell_rt")
    ):
        raise CompileError(f"--symbol-prefix: '{prefix}' cannot begin a C name; use letters, digits and _")
    return prefix


def prefix_of(stem: str) -> str:
    """The prefix that a file's name suggests: `ResNet-50.v2` gives `resnet_50_v2`."""
    name = re.sub(r"[^a-z0-9]+", "_", stem.lower()).strip("_")
    return checked_prefix("model_" + name if not name or name[0].isdigit() or name == "stepwell" else name)
