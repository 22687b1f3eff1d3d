"""
Weights become a segment of a linked library without passing through an assembler and a linker.

`.incbin` costs two more copies of them, seconds for a large model, and does not link above 2 GiB. So the linker only
reserves their addresses, as it does for zeroed memory, and `place_weights` puts their bytes behind the rest of the file
and says so in its headers. What comes out is an ordinary ELF file (System V ABI, chapters 4 and 5), for loaders and tools.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from stepwell.errors import CompileError
from stepwell.targets import Target

_HUGE_PAGE_BYTES = 2 << 20
_GAP_BYTES = 256 << 10
"""
Addresses left free before the weights. Their place in the file and in memory must agree modulo a page, a huge one at
best: so they fit right behind the symbol table and the like, which lie in the file but not in memory.
"""

WRITTEN_BYTES = 64 << 20
"""At once: a file system with large pages keeps a file in pages as large as it is given (ext4 from Linux 6.16)."""

_HEADER = np.dtype([
    ("ident", "S16"), ("type", "<u2"), ("machine", "<u2"), ("version", "<u4"), ("entry", "<u8"),
    ("segments_at", "<u8"), ("sections_at", "<u8"), ("flags", "<u4"), ("bytes", "<u2"), ("segment_bytes", "<u2"),
    ("segments", "<u2"), ("section_bytes", "<u2"), ("sections", "<u2"), ("names", "<u2"),
])  # fmt: skip
_SEGMENT = np.dtype([
    ("type", "<u4"), ("flags", "<u4"), ("offset", "<i8"), ("address", "<i8"), ("physical", "<i8"),
    ("file_bytes", "<i8"), ("bytes", "<i8"), ("align", "<i8"),
])  # fmt: skip
_SECTION = np.dtype([
    ("name", "<u4"), ("type", "<u4"), ("flags", "<i8"), ("address", "<i8"), ("offset", "<i8"), ("bytes", "<i8"),
    ("link", "<u4"), ("info", "<u4"), ("align", "<i8"), ("entry_bytes", "<i8"),
])  # fmt: skip
_LOAD, _NOTE, _READABLE = 1, 4, 4
"""Types and flags of segments."""
_CONTENTS, _WRITABLE, _IN_MEMORY, _OF_THREADS = 1, 1, 2, 0x400
"""A type and flags of sections."""


def reserving_assembly(size_bytes: int, target: Target) -> str:
    """
    Addresses for the weights, behind all others: as zeroed data, far from the code, so "large" on x86. And a note, whose
    program header `place_weights` takes.
    """
    large, page = ("l", 12) if target.triple.startswith("x86_64") else ("", 16)
    return f"""\
  .section .note.GNU-stack,"",%progbits
  .section .note.stepwell,"a",%note
  .p2align 2
  .long 9, 0, 0
  .asciz "stepwell"
  .p2align 2
  .section .lbss.stepwell_weights,"aw{large}",%nobits
  .p2align {page}
  .zero {_GAP_BYTES}
  .globl stepwell_weights
  .hidden stepwell_weights
stepwell_weights:
  .zero {size_bytes}
"""


def place_weights(library: Path, size_bytes: int, write: Callable[[BinaryIO], object]) -> None:
    """
    Give what `reserving_assembly` reserved in `library` its bytes, which `write` writes. A `CompileError` where the
    linker left no room for that.
    """
    with library.open("r+b", WRITTEN_BYTES) as file:
        header = _table(file, _HEADER, 0, 1)[0]
        sections = _table(file, _SECTION, header["sections_at"], header["sections"])
        segments = _table(file, _SEGMENT, header["segments_at"], header["segments"])
        reserved = _section_called(b".lbss", file, sections, header["names"])
        spare = _section_called(b".note.stepwell", file, sections, header["names"])
        last = sections[(sections["flags"] & (_IN_MEMORY | _OF_THREADS)) == _IN_MEMORY]
        reserved_at, end = reserved["address"], (last["address"] + last["bytes"]).max()
        if end != reserved_at + _GAP_BYTES + size_bytes:
            raise _strange_linker("the weights do not have the last addresses")
        address, file_end = reserved_at + _GAP_BYTES, file.seek(0, os.SEEK_END)
        align = _HUGE_PAGE_BYTES if size_bytes >= _HUGE_PAGE_BYTES else reserved["align"]
        offset = file_end + (address - file_end) % align
        weights = (_LOAD, _READABLE, offset, address, address, size_bytes, size_bytes, align)
        segments = _with_segment(weights, segments, reserved_at, spare["offset"])
        reserved["type"], reserved["flags"] = _CONTENTS, reserved["flags"] & ~_WRITABLE
        reserved["address"], reserved["offset"], reserved["bytes"] = address, offset, size_bytes
        for at, table in ((header["segments_at"], segments), (header["sections_at"], sections)):
            file.seek(int(at))
            file.write(table.tobytes())
        file.seek(int(offset))
        write(file)
        assert file.tell() == offset + size_bytes, "weights of another size than was reserved"


def _table(file: BinaryIO, row: np.dtype, at: int, count: int) -> np.ndarray:
    file.seek(int(at))
    return np.frombuffer(bytearray(file.read(int(count) * row.itemsize)), row)


def _section_called(prefix: bytes, file: BinaryIO, sections: np.ndarray, names: int) -> np.void:
    """The section whose name begins so: a linker may leave out the rest."""
    file.seek(int(sections[names]["offset"]))
    text = file.read(int(sections[names]["bytes"]))
    for section in sections:
        if text.startswith(prefix, int(section["name"])):
            return section
    raise _strange_linker(f"there is no section {prefix.decode()}")


def _with_segment(weights: tuple, segments: np.ndarray, reserved_at: int, spare_at: int) -> np.ndarray:
    """
    `segments` with `weights` behind the last that is loaded, as their addresses ask for, instead of the note at
    `spare_at`. The one that held the zeros ends where they began.
    """
    kept = []
    for segment in segments:
        begin, end = segment["address"], segment["address"] + segment["bytes"]
        if segment["type"] == _NOTE and 0 <= spare_at - segment["offset"] < segment["file_bytes"]:
            continue
        if segment["type"] == _LOAD and begin <= reserved_at < end:
            segment["bytes"] = reserved_at - begin
        if segment["bytes"] or segment["type"] != _LOAD:
            kept.append(segment)
    behind = 1 + max(index for index, segment in enumerate(kept) if segment["type"] == _LOAD)
    table = np.array([*kept[:behind], np.array(weights, _SEGMENT), *kept[behind:]], _SEGMENT)
    if len(table) > len(segments) or (table["file_bytes"] > table["bytes"]).any():
        raise _strange_linker("no program header is free for the weights")
    return np.concatenate([table, np.zeros(len(segments) - len(table), _SEGMENT)])


def _strange_linker(what: str) -> CompileError:
    return CompileError(
        f"this linker's libraries cannot be given weights: {what}; let clang use GNU ld or lld (STEPWELL_CLANG)"
    )
