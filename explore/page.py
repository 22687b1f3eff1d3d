"""The page itself: one file, data and program inside, nothing from the network."""

import base64
import json
import zlib
from dataclasses import asdict
from html import escape
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from stepwell.errors import CompileError
from stepwell.explore.recording import Recording
from stepwell.files import write_atomically
from stepwell.remarks import Remark


def write_page(recording: Recording, path: Path) -> int:
    """Write the page of `recording` to `path`; its size in bytes."""
    data = page_of(recording).encode()
    try:
        write_atomically(path, data)
    except OSError as error:
        raise CompileError(f"{path}: cannot be written: {error.strerror}; choose another place") from error
    return len(data)


def page_of(recording: Recording) -> str:
    """The page as text. The data is deflated, then base64, which a browser unpacks by itself."""
    packed = zlib.compress(json.dumps(data_of(recording), separators=(",", ":")).encode(), 9)
    here = files("stepwell.explore")
    text = (here / "page.html").read_text(encoding="utf-8")
    for mark, part in {
        "<!--TITLE-->": escape(recording.title),
        "/*STYLE*/": (here / "page.css").read_text(encoding="utf-8"),
        "/*DIFF*/": (here / "diff.js").read_text(encoding="utf-8"),
        "/*PROGRAM*/": (here / "page.js").read_text(encoding="utf-8"),
        "<!--DATA-->": base64.b64encode(packed).decode(),
    }.items():
        text = text.replace(mark, part)
    return text


def data_of(recording: Recording) -> dict[str, Any]:
    """Everything the page shows, as JSON; layers are numbers, and each set of layers too."""
    numbers: dict[str, int] = {layer.name: number for number, layer in enumerate(recording.layers)}
    sets: dict[tuple[int, ...], int] = {(): 0}

    def set_of(layers: tuple[str, ...]) -> int:
        known = tuple(numbers[name] for name in layers if name in numbers)
        return sets.setdefault(known, len(sets))

    chunks = [
        {"t": chunk.text, "l": [[set_of(key), len(list(run))] for key, run in groupby(chunk.layers)]}
        for chunk in recording.chunks
    ]
    launches = [{**asdict(launch), "layers": set_of(launch.layers)} for launch in recording.launches]
    plan = recording.plan
    memory = None
    if plan is not None:
        memory = asdict(plan)
        memory["buffers"] = [{**asdict(b), "layers": set_of(b.layers)} for b in plan.buffers]
    options = recording.compilation.options
    return {
        "title": recording.title,
        "options": {"target": options.target, "level": f"-O{options.opt_level}", "threads": options.threads, "fp": options.fp},
        "layers": [[layer.name, layer.operator, layer.type] for layer in recording.layers],
        "chunks": chunks,
        "steps": [[step.stage, step.name, round(step.seconds, 6), list(step.parts.items())] for step in recording.steps],
        "launches": launches,
        "memory": memory,
        "measured": recording.measured or None,
        "remarks": [
            [number, remark.kind, f"{remark.what}{_numbers(remark)}", set_of(remark.layers)]
            for number, step in enumerate(recording.steps)
            for remark in step.remarks
        ],
        "sets": [list(key) for key in sets],
    }  # fmt: skip


def _numbers(remark: Remark) -> str:
    """The numbers behind a remark, as its text shows them."""
    values = (f"{k}={f'{v:.3g}' if isinstance(v, float) else v}" for k, v in remark.values.items())
    return f" ({', '.join(values)})" if remark.values else ""
