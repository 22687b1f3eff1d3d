"""Remarks: said only to those who listen, once a place, with the layers of the model and the numbers behind them."""

import json

import onnx
import pytest
from small_models import conv_net, mlp
from xdsl.dialects.builtin import FusedLoc, ModuleOp, NameLoc, NoneAttr, StringAttr, UnknownLoc

from stepwell.errors import CompileError
from stepwell.remarks import Choice, applied, begin_pass, collected, layers_of, listening, missed
from stepwell.tools.stepwell import main


def named(name: str) -> NameLoc:
    return NameLoc(StringAttr(name), UnknownLoc())


def test_nothing_is_said_where_nobody_listens():
    op = ModuleOp([])
    assert not listening()
    applied(op, "something")
    with collected() as remarks:
        assert listening()
        begin_pass("p")
        missed(op, "why", bytes=3, share=0.25)
        missed(op, "why", bytes=3, share=0.25)
    applied(op, "later")
    (remark,) = remarks
    assert (remark.kind, remark.by, remark.what, remark.values) == (
        "missed",
        "p",
        "why",
        {"bytes": 3, "share": 0.25},
    )
    assert str(remark).endswith("remark: p: missed: why (bytes=3, share=0.25)")
    assert json.loads(remark.json())["values"] == {"bytes": 3, "share": 0.25}


def test_merged_ops_name_all_their_layers():
    op = ModuleOp([])
    op.location = FusedLoc(
        (named("conv"), FusedLoc((named("relu"), named("conv")), NoneAttr()), named("add")), NoneAttr()
    )
    assert layers_of(op) == ("conv", "relu", "add")
    with collected() as remarks:
        applied(op, "x")
        op.location = FusedLoc(tuple(named(f"n{i}") for i in range(7)), NoneAttr())
        applied(op, "x")
    assert [remark.where for remark in remarks] == ["conv + relu + add", "n0 + n1 + n2 + n3 + 3 more"]


def test_choices():
    assert Choice.of("all:json") == Choice.of("json") == Choice("all", True)
    for text in ("", "some", "all:xml", "missed:json:x"):
        with pytest.raises(CompileError, match="use missed, applied or all"):
            Choice.of(text)


def test_a_compilation_names_its_layers(tmp_path, capsys):
    expected = {
        "choose-convolution", "fuse-elementwise", "form-kernels", "absorb-slices", "assign-schedules", "vectorise", "plan-memory",
    }  # fmt: skip
    onnx.save(conv_net(), tmp_path / "net.onnx")
    command = [
        "compile",
        str(tmp_path / "net.onnx"),
        "--emit",
        "llvm",
        "-o",
        str(tmp_path / "net.ir"),
        "--target",
        "x86-64-v3",
    ]
    assert main([*command, "--remarks=all:json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    assert {line["pass"] for line in lines} == expected
    layers = {layer for line in lines for layer in line["layers"]}
    assert {"c0", "r0", "p0", "c1", "a1", "d"} <= layers
    with_remarks = (tmp_path / "net.ir").read_bytes()
    assert main(command) == 0
    assert "remark" not in capsys.readouterr().err
    assert (tmp_path / "net.ir").read_bytes() == with_remarks, "who listens changes nothing"


def test_the_flag_takes_no_word_that_is_not_its_own(tmp_path, capsys):
    onnx.save(mlp(), tmp_path / "net.onnx")
    assert (
        main(
            [
                "compile",
                "--remarks",
                str(tmp_path / "net.onnx"),
                "--emit",
                "kernels",
                "-o",
                str(tmp_path / "k.ir"),
            ]
        )
        == 0
    )
    assert "remark: form-kernels: applied:" in capsys.readouterr().err
