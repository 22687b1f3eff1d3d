"""The table of machines, and reading the one we run on."""

import shutil
import subprocess
from pathlib import Path

import pytest

from stepwell import targets
from stepwell.dialects.stepwell import TargetAttr
from stepwell.errors import CompileError
from stepwell.targets import native_target, resolve_target, target_names

V3 = "avx2 fma bmi1 bmi2 f16c movbe abm"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"
VNNI = f"{V4} avx512_vnni avx512vbmi avx512_vbmi2 avx512_bitalg avx512_vpopcntdq gfni vaes vpclmulqdq"


def machine(tmp_path: Path, flags: str, vendor: str = "GenuineIntel", model: int = 143) -> tuple[Path, Path]:
    cpuinfo = tmp_path / "cpuinfo"
    processor = f"processor\t: 0\nvendor_id\t: {vendor}\nmodel\t\t: {model}\ncpu MHz\t\t: 2600.000\nflags\t\t: {flags}\n"
    cpuinfo.write_text(f"{processor}\n{processor}")
    system = tmp_path / "cpu0"
    for index, (level, kind, size) in enumerate(
        [(1, "Data", "48K"), (1, "Instruction", "32K"), (2, "Unified", "2048K"), (3, "Unified", "8M")]
    ):
        directory = system / "cache" / f"index{index}"
        directory.mkdir(parents=True)
        for name, value in (("level", level), ("type", kind), ("size", size)):
            (directory / name).write_text(f"{value}\n")
    return cpuinfo, system


@pytest.mark.parametrize(
    ("flags", "vendor", "cpu", "vector_bytes"),
    [
        ("sse2", "GenuineIntel", "x86-64", 16),
        ("ssse3 sse4_1 sse4_2 popcnt cx16", "GenuineIntel", "x86-64-v2", 16),
        (V3, "GenuineIntel", "x86-64-v3", 32),
        (f"{V3} clwb sha_ni", "AuthenticAMD", "znver2", 32),
        (V4, "Other", "x86-64-v4", 64),
        (f"{V4} clwb", "GenuineIntel", "skylake-avx512", 64),
        (f"{VNNI} avx512_bf16", "AuthenticAMD", "znver4", 64),
        (f"{VNNI} avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16", "GenuineIntel", "sapphirerapids", 64),
    ],
)
def test_a_machine_is_known_by_its_features(tmp_path, monkeypatch, flags, vendor, cpu, vector_bytes):
    monkeypatch.setattr(targets.platform, "machine", lambda: "x86_64")
    found = native_target(*machine(tmp_path, flags, vendor))
    assert (found.name, found.cpu, found.vector_bytes) == ("native", cpu, vector_bytes)
    assert (found.l1_bytes, found.l2_bytes, found.l3_bytes) == (48 << 10, 2048 << 10, 8 << 20)
    assert found.vector_registers == (32 if vector_bytes == 64 else 16)


def test_peak_follows_from_lanes_units_and_clock(tmp_path, monkeypatch):
    monkeypatch.setattr(targets.platform, "machine", lambda: "x86_64")
    two = native_target(*machine(tmp_path, f"{V4} clwb"))
    assert two.flops_per_ns == 16 * 2 * 2 * 2.6
    (tmp_path / "b").mkdir()
    one = native_target(*machine(tmp_path / "b", f"{V4} clwb", model=0xA7))
    assert one.flops_per_ns == 16 * 2 * 1 * 2.6
    (tmp_path / "c").mkdir()
    server = f"{VNNI} avx512_bf16 avx512_fp16 amx_tile amx_int8 amx_bf16"
    masked = native_target(*machine(tmp_path / "c", server, model=0xA7))
    assert masked.flops_per_ns == targets.resolve_target("sapphirerapids").flops_per_ns


def test_an_arm_machine_is_known_by_its_part(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n")
    found = native_target(cpuinfo, tmp_path / "none")
    assert (found.cpu, found.vector_bytes, found.triple) == ("neoverse-n1", 16, "aarch64-unknown-linux-gnu")
    assert found.dram_bytes_per_ns == resolve_target("neoverse-n1").dram_bytes_per_ns
    assert found.dram_bytes_per_ns > resolve_target("cortex-a72").dram_bytes_per_ns


def test_a_machine_that_says_nothing_still_has_numbers(tmp_path):
    found = native_target(tmp_path / "none", tmp_path / "none")
    assert min(found.flops_per_ns, found.l1_bytes, found.l2_bytes, found.l3_bytes, found.threads) > 0


@pytest.mark.parametrize("name", target_names())
def test_every_target_survives_its_attribute(name):
    target = resolve_target(name, fp="fast", threads=3)
    assert TargetAttr.of(target).target() == target
    assert target.lanes(4) * 4 == target.vector_bytes and (target.threads, target.fp) == (3, "fast")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "x86-64-v9"}, r"target 'x86-64-v9': unknown; did you mean 'x86-64-v\d'"),
        ({"name": "?"}, "use one of native"),
        ({"fp": "sloppy"}, "use one of default, strict, fast"),
        ({"threads": 0}, "must be at least 1"),
    ],
)
def test_wrong_targets(arguments, message):
    with pytest.raises(CompileError, match=message):
        resolve_target(**arguments)


@pytest.mark.skipif(shutil.which("clang-22") is None, reason="clang-22 is not installed")
@pytest.mark.parametrize("name", [name for name in target_names() if name != "native"])
def test_clang_knows_every_name(name):
    target = resolve_target(name)
    flag = "-march" if target.triple.startswith("x86") else "-mcpu"
    command = ["clang-22", f"--target={target.triple}", f"{flag}={target.cpu}", "-xc", "-", "-S", "-o", "-"]
    done = subprocess.run(
        command, input="int f(void) { return 0; }", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
