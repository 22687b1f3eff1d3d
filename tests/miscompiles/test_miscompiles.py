"""Each mistake of the corpus is found, named and made small, without help; without it nothing is found."""

import json
import sys
from pathlib import Path

import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import models
from corpus import MUTANTS, Mutant

from stepwell.checking import Check
from stepwell.compat import new_context, parse_module
from stepwell.compiler import Compilation, Options
from stepwell.reduction import op_count
from stepwell.registry import DIALECTS
from stepwell.tools import stepwell, stepwell_opt, stepwell_reduce

_MOST_OPS = 10
_EVERY = 3
"""One mutant in three is in the ordinary run; `--miscompiles` runs all."""


@pytest.fixture
def selected(request):
    def select(number: int) -> None:
        if number % _EVERY and not request.config.getoption("--miscompiles"):
            pytest.skip("one in three runs without --miscompiles")

    return select


@pytest.mark.parametrize("number", range(len(MUTANTS)), ids=[mutant.name for mutant in MUTANTS])
def test_the_guilty_pass_is_named_and_the_module_reduced(number, selected, tmp_path, capsys):
    selected(number)
    mutant, reproducer = MUTANTS[number], tmp_path / "small.ir"
    model = mutant.model().SerializeToString()
    with mutant.active():
        check = Check(Options(opt_level=mutant.opt_level), last=mutant.stage, reproducer=reproducer)
        finding = check.run(model).finding
        assert finding is not None, "nothing was found"
        assert finding.pass_name.split("{")[0] == mutant.guilty
        assert finding.stage == mutant.stage
        if mutant.stage == "so":
            return  # there is no IR to blame
        assert finding.reproducer == str(reproducer)
        assert finding.reproducer_ops <= _MOST_OPS
        assert stepwell_opt.main(["--run-reproducer", str(reproducer)]) == 3
        assert "miscompiled by" in capsys.readouterr().err
        _reduced_by_the_tool(mutant, model, finding.pipeline, tmp_path)
    assert stepwell_opt.main(["--run-reproducer", str(reproducer)]) == 0


_SAMPLED = [mutant for mutant in MUTANTS if mutant.stage in ("loops", "memref", "llvm", "ll")]


@pytest.mark.parametrize("number", range(len(_SAMPLED)), ids=[mutant.name for mutant in _SAMPLED])
def test_the_guilty_pass_is_named_on_samples(number, selected, tmp_path):
    """As of a model whose levels take too long to be run as a whole; the reproducer is the wrong kernel, made small."""
    selected(number)
    mutant, reproducer = _SAMPLED[number], tmp_path / "small.ir"
    check = Check(
        Options(opt_level=mutant.opt_level),
        last=mutant.stage,
        samples=True,
        stage_s=1.0,
        reproducer=reproducer,
    )
    with mutant.active():
        report = check.run(mutant.model().SerializeToString())
    assert report.finding is not None, "nothing was found"
    assert report.finding.pass_name.split("{")[0] == mutant.guilty
    assert report.stages[-1].sample.startswith("on samples")
    assert report.finding.reproducer_ops <= _MOST_OPS, report.notes
    with mutant.active():
        assert stepwell_opt.main(["--run-reproducer", report.finding.reproducer]) == 3
    assert stepwell_opt.main(["--run-reproducer", str(reproducer)]) == 0


def test_a_kernel_that_takes_too_long_is_reduced_on_samples():
    """Each candidate is run for a hundredth of a second as a whole, then on samples; the last one is small enough."""
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "tanh-loses-its-sign")
    check = Check(Options(opt_level=mutant.opt_level), last=mutant.stage, samples=True, stage_s=0.01)
    with mutant.active():
        finding = check.run(mutant.model().SerializeToString()).finding
        assert finding is not None and finding.pass_name.split("{")[0] == mutant.guilty
        assert finding.reproducer_ops <= _MOST_OPS
        assert stepwell_opt.main(["--run-reproducer", finding.reproducer]) == 3
    Path(finding.reproducer).unlink()


def _reduced_by_the_tool(mutant: Mutant, model: bytes, pipeline: str, folder: Path) -> None:
    compilation = Compilation(Options(opt_level=mutant.opt_level))
    compilation.read(model)
    compilation.write_ir(folder / "whole.ir")
    arguments = [str(folder / "whole.ir"), "--predicate", "miscompile", "-p", pipeline]
    arguments += ["--through", "ll"] if mutant.stage == "ll" else ["--suspect", mutant.guilty]
    assert stepwell_reduce.main([*arguments, "-o", str(folder / "reduced.ir")]) == 0
    text = (folder / "reduced.ir").read_text()
    module = parse_module(new_context(DIALECTS), text)
    assert op_count(module) <= _MOST_OPS
    assert stepwell_opt.main(["--run-reproducer", str(folder / "reduced.ir")]) == 3


_MODELS = [value for name, value in vars(models).items() if callable(value) and value.__module__ == "models"
           and not name.startswith("_") and name != "build"]  # fmt: skip


@pytest.mark.parametrize("number", range(len(_MODELS)), ids=[model.__name__ for model in _MODELS])
def test_nothing_is_found_in_a_sound_compiler(number, selected, tmp_path, capsys):
    selected(number)
    onnx.save(_MODELS[number](), tmp_path / "model.onnx")
    assert stepwell.main(["check", str(tmp_path / "model.onnx"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["agrees"] and report["finding"] is None
    statuses = {stage["name"]: stage["status"] for stage in report["stages"]}
    assert statuses["ll"] == statuses["so"] == "agrees"


@pytest.mark.parametrize("number", range(len(_MODELS)), ids=[model.__name__ for model in _MODELS])
def test_nothing_is_found_on_samples_of_a_sound_compiler(number, selected):
    selected(number)
    report = Check(Options(), last="ll", samples=True, stage_s=1.0).run(_MODELS[number]().SerializeToString())
    assert report.agrees
    assert [stage.name for stage in report.stages if stage.sample] == ["loops", "memref", "llvm", "ll"]
    assert all(stage.status in ("reference", "agrees") for stage in report.stages)


def test_the_corpus_covers_every_level():
    assert {mutant.stage for mutant in MUTANTS} == {
        "graph", "tensor", "kernels", "loops", "memref", "llvm", "ll", "so",
    }  # fmt: skip
    assert len(MUTANTS) >= 30 and len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
