"""Every stage of a model is text that reads back to the same IR, and every way down gives the same bytes."""

from io import StringIO
from pathlib import Path

from stepwell.compat import new_context, parse_module, print_module
from stepwell.compiler import Compilation, Options
from stepwell.pipelines import LEVELS, level_pipeline, print_pipeline, resolve_pipeline
from stepwell.registry import DIALECTS
from stepwell.tools import stepwell as stepwell_tool
from stepwell.tools import stepwell_opt, stepwell_translate


def run(tool, *argv) -> str:
    """What a tool writes to standard output; it must succeed."""
    out, err = StringIO(), StringIO()
    words = [str(word) for word in argv]
    if tool is stepwell_tool:
        code = tool.main(words, out, err)
    else:
        code = tool.main(words, StringIO(), out, err)
    assert code == 0, f"{tool.__name__} {' '.join(words)}: {err.getvalue()}"
    return out.getvalue()


def check_reads_back(module) -> None:
    """The text of `module`, pretty and generic, means the same and prints the same."""
    for generic in (False, True):
        text = print_module(module, generic=generic)
        again = parse_module(new_context(DIALECTS), text)
        assert module.is_structurally_equivalent(again)
        assert print_module(again, generic=generic) == text


def check_round_trips(model: Path, folder: Path, options: Options, in_one_go: tuple[str, ...]) -> None:
    """
    Lower the ONNX file `model` level by level. Each level reads back; `stepwell-opt` takes the text of each to the
    bytes of the next; the printed pipeline takes the imported module to the bytes of those named in `in_one_go`.
    """
    straight, again, whole = folder / "straight", folder / "again", folder / "whole"
    for directory in (straight, again, whole):
        directory.mkdir()
    imported = folder / "imported.ir"
    run(stepwell_translate, model, "--from", "onnx", "-o", imported)
    compilation = Compilation(options)
    compilation.read(model)
    check_reads_back(compilation.module)
    before = imported
    for level in LEVELS:
        check_reads_back(compilation.lower_to(level))
        path = straight / f"{level}.ir"
        compilation.write_ir(path)
        step = print_pipeline(
            resolve_pipeline(
                level_pipeline(
                    level, options.opt_level, target=options.target, fp=options.fp, threads=options.threads,
                    dims=dict(options.dims),
                )
            )
        )  # fmt: skip
        run(stepwell_opt, before, "-p", step, "-o", again / path.name)
        assert (again / path.name).read_bytes() == path.read_bytes(), (
            f"{level} from the text of the one above"
        )
        if level in in_one_go:
            run(stepwell_opt, imported, "-p", compilation.pipeline(level), "-o", whole / path.name)
            assert (whole / path.name).read_bytes() == path.read_bytes(), f"{level} by the printed pipeline"
        before = path
    text = compilation.llvm_ir()
    assert run(stepwell_tool, "compile", straight / "llvm.ir", "--emit", "ll", "-o", "-") == text
    assert run(stepwell_translate, straight / "llvm.ir", "--to", "ll") == text
