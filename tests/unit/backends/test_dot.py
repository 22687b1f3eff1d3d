"""Pictures of modules: every region is a frame, every value that is read an arrow."""

import re
import shutil
import subprocess
from io import StringIO

import pytest
from onnx import TensorProto, helper

from stepwell.backends.dot import print_dot
from stepwell.compat import new_context
from stepwell.frontends.onnx import import_onnx
from stepwell.registry import DIALECTS


@pytest.fixture(scope="module")
def picture():
    def info(name, *shape, dtype=TensorProto.FLOAT):
        return helper.make_tensor_value_info(name, dtype, shape)

    then = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["t"], name='say "no"')], "t", [], [info("t", 3)]
    )
    other = helper.make_graph([helper.make_node("Abs", ["x"], ["e"], name="yes")], "e", [], [info("e", 3)])
    nodes = [helper.make_node("If", ["c"], ["y"], name="choice", then_branch=then, else_branch=other)]
    graph = helper.make_graph(nodes, "g", [info("c", dtype=TensorProto.BOOL), info("x", 3)], [info("y", 3)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    out = StringIO()
    print_dot(import_onnx(model, new_context(DIALECTS)), out)
    return out.getvalue()


def test_branches_are_frames_with_their_names(picture):
    labels = re.findall(r'^ *label="(.*)"$', picture, re.MULTILINE)
    assert labels == ["func.func main", "graph.if then_branch", "graph.if else_branch"]
    assert picture.count("{") == picture.count("}")


def test_arrows_go_into_frames(picture):
    nodes = dict(re.findall(r'^ *(n\d+) \[(?:shape=ellipse, )?label="([^"]*)"', picture, re.MULTILINE))
    arrows = {(nodes[a], nodes[b]) for a, b in re.findall(r"(n\d+) -> (n\d+)", picture)}
    assert {
        ("%arg1", "graph.neg"),
        ("%arg1", "graph.abs"),
        ("graph.if", "func.return"),
        ("%arg0", "graph.if"),
    } <= arrows


def test_layers_are_shown_when_pointed_at(picture):
    assert r'tooltip="say \"no\""' in picture and 'tooltip="yes"' in picture


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs graphviz")
def test_graphviz_reads_it(picture):
    done = subprocess.run(["dot", "-Tsvg"], input=picture, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.count('<g id="clust') == 3, done.stderr
