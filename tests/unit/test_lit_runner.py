"""The runner of lit tests: what it runs itself, what it leaves to a shell, what it shows."""

from pathlib import Path

import pytest

from stepwell.tools.lit_runner import _run_lines, _split, run_test

BODY = "\n// CHECK: func.func @f\nfunc.func @f() {\n  func.return\n}\n"


def outcome(tmp_path: Path, run: str, body: str = BODY):
    path = tmp_path / "t.ir"
    path.write_text(f"// RUN: {run}\n{body}")
    return run_test(path)


@pytest.mark.parametrize(
    "run",
    [
        "stepwell-opt %s | filecheck %s",
        "%stepwell-opt %s | filecheck %s",
        "stepwell-opt %s -o %t.ir && stepwell-opt %t.ir | filecheck %s",
        "stepwell-opt %s > %t && filecheck %s < %t",
        "stepwell-opt < %s | filecheck %s",
        "not stepwell-opt %s -p nope",
        "not stepwell-opt %s -p nope 2>&1 | filecheck %s --check-prefix=ERR\n// ERR: unknown pass 'nope'",
        "not stepwell-opt %s -p nope 2> %t; filecheck %s --check-prefix=ERR < %t\n// ERR: unknown pass 'nope'",
        "stepwell-opt %s -p 'canonicalize,cse' | filecheck %s",
        "stepwell-opt %s \\\n// RUN: | filecheck %s",
        "stepwell-opt %s | cat | filecheck %s",
        "grep -q func %s",
    ],
)
def test_passes(tmp_path, run):
    result = outcome(tmp_path, run)
    assert result.passed, result.log


@pytest.mark.parametrize(
    ("run", "shown"),
    [
        (
            "stepwell-opt %s | filecheck %s --check-prefix=NO\n// NO: something else",
            "    2 |   func.func @f() {",
        ),
        ("not stepwell-opt %s", "status 1"),
        ("stepwell-opt %s -p nope", "unknown pass 'nope'"),
        ("stepwell-opt %s -p nope | filecheck %s", "unknown pass 'nope'"),
        ("stepwell-opt missing.ir", "missing.ir: cannot be read"),
        ("false", "status 1"),
        ("stepwell-opt %s && stepwell-opt %s -p nope", "unknown pass"),
    ],
)
def test_fails_and_shows_why(tmp_path, run, shown):
    result = outcome(tmp_path, run)
    assert not result.passed and shown in result.log


def test_a_file_without_run_lines_fails(tmp_path):
    path = tmp_path / "t.ir"
    path.write_text(BODY)
    assert "no RUN line" in run_test(path).log


def test_requirements_are_checked(tmp_path):
    result = outcome(tmp_path, "stepwell-opt %s", f"// REQUIRES: no-such-program-here{BODY}")
    assert result.unsupported == "no-such-program-here is not installed"


def test_what_runs_in_this_process():
    assert _split("stepwell-opt x -p 'a{b=1},c' 2>&1 | filecheck x") is not None
    assert _split("stepwell-opt 'a|b' | filecheck x")[0][0].words == ["stepwell-opt", "a|b"]
    for line in (
        "cat x",
        "stepwell-opt x; rm x",
        "stepwell-opt $X",
        "stepwell-opt x | sort",
        "(stepwell-opt x)",
    ):
        assert _split(line) is None


def test_lines_are_joined():
    assert _run_lines("// RUN: a \\\n// RUN:   b\n// RUN: c") == ["a b", "c"]


def test_the_command_runs_files_and_directories(tmp_path, capsys):
    from stepwell.tools.stepwell import main

    (tmp_path / "input.ir").write_text(BODY)
    assert main(["test", str(tmp_path)]) == 1
    assert "holds no test" in capsys.readouterr().err
    (tmp_path / "good.ir").write_text(f"// RUN: stepwell-opt %s | filecheck %s\n{BODY}")
    assert main(["test", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"pass  {tmp_path / 'good.ir'}\n"
    (tmp_path / "bad.ir").write_text(
        f"// RUN: stepwell-opt %s | filecheck %s\n{BODY}\n// CHECK: nothing like this\n"
    )
    assert main(["test", str(tmp_path / "good.ir"), str(tmp_path / "bad.ir")]) == 1
    captured = capsys.readouterr()
    assert "FAIL" in captured.out and "Couldn't match" in captured.err
    assert main(["test", str(tmp_path / "absent.ir")]) == 1
