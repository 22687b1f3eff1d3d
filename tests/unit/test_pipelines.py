"""The text of pipelines: grammar, options, anchors, messages with columns."""

from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xdsl.passes import ModulePass

from stepwell import pipelines
from stepwell.errors import CompileError
from stepwell.pipelines import print_pipeline, resolve_pipeline


@dataclass(frozen=True)
class Pass(ModulePass):
    """A pass with every kind of option."""

    name = "p"
    rows: int = 1
    scale: float | None = None
    on: bool = False
    off: bool = True
    text: str = ""
    sizes: tuple[int, ...] = ()
    mode: Literal["a", "b-c"] = "a"

    def apply(self, ctx, op):
        pass


@dataclass(frozen=True)
class Needs(ModulePass):
    """A pass with an option that has no default."""

    name = "needs"
    rows: int

    def apply(self, ctx, op):
        pass

    def apply_to_function(self, ctx, function):
        pass


PASSES = {"p": Pass, "needs": Needs}


def canonical(text):
    return print_pipeline(resolve_pipeline(text, PASSES))


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("", "builtin.module()"),
        ("p", "builtin.module(p)"),
        ("p,p,", "builtin.module(p,p)"),
        ("p{}", "builtin.module(p)"),
        ("p{rows=1}", "builtin.module(p)"),
        ("p{ rows = 4  on }", "builtin.module(p{rows=4 on})"),
        ("p{sizes=4,8 mode=b-c}", "builtin.module(p{sizes=4,8 mode=b-c})"),
        ('p{text="x, \\"y\\" {z}"}', 'builtin.module(p{text="x, \\"y\\" {z}"})'),
        ("p{on=true off=false scale=0.5}", "builtin.module(p{scale=0.5 on off=false})"),
        ("builtin.module(p,func.func(needs{rows=2}),p)", "builtin.module(p,func.func(needs{rows=2}),p)"),
        ("func.func(needs{rows=2}),func.func(needs{rows=3})", "builtin.module(func.func(needs{rows=2},needs{rows=3}))"),
        ("p, // the first\n  # the second\n p", "builtin.module(p,p)"),
    ],
)  # fmt: skip
def test_reads_and_prints(text, printed):
    assert canonical(text) == printed
    assert canonical(printed) == printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p,q", "pipeline:1:3: unknown pass 'q'"),
        ("p,\n  neds", "pipeline:2:3: unknown pass 'neds'; did you mean 'needs'?"),
        ("p{row=1}", "1:3: pass 'p' has no option 'row'; did you mean 'rows'?"),
        ("p{zzz=1}", "1:3: pass 'p' has no option 'zzz'; it has rows, scale"),
        ("p{rows=x}", "1:3: option 'rows' takes int, not 'x'"),
        ("p{rows=1,2}", "option 'rows' takes int, not '1,2'"),
        ("p{rows}", "option 'rows' takes int, not nothing"),
        ("p{mode=c}", "option 'mode' takes a|b-c, not 'c'"),
        ("p{on=maybe}", "option 'on' takes bool, not 'maybe'"),
        ("p{rows=" + "9" * 5000 + "}", "option 'rows' takes int"),
        ("p{rows=1 rows=2}", "1:10: option 'rows' is given twice"),
        ("needs", "1:1: pass 'needs' needs option 'rows'"),
        ("func.func(p)", "1:11: pass 'p' works on whole modules; take it out of func.func(...)"),
        ("llvm.func(p)", "1:1: unknown anchor 'llvm.func'; use builtin.module or func.func"),
        ("func.func(builtin.module(p))", "builtin.module cannot stand inside func.func(...)"),
        ("p p", "1:3: unexpected 'p' in the pipeline; expected ','"),
        ("p,,p", "1:3: unexpected ',' in the pipeline; expected a pass name"),
        ("p{rows=}", "1:8: unexpected '}'"),
        ("p(", "1:3: unexpected the end"),
        ("p{", "1:3: unexpected the end"),
        ("?", "1:1: unexpected '?'"),
        ("(" * 100, "nested too deeply"),
    ],
)
def test_messages(text, message):
    with pytest.raises(CompileError) as caught:
        resolve_pipeline(text, PASSES)
    assert message in str(caught.value)
    assert str(caught.value).splitlines()[-1].endswith("^")


def test_named_pipelines_expand(monkeypatch):
    monkeypatch.setitem(pipelines.PIPELINES, "twice", "p,p{rows=2}")
    monkeypatch.setitem(pipelines.PIPELINES, "more", "twice, p")
    assert canonical("more") == "builtin.module(p,p{rows=2},p)"
    with pytest.raises(CompileError, match="pipeline 'twice' takes no options"):
        canonical("twice{x=1}")
    monkeypatch.setitem(pipelines.PIPELINES, "twice", "p,more")
    with pytest.raises(CompileError, match="contains itself"):
        canonical("more")


@given(st.text(max_size=40))
def test_any_text_is_read_or_diagnosed(text):
    try:
        resolve_pipeline(text, PASSES)
    except CompileError as error:
        assert str(error).startswith("pipeline:")


@given(st.text(max_size=20), st.integers(-(2**63), 2**63), st.booleans())
def test_options_survive_printing(text, rows, on):
    (stage,) = resolve_pipeline(print_pipeline([pipelines.Stage(Pass(rows=rows, on=on, text=text))]), PASSES)
    assert stage.instance == Pass(rows=rows, on=on, text=text)


def test_function_anchors_visit_definitions_only():
    from stepwell.compat import new_context, parse_module
    from stepwell.registry import DIALECTS

    seen = []

    @dataclass(frozen=True)
    class See(ModulePass):
        """Notes the functions it is given."""

        name = "see"

        def apply(self, ctx, op):
            raise AssertionError

        def apply_to_function(self, ctx, function):
            seen.append(function.sym_name.data)

    ctx = new_context(DIALECTS)
    module = parse_module(
        ctx, "func.func @a() { func.return }\nfunc.func private @b()\nfunc.func @c() { func.return }"
    )
    pipelines.run_pipeline(ctx, module, resolve_pipeline("func.func(see)", {"see": See}))
    assert seen == ["a", "c"]
