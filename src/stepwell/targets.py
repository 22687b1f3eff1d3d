"""What the compiler knows of a machine: the numbers every cost and tile decision is made from."""

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from stepwell.errors import CompileError

FP_MODES = ("default", "strict", "fast")


@dataclass(frozen=True)
class Target:
    """
    A machine to compile for. Extents are in elements, sizes in bytes, rates per core and nanosecond.
    """

    name: str
    """The name of `--target`: "native", "x86-64-v3", "x86-64-v4", "aarch64"."""
    triple: str
    cpu: str
    """What clang's `-march` (x86) or `-mcpu` (AArch64) is given."""
    vector_bytes: int
    """Bytes of one vector register."""
    vector_registers: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    flops_per_ns: float
    """Peak f32 flops of one core, a multiply-add counted as two."""
    dram_bytes_per_ns: float
    """Bytes read from memory by one core, in order."""
    cache_bytes_per_ns: float
    """Bytes read from L3 by one core."""
    threads: int
    """Default number of threads of a compiled model."""
    fp: str = "default"
    """"default": contraction and our own reassociation; "strict": source order; "fast"."""

    def lanes(self, element_bytes: int) -> int:
        """Elements of `element_bytes` in one vector register."""
        return self.vector_bytes // element_bytes


_KIB, _MIB = 1 << 10, 1 << 20
_X86, _ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
_L3_BYTES_PER_CYCLE = 27.0
"""Measured on Sapphire Rapids for working sets up to 8 MiB; other cores are within a factor of two."""


def _target(
    name: str,
    triple: str,
    *,
    vector_bytes: int,
    registers: int,
    fma_units: int,
    ghz: float,
    dram: float,
    caches: tuple[int, int, int],
) -> Target:
    lanes = vector_bytes // 4
    return Target(
        name=name,
        triple=triple,
        cpu="generic" if name == "aarch64" else name,
        vector_bytes=vector_bytes,
        vector_registers=registers,
        l1_bytes=caches[0],
        l2_bytes=caches[1],
        l3_bytes=caches[2],
        flops_per_ns=lanes * 2 * fma_units * ghz,
        dram_bytes_per_ns=dram,
        cache_bytes_per_ns=_L3_BYTES_PER_CYCLE * ghz,
        threads=1,
    )


def _x86(
    name: str, bits: int, fma_units: int, ghz: float, l1: int, l2: int, l3: int, dram: float = 14.0
) -> Target:
    caches = (l1 * _KIB, l2 * _KIB, l3 * _MIB)
    return _target(
        name,
        _X86,
        vector_bytes=bits // 8,
        registers=32 if bits == 512 else 16,
        fma_units=fma_units,
        ghz=ghz,
        dram=dram,
        caches=caches,
    )


def _arm(name: str, fma_units: int, ghz: float, l1: int, l2: int, l3: int, dram: float) -> Target:
    caches = (l1 * _KIB, l2 * _KIB, l3 * _MIB)
    return _target(
        name, _ARM, vector_bytes=16, registers=32, fma_units=fma_units, ghz=ghz, dram=dram, caches=caches
    )


# Vector widths, FMA pipes: Agner Fog, "The microarchitecture of Intel, AMD and VIA CPUs" (2024); clocks are
# sustained ones with wide vectors; caches per core, L3 the share of one compute complex. What one core reads from
# memory was measured on Sapphire Rapids (128 MB in turn, GB/s), which Intel's servers before and after it resemble, and
# unknown machines are taken for; the others are estimates by their kind (client, server, board), to a factor of two.
_KNOWN = {
    target.name: target
    for target in (
        _x86("x86-64", 128, 1, 3.0, 32, 256, 8),
        _x86("x86-64-v2", 128, 1, 3.0, 32, 256, 8),
        _x86("x86-64-v3", 256, 2, 3.0, 32, 512, 8),
        _x86("x86-64-v4", 512, 2, 3.0, 32, 1024, 16),
        _x86("haswell", 256, 2, 3.0, 32, 256, 8),
        _x86("skylake", 256, 2, 3.5, 32, 256, 8, dram=20.0),
        _x86("alderlake", 256, 2, 4.0, 48, 1280, 16, dram=30.0),
        _x86("skylake-avx512", 512, 2, 2.6, 32, 1024, 16),
        _x86("cascadelake", 512, 2, 2.8, 32, 1024, 16),
        _x86("icelake-server", 512, 2, 2.9, 48, 1280, 24),
        _x86("rocketlake", 512, 1, 3.6, 48, 512, 16, dram=28.0),
        _x86("sapphirerapids", 512, 2, 3.4, 48, 2048, 32),
        _x86("emeraldrapids", 512, 2, 3.0, 48, 2048, 64),
        _x86("graniterapids", 512, 2, 3.0, 48, 2048, 64),
        _x86("znver1", 256, 1, 3.0, 32, 512, 8, dram=20.0),
        _x86("znver2", 256, 2, 3.3, 32, 512, 16, dram=20.0),
        _x86("znver3", 256, 2, 3.5, 32, 512, 32, dram=24.0),
        _x86("znver4", 512, 1, 3.7, 32, 1024, 32, dram=26.0),  # two passes of 256 bits
        _x86("znver5", 512, 2, 4.0, 48, 1024, 32, dram=30.0),
        _arm("aarch64", 2, 2.5, 64, 512, 4, dram=10.0),
        _arm("cortex-a72", 1, 1.8, 32, 512, 1, dram=5.0),
        _arm("cortex-a76", 2, 2.4, 64, 512, 2, dram=10.0),
        _arm("neoverse-n1", 2, 2.5, 64, 1024, 32, dram=18.0),
        _arm("neoverse-v1", 4, 2.6, 64, 1024, 32, dram=25.0),
        _arm("neoverse-v2", 4, 3.0, 64, 2048, 32, dram=30.0),
    )
}

# What a machine must report in /proc/cpuinfo to be called by clang's name; the first match counts. A virtual
# machine may hide features of its CPU, so the name is chosen by what is there, not by the model.
_V3 = "avx2 fma bmi1 bmi2 f16c movbe abm"
_V4 = f"{_V3} avx512f avx512bw avx512cd avx512dq avx512vl"
_ICELAKE = f"{_V4} avx512_vnni avx512vbmi avx512_vbmi2 avx512_bitalg avx512_vpopcntdq gfni vaes vpclmulqdq"
_BY_FLAGS = (
    ("znver5", "AuthenticAMD", f"{_ICELAKE} avx512_bf16 avx512_vp2intersect movdiri avx_vnni"),
    ("znver4", "AuthenticAMD", f"{_ICELAKE} avx512_bf16"),
    ("znver3", "AuthenticAMD", f"{_V3} vaes vpclmulqdq sha_ni"),
    ("znver2", "AuthenticAMD", f"{_V3} clwb sha_ni"),
    ("znver1", "AuthenticAMD", f"{_V3} sha_ni"),
    ("sapphirerapids", "GenuineIntel", f"{_ICELAKE} avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16"),
    ("icelake-server", "GenuineIntel", f"{_ICELAKE} sha_ni wbnoinvd pconfig clwb rdpid"),
    ("rocketlake", "GenuineIntel", f"{_ICELAKE} sha_ni rdpid fsrm"),
    ("cascadelake", "GenuineIntel", f"{_V4} avx512_vnni clwb"),
    ("skylake-avx512", "GenuineIntel", f"{_V4} clwb"),
    ("x86-64-v4", "", _V4),
    ("x86-64-v3", "", _V3),
    ("x86-64-v2", "", "ssse3 sse4_1 sse4_2 popcnt cx16"),
    ("x86-64", "", ""),
)
_ONE_FMA_UNIT = {0x7D, 0x7E, 0x8C, 0x8D, 0xA7}
"""Models of Intel's family 6 with one 512-bit multiplier: Ice, Tiger and Rocket Lake clients."""

_ARM_PARTS = {0xD08: "cortex-a72", 0xD0B: "cortex-a76", 0xD0C: "neoverse-n1", 0xD40: "neoverse-v1"} | {
    0xD4F: "neoverse-v2"
}


def add_target(target: Target) -> None:
    """Make `target` known by its name to `--target`."""
    _KNOWN[target.name] = target


def target_names() -> list[str]:
    """The values of `--target`."""
    return ["native", *_KNOWN]


def resolve_target(name: str = "native", *, fp: str = "default", threads: int = 1) -> Target:
    """The machine called `name`; "native" is read from this machine. An error lists near names."""
    if fp not in FP_MODES:
        raise CompileError(f"floating-point mode '{fp}': unknown; use one of {', '.join(FP_MODES)}")
    if threads < 1:
        raise CompileError(f"threads {threads}: must be at least 1; use threads=1")
    if name == "native":
        found = native_target()
    elif name in _KNOWN:
        found = _KNOWN[name]
    else:
        near = get_close_matches(name, target_names(), n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"use one of {', '.join(target_names())}"
        raise CompileError(f"target '{name}': unknown; {hint}")
    return replace(found, fp=fp, threads=threads)


def native_target(
    cpuinfo: Path = Path("/proc/cpuinfo"), system: Path = Path("/sys/devices/system/cpu/cpu0")
) -> Target:
    """This machine, as its kernel describes it; what the kernel does not say is taken from the table."""
    try:
        first = cpuinfo.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        first = ""
    facts = {
        key.strip().lower(): value.strip()
        for key, _, value in (line.partition(":") for line in first.split("\n"))
    }
    if platform.machine().lower() in ("aarch64", "arm64") or "cpu part" in facts:
        base = _KNOWN[_ARM_PARTS.get(_int(facts.get("cpu part", "")), "aarch64")]
        fma_units = round(base.flops_per_ns / (base.lanes(4) * 2 * _clock(base)))
    else:
        base = _KNOWN[_x86_name(facts)]
        fma_units = round(base.flops_per_ns / (base.lanes(4) * 2 * _clock(base)))
        # A hypervisor may show a server under a client's model number; no client has AMX.
        server = "amx_tile" in facts.get("flags", "").split()
        if base.vector_bytes == 64 and not server and _int(facts.get("model", "")) in _ONE_FMA_UNIT:
            fma_units = 1
    # Hypervisors report the base clock, which a core with wide vectors still exceeds.
    ghz = max(_native_ghz(facts, system) or 0.0, _clock(base))
    l1, l2, l3 = _native_caches(system)
    return replace(
        base,
        name="native",
        l1_bytes=l1 or base.l1_bytes,
        l2_bytes=l2 or base.l2_bytes,
        l3_bytes=l3 or base.l3_bytes,
        flops_per_ns=round(base.lanes(4) * 2 * fma_units * ghz, 3),
        cache_bytes_per_ns=round(_L3_BYTES_PER_CYCLE * ghz, 3),
    )


def usable_cores() -> int:
    """The logical CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _clock(target: Target) -> float:
    return target.cache_bytes_per_ns / _L3_BYTES_PER_CYCLE


def _x86_name(facts: Mapping[str, str]) -> str:
    flags, vendor = set(facts.get("flags", "").split()), facts.get("vendor_id", "")
    for name, wanted_vendor, wanted in _BY_FLAGS:
        if wanted_vendor in ("", vendor) and flags.issuperset(wanted.split()):
            return name
    return "x86-64"


def _native_ghz(facts: Mapping[str, str], system: Path) -> float | None:
    """The highest clock that cpufreq knows, else the one that /proc/cpuinfo shows."""
    try:
        return int((system / "cpufreq/cpuinfo_max_freq").read_text()) / 1e6
    except (OSError, ValueError):
        pass
    try:
        return float(facts["cpu mhz"]) / 1e3
    except (KeyError, ValueError):
        return None


def _native_caches(system: Path) -> tuple[int, int, int]:
    """Bytes of the L1 data, L2 and L3 cache, 0 where unknown; L3 is shared out over the CPUs that share it."""
    sizes = {1: 0, 2: 0, 3: 0}
    for index in sorted(system.glob("cache/index*")):
        try:
            level = int((index / "level").read_text())
            kind = (index / "type").read_text().strip()
            text = (index / "size").read_text().strip()
        except (OSError, ValueError):
            continue
        unit = {"K": _KIB, "M": _MIB}.get(text[-1:], 1)
        if kind != "Instruction" and level in sizes and text.rstrip("KM").isdigit():
            sizes[level] = int(text.rstrip("KM")) * unit
    # A cloud machine shows the whole socket's L3, of which a few cores get a part.
    return sizes[1], sizes[2], min(sizes[3], _MAX_L3_PER_CORE * usable_cores())


_MAX_L3_PER_CORE = 8 * _MIB


def _int(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        return -1
