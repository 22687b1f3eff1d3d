"""
Textual LLVM IR beside LLVM itself: what its tools say to a text, and what the round trip through text promises, as
an equality of modules of the llvm dialect.
"""

import shutil
import subprocess

import pytest
from xdsl.dialects.builtin import DenseIntOrFPElementsAttr, IntegerAttr, ModuleOp
from xdsl.ir import Operation

CONSTANTS = (
    "llvm.mlir.constant",
    "llvm.mlir.addressof",
    "llvm.mlir.poison",
    "llvm.mlir.undef",
    "llvm.mlir.zero",
)

_DEFAULT_ZERO = {"llvm.store": "ordering", "llvm.mlir.global": "visibility_", "llvm.trunc": "overflowFlags"}
"""Properties that mean 0 where they are absent."""


def llvm_tool(name: str, text: str, *flags: str) -> str:
    """What a tool of LLVM writes for `text`; skips where it is not installed, fails where it refuses."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not on PATH")
    done = subprocess.run([name, *flags], input=text, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[:2000]
    return done.stdout


def same_meaning(a: ModuleOp, b: ModuleOp) -> bool:
    """
    Equal up to names and to where constants stand: LLVM IR writes a constant where it is used, so neither
    its place nor how often it is written is kept. All zeros are one constant, however they are written.
    """
    return _normal(a).is_structurally_equivalent(_normal(b))


def _normal(module: ModuleOp) -> ModuleOp:
    module = module.clone()
    for op in module.walk():
        key = _DEFAULT_ZERO.get(op.name)
        if isinstance(attr := op.properties.get(key or ""), IntegerAttr) and attr.value.data == 0:
            del op.properties[key]  # pyright: ignore
    for op in module.ops:
        _splat(op, "value")
        if op.name == "llvm.func" and op.regions[0].blocks:
            _gather(op)
    return module


def _splat(op: Operation, key: str) -> None:
    attr = op.properties.get(key)
    if isinstance(attr, DenseIntOrFPElementsAttr):
        values = list(attr.get_values())
        data = attr.data.data
        size = len(data) // max(len(attr), 1)
        if size and data == data[:size] * (len(data) // size):
            op.properties[key] = DenseIntOrFPElementsAttr.from_list(attr.type, values[:1])


def _gather(func: Operation) -> None:
    """Write each constant that is used once, in front of everything, in the order of their text."""
    found: dict[str, Operation] = {}
    for op in list(func.walk()):
        if op.name not in CONSTANTS:
            continue
        _splat(op, "value")
        key = f"{op.name} {op.properties} {op.results[0].type}"
        first = found.setdefault(key, op)
        if first is not op:
            op.results[0].replace_all_uses_with(first.results[0])
            op.detach()
            op.erase()
    entry = func.regions[0].blocks[0]
    for key in sorted(found, reverse=True):
        op = found[key]
        op.detach()
        if not op.results[0].uses:
            op.erase()
        elif entry.first_op is None:
            entry.add_op(op)
        else:
            entry.insert_op_before(op, entry.first_op)
