"""What `stepwell new` writes passes its own test as it stands, in a fresh process outside the repository."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from stepwell.skeletons import KINDS
from stepwell.tools.stepwell import main

SOURCE = Path(__file__).resolve().parents[2] / "src"


def shell(line: str, folder: Path) -> subprocess.CompletedProcess:
    """A RUN line in a shell of its own, with the tools of this Python."""
    python = shlex.quote(sys.executable)
    functions = (
        f'set -o pipefail; stepwell-opt() {{ {python} -m stepwell.tools.stepwell_opt "$@"; }}; '
        f'filecheck() {{ {python} -m filecheck "$@"; }}; '
    )
    return subprocess.run(
        ["bash", "-c", functions + line], cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "PYTHONPATH": f"{SOURCE}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_it_passes_its_own_test(kind, tmp_path, capsys):
    assert main(["new", kind, f"my-{kind}", "-o", str(tmp_path / "mine")]) == 0
    written, test = (Path(line) for line in capsys.readouterr().out.split())
    assert written.exists() and not list(tmp_path.rglob("*.tmp*"))
    text = test.read_text()
    assert "$" not in re.sub(r"\$\$", "", written.read_text() + text)
    lines = re.findall(r"// RUN: (.*)", text)
    assert lines
    for line in lines:
        line = line.replace("%s", shlex.quote(str(test))).replace("%S", shlex.quote(str(test.parent)))
        done = shell(line, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    checked = [line for line in lines if "filecheck" in line]
    broken = re.sub(
        r"(CHECK|MEANS|LOWERS)(-NEXT|-SAME|-LABEL)?:", r"\1:   nothing like this\n// \1\2:", text, count=1
    )
    test.write_text(broken)
    line = checked[0].replace("%s", str(test)).replace("%S", str(test.parent))
    assert shell(line, tmp_path).returncode != 0, "its test can fail"


def test_nothing_is_overwritten_and_names_are_checked(tmp_path, capsys):
    directory = str(tmp_path)
    assert main(["new", "pass", "drop-logs", "-o", directory]) == 0
    cases = {
        ("pass", "drop-logs"): "drop_logs.py: exists already",
        ("pass", "cse"): "there is such a pass already",
        ("op", "relu"): "there is such an op already",
        ("target", "x86-64-v3"): "there is such a target already",
        ("pass", "DropLogs"): "a name is words in lower case",
        ("pass", "../x"): "a name is words in lower case",
    }
    for (kind, name), message in cases.items():
        assert main(["new", kind, name, "-o", directory]) == 1
        assert message in capsys.readouterr().err
