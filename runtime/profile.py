"""Where the time of a compiled model goes: launches of kernels, named by the layers that they compute."""

import ctypes
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


class EventStruct(ctypes.Structure):
    """`stepwell_event` of `stepwell.h`."""

    _fields_ = (
        ("begin_ns", ctypes.c_int64),
        ("end_ns", ctypes.c_int64),
        ("tiles", ctypes.c_int64),
        ("site", ctypes.c_int32),
        ("thread", ctypes.c_int32),
    )


@dataclass(frozen=True)
class Site:
    """One launch in the compiled program; `operations` and `bytes` of one run are None where not known."""

    kernel: str
    layers: tuple[str, ...]
    operations: int | None
    bytes: int | None

    @property
    def title(self) -> str:
        """The layers that it computes, else its kernel."""
        return " + ".join(self.layers) if self.layers else f"({self.kernel})"


@dataclass(frozen=True)
class Event:
    """One thread's part in one launch; site -1 is the whole run. Thread 0 is the caller."""

    site: int
    thread: int
    begin_ns: int
    end_ns: int
    tiles: int


@dataclass(frozen=True)
class Row:
    """One launch of the program: how often it ran in the run, and for how long in all."""

    site: Site
    calls: int
    ns: int

    @property
    def gflops(self) -> float | None:
        return None if self.site.operations is None else self.site.operations * self.calls / max(self.ns, 1)

    @property
    def gbytes(self) -> float | None:
        return None if self.site.bytes is None else self.site.bytes * self.calls / max(self.ns, 1)


@dataclass
class Profile:
    """The events of some runs of one model."""

    sites: list[Site]
    runs: list[list[Event]] = field(default_factory=list)

    @property
    def fastest(self) -> list[Event]:
        """The run that other programs disturbed least; its parts add up, which medians of parts do not."""
        return min(self.runs, key=_length_ns)

    @property
    def run_ns(self) -> int:
        """The time of the fastest run, within the library."""
        return _length_ns(self.fastest)

    def rows(self) -> list[Row]:
        """A row for each launch of the fastest run, in the order of the program."""
        times: dict[int, list[int]] = {}
        for event in self.fastest:
            if event.site >= 0 and event.thread == 0:
                times.setdefault(event.site, []).append(event.end_ns - event.begin_ns)
        return [Row(self._site(site), len(times[site]), sum(times[site])) for site in sorted(times)]

    def _site(self, number: int) -> Site:
        return self.sites[number] if number < len(self.sites) else Site(f"launch {number}", (), None, None)

    def table(self, limit: int | None = None) -> str:
        """A line for each launch, the slowest first, and what is left: the host and its calls."""
        rows = sorted(self.rows(), key=lambda row: -row.ns)
        run_ns = self.run_ns
        lines = [f"{'us':>9} {'share':>6} {'GFLOP/s':>8} {'GB/s':>7} {'MB':>8}  kernel               layer"]
        for row in rows[:limit]:
            size = "" if row.site.bytes is None else f"{row.site.bytes * row.calls / 1e6:.2f}"
            layer = row.site.title if row.site.layers else "-"
            lines.append(
                f"{row.ns / 1e3:9.2f} {row.ns / run_ns:6.1%} {_rate(row.gflops):>8} {_rate(row.gbytes):>7} {size:>8}"
                f"  {row.site.kernel:20} {layer}"
            )
        shown = sum(row.ns for row in rows[:limit])
        if limit is not None and len(rows) > limit:
            rest = sum(row.ns for row in rows[limit:])
            shown += rest
            lines.append(
                f"{rest / 1e3:9.2f} {rest / run_ns:6.1%} {'':26}{len(rows) - limit} more launches".rstrip()
            )
        host = run_ns - shown
        lines.append(f"{host / 1e3:9.2f} {host / run_ns:6.1%} {'':26}between launches")
        lines.append(f"{run_ns / 1e3:9.2f}        {'':26}the run (fastest of {len(self.runs)})")
        return "\n".join(lines)

    def chrome_trace(self) -> str:
        """The runs in the Trace Event Format, which chrome://tracing and ui.perfetto.dev open."""
        start = min((event.begin_ns for run in self.runs for event in run), default=0)
        threads = {event.thread for run in self.runs for event in run}
        entries = [
            {"ph": "M", "pid": 1, "tid": t, "name": "thread_name",
             "args": {"name": "caller" if t == 0 else f"worker {t}"}}
            for t in sorted(threads)
        ]  # fmt: skip
        entries += [self._entry(event, start) for run in self.runs for event in run]
        return json.dumps({"traceEvents": entries, "displayTimeUnit": "ns"})

    def _entry(self, event: Event, start: int) -> dict[str, Any]:
        at = {"ts": (event.begin_ns - start) / 1e3, "dur": (event.end_ns - event.begin_ns) / 1e3}
        if event.site < 0:
            return {"ph": "X", "pid": 1, "tid": event.thread, "name": "run", "cat": "run", **at}
        site = self._site(event.site)
        details = {"kernel": site.kernel, "layers": list(site.layers), "tiles": event.tiles}
        if site.operations is not None:
            details["operations"] = site.operations
        if site.bytes is not None:
            details["bytes"] = site.bytes
        return {
            "ph": "X", "pid": 1, "tid": event.thread, "name": site.title, "cat": "kernel", "args": details, **at,
        }  # fmt: skip


def sites_of(manifest: dict[str, Any]) -> list[Site]:
    """The launches that a library's manifest lists."""
    return [
        Site(entry["kernel"], tuple(entry["layers"]), entry["operations"], entry["bytes"])
        for entry in manifest.get("launches", ())
    ]


def events_at(address: int | None, count: int) -> Iterator[Event]:
    """The events that the runtime holds at `address`."""
    if not address:
        return
    structs = (EventStruct * count).from_address(address)
    for struct in structs:
        yield Event(struct.site, struct.thread, struct.begin_ns, struct.end_ns, struct.tiles)


def _length_ns(run: list[Event]) -> int:
    whole = next(event for event in run if event.site < 0)
    return whole.end_ns - whole.begin_ns


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
