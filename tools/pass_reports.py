"""What stepwell-opt says of each pass while it runs them: the IR before and behind it, and the time it took."""

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import IO, TYPE_CHECKING, Any

from stepwell.tools.console import Console

if TYPE_CHECKING:
    from xdsl.dialects.builtin import ModuleOp

    from stepwell.pipelines import Stage

_LAYOUTS = ("tree", "list", "json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags, under our names and under those of mlir-opt."""
    add = parser.add_argument

    def add_print(name: str, help: str, **more: Any) -> None:
        add(f"--print-ir-{name}", f"--mlir-print-ir-{name}", help=help, **more)

    add_print(
        "before", "print the IR before PASS (a,b for several)", action="append", default=[], metavar="PASS"
    )
    add_print("after", "print the IR after PASS", action="append", default=[], metavar="PASS")
    add_print("before-all", "print the IR before every pass", action="store_true")
    add_print("after-all", "print the IR after every pass", action="store_true")
    add_print("after-change", "print the IR after passes that change it", action="store_true")
    add_print("after-failure", "print the IR that a pass that fails has left", action="store_true")
    add_print("module-scope", "accepted: the whole module is always printed", action="store_true")
    add_print("tree-dir", "print it to files of this directory, one each, instead", metavar="DIR")
    add(
        "--elide-elementsattrs-if-larger",
        "--mlir-elide-elementsattrs-if-larger",
        type=int,
        metavar="N",
        help="print dense constants of more than N elements as dense_resource<__elided__>",
    )
    add(
        "--elide-resource-strings-if-larger",
        "--mlir-elide-resource-strings-if-larger",
        type=int,
        metavar="N",
        help="accepted: the bytes of resources are never in the text",
    )
    add(
        "--timing",
        "--mlir-timing",
        metavar="|".join(_LAYOUTS),
        choices=_LAYOUTS,
        help="print the time of every pass (tree)",
    )
    add("--mlir-timing-display", choices=("tree", "list"), help="the form of --timing")
    add("--mlir-output-format", choices=("text", "json"), default="text", help="json: --timing=json")


def timing_layout(options: argparse.Namespace) -> str | None:
    """How the times are to be printed; None: not at all."""
    if options.timing is None:
        return None
    return "json" if options.mlir_output_format == "json" else options.mlir_timing_display or options.timing


class IRPrinting:
    """Prints the IR where the flags ask for it."""

    def __init__(self, options: argparse.Namespace, console: Console):
        self.options, self.console = options, console
        self.before_names, self.after_names = (
            {name for given in words for name in given.split(",")}
            for words in (options.print_ir_before, options.print_ir_after)
        )
        self._text = ""
        self._count = 0

    def check_names(self, passes: Iterable[str]) -> None:
        """An error if a flag names no pass: it would be silently without effect."""
        from stepwell.errors import Error
        from stepwell.pipeline_text import did_you_mean

        for flag, names in (("before", self.before_names), ("after", self.after_names)):
            for name in sorted(names - set(passes)):
                raise Error(f"--print-ir-{flag}={name}: there is no such pass{did_you_mean(name, passes)}")

    def before(self, stage: "Stage", module: "ModuleOp") -> None:
        """Told before each pass."""
        if self.options.print_ir_before_all or stage.instance.name in self.before_names:
            self._show(stage, "before", module)
        if self.options.print_ir_after_change:
            self._text = self.text(module)

    def after(self, stage: "Stage", module: "ModuleOp") -> None:
        """Told behind each pass."""
        changed = self.options.print_ir_after_change and self.text(module) != self._text
        if self.options.print_ir_after_all or changed or stage.instance.name in self.after_names:
            self._show(stage, "after", module)
        self._count += 1

    def failed(self, stage: "Stage", module: "ModuleOp") -> None:
        """Told when a pass has raised."""
        if self.options.print_ir_after_failure:
            self._show(stage, "after failed", module)

    def text(self, module: "ModuleOp") -> str:
        """The module in the form that the flags ask for."""
        from stepwell.compat import print_module

        options = self.options
        return print_module(
            module,
            generic=options.mlir_print_op_generic,
            debuginfo=options.print_debuginfo,
            elide_above=options.elide_elementsattrs_if_larger,
        )

    def _show(self, stage: "Stage", when: str, module: "ModuleOp") -> None:
        text = f"// -----// IR {when} {stage} //----- //\n{self.text(module)}"
        if self.options.print_ir_tree_dir is None:
            self.console.stderr.write(f"{text}\n")
            return
        name = re.sub(r"[^\w.-]", "_", stage.instance.name)
        suffix = "" if when == "after" else "-" + when.replace(" ", "-")
        folder = Path(self.options.print_ir_tree_dir)
        # As mlir-opt: a directory for the op that the passes are anchored at, a file for each pass.
        if stage.anchor != "builtin.module":
            folder = folder / stage.anchor.replace(".", "_")
        _make(folder)
        self.console.write(str(folder / f"{self._count}_{name}{suffix}.ir"), text)


def _make(folder: Path) -> None:
    from stepwell.errors import Error

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Error(f"{folder}: cannot be made: {error.strerror}; give another directory") from error


@dataclass
class Timing:
    """The times of a run: what was read and written, each pass, the verifier behind it."""

    parse_s: float = 0.0
    output_s: float = 0.0
    passes: list[tuple[str, str, float, float]] = field(default_factory=list)
    """Anchor, text, seconds of the pass, seconds of the verifier behind it."""
    _begin: float = field(default_factory=perf_counter)
    _mark: float = 0.0

    def before(self) -> None:
        """A pass begins."""
        self._mark = perf_counter()

    def after(self, stage: "Stage") -> None:
        """A pass has ended."""
        self.passes.append((stage.anchor, str(stage), perf_counter() - self._mark, 0.0))

    def resumed(self) -> None:
        """What was printed of the pass is done; the verifier begins."""
        self._mark = perf_counter()

    def verified(self) -> None:
        """The verifier behind the last pass, if any, has ended."""
        if self.passes and self._mark:
            anchor, text, seconds, verify = self.passes[-1]
            self.passes[-1] = (anchor, text, seconds, verify + perf_counter() - self._mark)
        self._mark = 0.0

    def show(self, layout: str, stream: IO[str]) -> None:
        """Write the report in one of the layouts `tree`, `list` (slowest first) and `json`."""
        total = perf_counter() - self._begin
        tree = self._tree(total)
        if layout == "json":
            stream.write(json.dumps(tree, indent=2) + "\n")
            return
        lines = list(_lines(tree["children"], 0)) if layout == "tree" else _by_time(tree["children"])
        lines.append(("Total", total, 0))
        rule = f"===-{'-' * 73}-==="
        stream.write(f"{rule}\n{'... Execution time report ...':^81}\n{rule}\n")
        stream.write(f"  Total Execution Time: {total:.4f} seconds\n\n  ----Wall Time----  ----Name----\n")
        for name, seconds, depth in lines:
            stream.write(
                f"  {seconds:8.4f} ({100 * seconds / max(total, 1e-12):5.1f}%)  {'  ' * depth}{name}\n"
            )

    def _tree(self, total: float) -> dict[str, Any]:
        children = [_node("Parser", self.parse_s), *self._pass_nodes(), _node("Output", self.output_s)]
        rest = total - sum(child["seconds"] for child in children)
        return {"name": "root", "seconds": total, "children": [*children, _node("Rest", max(rest, 0.0))]}

    def _pass_nodes(self) -> list[dict[str, Any]]:
        """The passes, those that go function by function below a node of their own."""
        nodes: list[dict[str, Any]] = []
        for anchor, text, seconds, verify in self.passes:
            entries = [_node(text, seconds)] + ([_node("(V) verifier", verify)] if verify > 0 else [])
            if anchor == "builtin.module":
                nodes += entries
                continue
            name = f"'{anchor}' Pipeline"
            if not nodes or nodes[-1]["name"] != name:
                nodes.append(_node(name, 0.0))
            nodes[-1]["children"] += entries
            nodes[-1]["seconds"] += seconds + verify
        return nodes


def _node(name: str, seconds: float) -> dict[str, Any]:
    return {"name": name, "seconds": seconds, "children": []}


def _lines(nodes: Sequence[dict[str, Any]], depth: int) -> "list[tuple[str, float, int]]":
    lines: list[tuple[str, float, int]] = []
    for node in nodes:
        lines.append((node["name"], node["seconds"], depth))
        lines += _lines(node["children"], depth + 1)
    return lines


def _by_time(nodes: Sequence[dict[str, Any]]) -> "list[tuple[str, float, int]]":
    """The leaves, those of one name together, the slowest first."""
    sums: dict[str, float] = {}
    for node in nodes:
        for leaf in node["children"] or [node]:
            sums[leaf["name"]] = sums.get(leaf["name"], 0.0) + leaf["seconds"]
    return [(name, seconds, 0) for name, seconds in sorted(sums.items(), key=lambda item: -item[1])]
