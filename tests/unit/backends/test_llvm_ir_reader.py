"""Reading textual LLVM IR: what we print comes back, what clang writes means the same, errors point into the text."""

import ctypes
import re
import shutil
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from native import CLANG, build, lower, needs_clang, parse
from xdsl.utils.exceptions import ParseError, PassFailedException, VerifyException

from stepwell.backends.llvm_ir import parse_llvm_ir, print_llvm_ir, read_llvm_ir, syntax
from stepwell.compat import new_context, parse_module, print_module
from stepwell.diagnostics import diagnose, exit_code_of
from stepwell.errors import Error
from stepwell.registry import DIALECTS
from stepwell.tools.stepwell_translate import main
from stepwell.verification import verify_module

sys.path.append(str(Path(__file__).parents[1] / "conversion"))
sys.path.append(str(Path(__file__).parents[1] / "dialects"))
from llvm_modules import same_meaning
from test_host import MODEL
from test_kernels import MATMUL
from test_llvm import OPS

OPT = shutil.which("opt-22")
needs_opt = pytest.mark.skipif(OPT is None, reason="no opt 22 on PATH")

C = """
#include <math.h>
#include <stddef.h>
#include <stdint.h>
struct point { float x, y; int n; };
static const float table[4] = {1.0f, 2.5f, -3.25f, 0.1f};
static const char *names[2] = {"one", "two"};
int counter = 5;
void axpy(float *restrict y, const float *restrict x, float a, size_t n) {
  for (size_t i = 0; i < n; i++) y[i] += a * x[i];
}
float norm(const struct point *p, int n) {
  float s = 0;
  for (int i = 0; i < n; i++) s += sqrtf(p[i].x * p[i].x + fabsf(p[i].y));
  return s * table[n & 3];
}
int pick(int k) {
  switch (k) { case 1: return counter++; case 7: return names[k & 1][1]; case 9: return -k; default: return 77; }
}
double mixed(int8_t *p, uint16_t *q, int n) {
  double s = 0;
  for (int i = 0; i < n; i++) { s += (double)(p[i] / (q[i] + 1)); p[i] = (int8_t)(q[i] >> 3); }
  return s;
}
static __attribute__((noinline)) int helper(int (*f)(int), int x) { return f(x) + f(x + 1); }
int indirect(int x) { return helper(pick, x); }
void copy(char *d, const char *s, size_t n) { __builtin_memcpy(d, s, n); __builtin_memset(d + n, 7, 16); }
_Bool both(_Bool a, _Bool b) { return a && b; }
unsigned bits(unsigned x) { return __builtin_clz(x) + __builtin_popcount(x) + (x << 3 | x >> 29); }
"""


def printed(module) -> str:
    stream = StringIO()
    print_llvm_ir(module, stream)
    return stream.getvalue()


def read(text: str):
    module = parse_llvm_ir(text, new_context(DIALECTS))
    verify_module(module)
    return module


def clang(source: str, *flags: str) -> str:
    command = [str(CLANG), "-S", "-emit-llvm", "-fPIC", *flags, "-x", "c", "-", "-o", "-"]
    return subprocess.run(
        command, input=source, capture_output=True, text=True, check=True, timeout=60
    ).stdout


def verified_by_llvm(text: str) -> None:
    done = subprocess.run([str(OPT), "-passes=verify", "-S"], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def ours():
    # `nounwind` reads as `no_unwind`, and words stand before strings.
    _, ops = parse(
        OPS.replace(
            '[["prefer-vector-width", "512"], "nounwind"]', '["cold", ["prefer-vector-width", "512"]]'
        )
    )
    passes = ("unroll-vectors", "expand-math", "kernels-to-llvm", "host-to-llvm")
    return {"ops": ops, "kernel": lower(MATMUL), "model": lower(MODEL, passes)}


@pytest.mark.parametrize("name", ["ops", "kernel", "model"])
def test_what_we_print_reads_back(name):
    module = ours()[name]
    text = printed(module)
    again = read(text)
    assert printed(again) == text
    assert same_meaning(module, again)
    assert read(printed(again)).is_structurally_equivalent(again)


def test_a_difference_between_modules_is_seen():
    module = ours()["kernel"]
    text = printed(module)
    changed = text.replace("fmul", "fadd", 1) if "fmul" in text else text.replace("add ", "sub ", 1)
    assert changed != text
    assert not same_meaning(module, read(changed))


@needs_clang
@needs_opt
@pytest.mark.parametrize(
    "flags", ["-O0", "-O2 -march=x86-64-v4", "-O2 -g", "-O3 -ffast-math", "-O2 -march=x86-64-v3"]
)
def test_what_clang_writes_reads_and_prints_as_llvm_ir(flags):
    module = read(clang(C, *flags.split()))
    text = printed(module)
    verified_by_llvm(text)
    assert printed(read(text)) == text


@needs_clang
@pytest.mark.parametrize("flags", ["-O0", "-O2 -march=native"])
def test_what_clang_wrote_still_computes_the_same(flags, tmp_path):
    text = clang(C, *flags.split())
    results = []
    for name, ir in (("before", text), ("after", printed(read(text)))):
        (tmp_path / name).mkdir()
        library = build(ir, tmp_path / name)
        rng = np.random.default_rng(0)
        y, x = rng.random(37, np.float32), rng.random(37, np.float32)
        library.axpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_float, ctypes.c_size_t]
        library.axpy(y.ctypes.data, x.ctypes.data, 1.5, 37)
        points = rng.random((9, 3)).astype(np.float32)
        library.norm.argtypes, library.norm.restype = [ctypes.c_void_p, ctypes.c_int], ctypes.c_float
        p = rng.integers(-100, 100, 50, np.int8)
        q = rng.integers(0, 9, 50, np.uint16)
        library.mixed.argtypes, library.mixed.restype = (
            [ctypes.c_void_p] * 2 + [ctypes.c_int],
            ctypes.c_double,
        )
        room = np.zeros(64, np.uint8)
        library.copy(ctypes.c_void_p(room.ctypes.data), ctypes.c_void_p(p.ctypes.data), ctypes.c_size_t(20))
        results.append(
            [
                y.tobytes(),
                library.norm(points.ctypes.data, 9),
                [library.pick(k) for k in (1, 1, 7, 9, 3)],
                [library.indirect(k) for k in (0, 6, 8)],
                library.mixed(p.ctypes.data, q.ctypes.data, 50),
                p.tobytes(),
                room.tobytes(),
                [library.both(a, b) for a in (0, 1) for b in (0, 1)],
                [library.bits(n) for n in (1, 77, 1 << 31)],
            ]
        )
    assert results[0] == results[1]
    assert results[0][2][:2] == [5, 6]


PIECES = """
%pair = type { i32, float }
@zeros = internal global [4 x float] zeroinitializer, align 16
@text = private unnamed_addr constant [4 x i8] c"a\\22\\FF\\00"
@where = constant [2 x ptr] [ptr @zeros, ptr getelementptr inbounds (i8, ptr @zeros, i64 8)]
@both = hidden local_unnamed_addr constant { i32, [2 x float] } { i32 7, [2 x float] [float 1.5, float -0.0] }
declare i32 @printf(ptr, ...)
define signext i16 @pieces(<4 x float> %v, ptr noundef align 8 dereferenceable(32) %p, i1 %c, i64) #3 {
  %h = fadd half 0xH3C00, 0xH8000
  %b = bitcast bfloat 0xR3F80 to i16
  %n = fadd float 0x7FF8000000000000, 0xFFF0000000000000
  br i1 %c, label %then, label %"else block"
then:
  %later = phi i64 [ %next, %"else block" ], [ %0, %1 ]
  %next = add nuw nsw i64 %later, 1
  %s = shufflevector <4 x float> %v, <4 x float> splat (float 2.0), <2 x i32> <i32 5, i32 poison>
  %e = extractelement <2 x float> %s, i64 0
  %agg = insertvalue %pair { i32 3, float poison }, float %e, 1
  %field = extractvalue %pair %agg, 0
  %w = zext nneg i32 %field to i64
  %t = trunc nuw nsw i64 %w to i32
  %g = getelementptr nusw nuw i8, ptr %p, i64 %w
  %x = getelementptr inbounds nuw %pair, ptr %p, i64 1, i32 1
  %o = or disjoint i64 %w, 8
  %r = call i32 (ptr, ...) @printf(ptr nonnull @text, i64 %o)
  %m = tail call fastcc i64 @plain(i64 ptrtoint (ptr @zeros to i64)), !range !0
  %a = load atomic i32, ptr %x seq_cst, align 4
  call void @llvm.prefetch.p0(ptr %p, i32 0, i32 3, i32 1)
  %i = icmp samesign ult i64 %m, %w
  %f = call fast float @llvm.fma.f32(float %e, float %n, float undef)
  call void @llvm.lifetime.start.p0(ptr poison)
  call void @llvm.assume(i1 true) [ "align"(ptr %p, i64 64) ]
  switch i64 %m, label %"else block" [
    i64 -3, label %then2
    i64 9, label %"else block"
  ]
then2:                                            ; preds = %then
  ret i16 %b
"else block":
  br label %then, !llvm.loop !1
}
define internal fastcc i64 @plain(i64 %x) unnamed_addr {
  ret i64 %x
}
declare void @llvm.assume(i1)
attributes #3 = { nounwind memory(argmem: read) "frame-pointer"="all" "target-features"="+avx,+avx2" }
!0 = !{i64 0, i64 10}
!1 = distinct !{!1, !2, !3}
!2 = !{!"llvm.loop.mustprogress"}
!3 = !{!"llvm.loop.unroll.count", i32 4}
!llvm.module.flags = !{!4}
!4 = !{i32 1, !"wchar_size", i32 4}
"""


def test_pieces_that_we_never_write():
    # A jump to `else block` from `then` twice makes no phi there, so the switch has no operands.
    text = PIECES.replace("[ %next, %\"else block\" ]", "[ %c9, %\"else block\" ]").replace(
        '"else block":\n', '"else block":\n  %c9 = add i64 3, 4\n')  # fmt: skip
    module = read(text)
    out = printed(module)
    if OPT is not None:
        verified_by_llvm(text)
        verified_by_llvm(out)
    assert printed(read(out)) == out
    for spelling in (
        "0xH8000", "0xR3F80", "float 0x7FF8000000000000, 0xFFF0000000000000", "add nuw nsw i64", "zext nneg",
        "trunc nuw nsw", "getelementptr nusw nuw i8", "getelementptr inbounds nuw { i32, float }", "or disjoint",
        "call i32 (ptr, ...) @printf(", "tail call fastcc i64 @plain(", "load atomic i32", "seq_cst",
        "call fast float @llvm.fma.f32(", '!"llvm.loop.unroll.count", i32 4', '"frame-pointer"="all"',
        '"target-features"="+avx,+avx2"', "define signext i16 @pieces(", "align 8 dereferenceable(32)",
        "[i8 97, i8 34, i8 -1, i8 0]", "ptr getelementptr inbounds (i8, ptr @zeros, i64 8)",
        "{ i32 7, [2 x float] [float 0x3FF8000000000000, float 0x8000000000000000] }", "<i32 5, i32 poison>",
        "@llvm.lifetime.start.p0(", "hidden local_unnamed_addr constant", "define internal fastcc i64 @plain(",
    ):  # fmt: skip
        assert spelling in out, spelling
    assert "llvm.assume" not in out and "wchar_size" not in out


def test_what_the_module_knows_survives():
    module = read(printed(lower(MATMUL)))
    context = new_context(DIALECTS)
    text = (
        'builtin.module attributes {stepwell.note = "a \\"b\\" \\\\ c", stepwell.size = 3 : i64} {'
        "llvm.func @f() attributes {stepwell.kernel, stepwell.scratch_bytes = 64 : i64} { llvm.return } }"
    )
    module = parse_module(context, text)
    out = printed(module)
    again = read(out)
    assert again.is_structurally_equivalent(module)
    if OPT is not None:
        verified_by_llvm(out)


WRAPPED = "define i32 @f(i32 %x, ptr %p, float %f) {{\n{}\n}}\n"
WRONG = {
    "  %y = add i32 %x, %z\n  ret i32 %y": ("2:20", "%z is not defined"),
    "  %y = add i32 %x, 1\n  %z = add i64 0, %y\n  ret i32 %y": ("3:19", "%y has the type i32, not i64"),
    "  %x = add i32 1, 1\n  ret i32 %x": ("2:3", "%x is defined twice"),
    "  %y = fadd i32 %x, %x\n  ret i32 %y": ("2:13", "fadd of i32"),
    "  ret void": ("2:7", "returns i32"),
    "  br label %no": ("2:6", "there is no block %no"),
    "  %y = add i32 %x,\n  ret i32 %y": ("3:3", "unexpected `ret`"),
    "  store i32 1, ptr %p": ("2:9", "the last block has no terminator"),
    "  %c = icmp oops i32 %x, 1\n  ret i32 %x": ("2:18", "icmp needs one of eq, ne"),
    "  call void @nowhere()\n  ret i32 %x": ("2:13", "@nowhere is not declared"),
    "  ret i32 4294967296": ("2:11", "4294967296 does not fit i32"),
    "  %v = shufflevector <2 x i32> poison, <2 x i32> poison, <3 x i32> <i32 0, i32 1>\n  ret i32 %x": (
        "2:68", "2 lanes for vector<3xi32>"),
    "  br label %a\na:\n  %p1 = phi i32 [ 1, %a ]\n  ret i32 %p1": ("4:13", "the phi must name each block"),
    "  %y = call float @llvm.fma.f32(float %f)\n  ret i32 %x": ("2:19", "takes 3 values"),
    "  ret i32 %x\n  ~": ("3:3", "unexpected character '~'"),
    "  %s = insertvalue { i32 } poison, i32 1, 4\n  ret i32 %x": ("2:43", "has no field 4"),
}  # fmt: skip
REFUSED = {
    "  fence seq_cst\n  ret i32 %x": ("2:3", "`fence`"),
    "  %y = atomicrmw add ptr %p, i32 1 seq_cst\n  ret i32 %y": ("2:8", "`atomicrmw`"),
    '  call void asm sideeffect "nop", ""()\n  ret i32 %x': ("2:13", "`asm`"),
    "  %y = load volatile i32, ptr %p\n  ret i32 %y": ("2:3", "volatile"),
    "  %y = addrspacecast ptr %p to ptr addrspace(1)\n  ret i32 %x": ("2:22", "`addrspacecast`"),
    "  %y = load x86_fp80, ptr %p\n  ret i32 %x": ("2:13", "`x86_fp80`"),
    "  %y = load <{ i8, i32 }>, ptr %p\n  ret i32 %x": ("2:16", "packed struct"),
    '  call i32 @f(i32 1, ptr null, float 0.0) [ "x"(i32 1) ]\n  ret i32 %x': ("2:12", "operand bundles"),
}


@pytest.mark.parametrize(("body", "want"), WRONG.items(), ids=list(range(len(WRONG))))
def test_an_error_points_at_the_word(body, want):
    text = WRAPPED.format(body)
    with pytest.raises(ParseError) as error:
        parse_llvm_ir(text, new_context(DIALECTS), "k.ll")
    shown = diagnose(error.value).render({"k.ll": text})
    place, message = want
    assert shown.startswith(f"k.ll:{place}: error: ") and message in shown
    line, column = place.split(":")
    assert shown.splitlines()[1:] == [text.splitlines()[int(line) - 1], " " * (int(column) - 1) + "^"]


@pytest.mark.parametrize(("body", "want"), REFUSED.items(), ids=list(range(len(REFUSED))))
def test_what_the_dialect_cannot_say_is_refused(body, want):
    text = WRAPPED.format(body)
    with pytest.raises(PassFailedException) as error:
        parse_llvm_ir(text, new_context(DIALECTS), "k.ll")
    place, message = want
    assert exit_code_of(error.value) == 2
    assert diagnose(error.value).render().startswith(f"k.ll:{place}: error: ") and message in str(error.value)


TOKENS = re.findall(r'%[\w.]+|@[\w.]+|[a-z]\w*|"[^"]*"|\s+|.', PIECES, re.DOTALL)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, len(TOKENS) - 1), st.integers(0, len(TOKENS) - 1)),
                min_size=1, max_size=3))  # fmt: skip
def test_damaged_text_is_read_or_refused(edits):
    tokens = list(TOKENS)
    for kind, at, other in edits:
        tokens[at] = ("", TOKENS[other], f"{tokens[at]} {TOKENS[other]}")[kind]
    try:
        module = parse_llvm_ir("".join(tokens), new_context(DIALECTS))
        verify_module(module)
        printed(module)
    except (ParseError, PassFailedException, VerifyException, Error):
        pass


def translate(*arguments: str, stdin: str = "") -> tuple[int, str, str]:
    out, err = StringIO(), StringIO()
    return main(list(arguments), StringIO(stdin), out, err), out.getvalue(), err.getvalue()


def test_the_tool_goes_both_ways(tmp_path):
    text = printed(lower(MATMUL))
    (tmp_path / "k.ll").write_text(text)
    status, ir, err = translate(str(tmp_path / "k.ll"))
    assert (status, err) == (0, "") and "llvm.func" in ir
    assert translate("--to", "ll", "-", stdin=ir) == (0, text, "")
    status, _, err = translate("--from", "ll", "-", stdin=text.replace("ret void", "ret", 1))
    assert status == 1 and err.startswith("<stdin>:") and err.splitlines()[2].strip() == "^"
    assert translate("--from", "ll", str(tmp_path / "absent.ll"))[0] == 1
    assert translate("--from", "ll", "--dim", "n=3", str(tmp_path / "k.ll"))[0] == 1


def test_ops_know_their_line(tmp_path):
    path = tmp_path / "k.ll"
    path.write_text(WRAPPED.format("  %y = add i32 %x, 1\n  ret i32 %y"))
    module = read_llvm_ir(str(path), new_context(DIALECTS))
    text = print_module(module, debuginfo=True)
    assert re.search(rf'%y = llvm.add %x, %\d : i32 loc\("{re.escape(str(path))}":2:3\)', text)


_I, _F, _V, _W = "i32", "float", "<4 x i32>", "<4 x float>"
INTRINSICS = {
    "llvm.intr.ctpop": ("ctpop.i32", _I, [_I]),
    "llvm.intr.cttz": ("cttz.i32", _I, [_I, "i1 false"]),
    "llvm.intr.smin": ("smin.i32", _I, [_I, _I]),
    "llvm.intr.umax": ("umax.i32", _I, [_I, _I]),
    "llvm.intr.umin": ("umin.i32", _I, [_I, _I]),
    "llvm.intr.log10": ("log10.f32", _F, [_F]),
    "llvm.intr.minimum": ("minimum.f32", _F, [_F, _F]),
    "llvm.intr.fmuladd": ("fmuladd.f32", _F, [_F, _F, _F]),
    "llvm.intr.fptoui.sat": ("fptoui.sat.i32.f32", _I, [_F]),
    "llvm.intr.rint": ("rint.f32", _F, [_F]),
    "llvm.intr.roundeven": ("roundeven.f32", _F, [_F]),
    "llvm.intr.round": ("round.f32", _F, [_F]),
    "llvm.intr.tan": ("tan.f32", _F, [_F]),
    "llvm.intr.trunc": ("trunc.f32", _F, [_F]),
    "llvm.intr.powi": ("powi.f32.i32", _F, [_F, _I]),
    "llvm.intr.memmove": ("memmove.p0.p0.i64", "void", ["ptr", "ptr", "i64", "i1 false"]),
    "llvm.intr.memset": ("memset.p0.i64", "void", ["ptr", "i8", "i64", "i1 false"]),
    **{
        f"llvm.intr.vector.reduce.{kind}": (f"vector.reduce.{kind}.v4i32", _I, [_V])
        for kind in ("mul", "and", "or", "xor", "smax", "smin", "umax", "umin")
    },
    **{
        f"llvm.intr.vector.reduce.{kind}": (f"vector.reduce.{kind}.v4f32", _F, [_W])
        for kind in ("fmax", "fmin", "fminimum")
    },
}
"""Op to the intrinsic that it is in LLVM IR, its result and its arguments."""


@pytest.mark.parametrize("name", INTRINSICS)
def test_each_intrinsic_is_read_as_its_op_and_printed_as_itself(name):
    intrinsic, result, arguments = INTRINSICS[name]
    types = [argument.removesuffix(" false") for argument in arguments]
    passed = [a if a.endswith(" false") else f"{a} %{i}" for i, a in enumerate(arguments)]
    given = ", ".join(f"{a} %{i}" for i, a in enumerate(arguments) if not a.endswith(" false"))
    value = "" if result == "void" else "%r = "
    text = (
        f"declare {result} @llvm.{intrinsic}({', '.join(types)})\n"
        f"define {result} @f({given}) {{\n  {value}call {result} @llvm.{intrinsic}({', '.join(passed)})\n"
        f"  ret {result}{' %r' if value else ''}\n}}\n"
    )
    module = parse_llvm_ir(text, new_context(DIALECTS))
    assert name in {op.name for op in module.walk()}
    printed = StringIO()
    print_llvm_ir(module, printed)
    assert f"@llvm.{intrinsic}(" in printed.getvalue()
    again = parse_llvm_ir(printed.getvalue(), new_context(DIALECTS))
    assert again.is_structurally_equivalent(module)


@pytest.mark.parametrize("operation", ["fptosi", "fptoui"])
def test_conversions_of_floats(operation):
    text = f"define i32 @f(float %x) {{\n  %r = {operation} float %x to i32\n  ret i32 %r\n}}\n"
    module = parse_llvm_ir(text, new_context(DIALECTS))
    assert f"llvm.{operation}" in {op.name for op in module.walk()}
    printed = StringIO()
    print_llvm_ir(module, printed)
    assert f"{operation} float" in printed.getvalue()


def _words_of(tree):
    return [
        (word.type, str(word), word.start_pos, word.line, word.column)
        for word in tree.scan_values(lambda _: True)
        if word
    ]


def test_tokens_are_those_of_larks_lexer():
    """Ours makes one match a token; lark's is what the grammar is written for."""
    stream = StringIO()
    print_llvm_ir(lower(MATMUL), stream)
    debug = (
        "; uselistorder in a comment\ndefine void @define(ptr %define) { ; call\n  #dbg_value(ptr %define, !4, !{}, !4)\n"
        "  ret void, !dbg !4\n}\nuselistorder ptr @define, { 1, 0 }\n!4 = !{}\n; the end"
    )
    for text in (PIECES, stream.getvalue(), debug, "", " ; nothing\n"):
        ours, theirs = syntax._tree(text), syntax._grammar().parse(text)
        assert ours == theirs and _words_of(ours) == _words_of(theirs)


@pytest.mark.parametrize(
    "text", ["define void @f() {\n  ret void\n", "define void @f() {\n  ret ? void\n}", "%x = "]
)
def test_wrong_texts_are_left_to_lark(text):
    assert syntax._tree(text) is None
    with pytest.raises(ParseError):
        parse_llvm_ir(text, new_context(DIALECTS))


def test_a_megabyte_is_read_in_seconds():
    """5 s is the promise, on an idle machine; a part is read here, and the bound is in processor time."""
    import time

    stream = StringIO()
    print_llvm_ir(lower(MATMUL), stream)
    kernel = stream.getvalue()
    names = sorted(set(re.findall(r"^define [^@]*@([\w.]+)", kernel, re.MULTILINE)))
    body = kernel[kernel.index("define ") :]
    texts, size, number = [kernel], len(kernel), 0
    while size < 250_000:
        copy = body.split("\nattributes #")[0].split("\ndeclare ")[0]
        for name in names:
            copy = re.sub(rf"@{re.escape(name)}(?![\w.])", f"@copy{number}.{name}", copy)
        texts.append(copy + "\n")
        size, number = size + len(copy), number + 1
    text = "\n".join(texts)
    parse_llvm_ir(kernel, new_context(DIALECTS))  # the tables of the grammar
    begin = time.process_time()
    parse_llvm_ir(text, new_context(DIALECTS))
    seconds = time.process_time() - begin
    assert seconds * 1e6 / len(text) < 12, f"{seconds:.1f} s for {len(text)} characters"
