"""A module in parts: each is a module of its own, and together they define what the whole defined."""

import re
import shutil
import subprocess

import pytest

from stepwell.backends.llvm_ir import split_llvm_ir

WHOLE = """\
declare i32 @launch(ptr)
@weights = external constant [0 x i8], align 64
@table = private constant [2 x float] [float 0x3FF0000000000000, float 0x0000000000000000]
@count = internal global i32 zeroinitializer
define i32 @main(ptr %v0, i64 %v1) {
b0:
  %v2 = call i32 @launch(ptr @first)
  %v3 = call i32 @launch(ptr @second)
  ret i32 %v3
}
define internal void @first.body(ptr noalias %v0) #0 {
b0:
  %v1 = load float, ptr @table
  store float %v1, ptr %v0
  ret void
}
define void @first(ptr %v0) #0 {
b0:
  call void @first.body(ptr %v0)
  ret void
}
define void @second(ptr %v0) #0 {
b0:
  %v1 = load float, ptr @table
  %v2 = call float @llvm.fma.f32(float %v1, float %v1, float %v1)
  store float %v2, ptr %v0
  store i32 1, ptr @count
  ret void, !note !0
}
define void @third(ptr %v0) {
b0:
  store i32 2, ptr @count
  ret void
}
declare float @llvm.fma.f32(float, float, float)
attributes #0 = { "target-cpu"="x86-64" }
!0 = distinct !{!0, !1}
!1 = !{!"seen"}
"""


def defined(text):
    return re.findall(r"^define .*?(@[\w.]+)", text, re.MULTILINE)


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_every_function_is_defined_once(count):
    parts = split_llvm_ir(WHOLE, count)
    assert len(parts) == min(count, 3), "what shares a local function or a variable stays together"
    assert sorted(name for part in parts for name in defined(part)) == sorted(defined(WHOLE))
    for part in parts:
        names = set(defined(part))
        assert ("@first" in names) == ("@first.body" in names)
        assert ("@second" in names) == ("@third" in names)


def test_a_part_holds_what_it_reads_and_declares_the_rest():
    (host,) = (part for part in split_llvm_ir(WHOLE, 3) if "@main" in defined(part))
    assert "declare void @first(ptr) #0\n" in host and "declare i32 @launch(ptr)\n" in host
    assert "@table" not in host and "llvm.fma" not in host and "@weights" not in host
    assert "attributes #0" in host and "!1 = " in host


def test_parts_are_valid_and_link(tmp_path):
    linker, verifier = shutil.which("llvm-link-22"), shutil.which("opt-22")
    if linker is None or verifier is None:
        pytest.skip("llvm-22-tools is not installed")
    paths = []
    for index, part in enumerate(split_llvm_ir(WHOLE, 3)):
        paths.append(tmp_path / f"{index}.ll")
        paths[-1].write_text(part)
        subprocess.run([verifier, "-passes=verify", "-disable-output", str(paths[-1])], check=True)
    done = subprocess.run([linker, "-S", *map(str, paths)], capture_output=True, text=True, check=True)
    assert sorted(defined(done.stdout)) == sorted(defined(WHOLE))


def test_data_that_others_may_read_is_not_split():
    assert split_llvm_ir("@shown = constant i32 1\n" + WHOLE, 2) == ["@shown = constant i32 1\n" + WHOLE]
