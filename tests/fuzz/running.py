"""Many models, each in a child process that may die."""

import json
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from stepwell.compiler import Compilation, Options
from tests.fuzz.generate import generate
from tests.fuzz.oracle import INTERPRETER, Case, Stage, Verdict, judge
from tests.hostile.box import Outcome, run_boxed

SECONDS, MEMORY = 40.0, 8 << 30
"""What one model may take: processor time and address space."""
_ALSO = {"-O0": 4, "-O1": 8, INTERPRETER: 8}
"""Besides -O3: one model in how many is run in which other way."""


@dataclass
class Tally:
    """How many models ended how."""

    kinds: Counter[str] = field(default_factory=Counter)
    refusals: Counter[str] = field(default_factory=Counter)
    ops: Counter[str] = field(default_factory=Counter)
    bad: int = 0

    def count(self, verdict: Verdict) -> None:
        self.kinds[verdict.kind] += 1
        self.bad += verdict.is_bad
        if verdict.kind == "agrees":
            self.ops.update(verdict.ops)
        if verdict.kind == "refused":
            self.refusals[message_kind(verdict.detail)] += 1

    def report(self) -> str:
        lines = [
            f"{sum(self.kinds.values())} models: "
            + ", ".join(f"{n} {k}" for k, n in self.kinds.most_common())
        ]
        lines += [f"  {number} refused: {text}" for text, number in self.refusals.most_common()]
        lines.append(f"operators in models that agree: {len(self.ops)}")
        return "\n".join(lines)


def message_kind(message: str) -> str:
    """A message without the names and numbers of its model."""
    text = message.split("\n")[0]
    text = re.sub(r"\b(v|in|c)\d+\b|'[^']*'", "_", text)
    return re.sub(r"-?\d+", "N", text)[:200]


def run_seeds(
    seeds: Sequence[int], save: Path, cases: Mapping[int, Case] | None = None, minutes: float = 1e9
) -> Iterator[tuple[int, Verdict]]:
    """The verdict on the model of each seed, ours or one of `cases`; what is bad goes into the directory `save`."""
    until = time.monotonic() + 60 * minutes
    wanted = [seed for seed in seeds if cases is None or seed in cases]
    stage = Stage()
    with tempfile.TemporaryDirectory(prefix="stepwell-fuzz-") as scratch:

        def work(seed: int) -> Callable[[], object]:
            return lambda: _one(seed, Path(scratch), cases, stage)

        for seed, outcome in zip(wanted, run_boxed([work(s) for s in wanted], SECONDS, MEMORY), strict=False):
            verdict = _verdict(outcome, stage)
            made = Path(scratch) / str(seed)
            if verdict.is_bad and made.exists():
                shutil.copytree(made, save / str(seed), dirs_exist_ok=True)
                (save / str(seed) / "verdict.json").write_text(verdict.dumps())
            shutil.rmtree(made, ignore_errors=True)
            yield seed, verdict
            if time.monotonic() > until:
                return


def _one(seed: int, scratch: Path, cases: Mapping[int, Case] | None, stage: Stage) -> str:
    stage.enter("generate")
    case = generate(seed) if cases is None else cases[seed]
    case.save(scratch / str(seed))
    return judge(case, ways_for(seed), stage).dumps()


def ways_for(seed: int) -> list[str]:
    """What the model of a seed is run by: -O3, and in turn something else."""
    return ["-O3", *(way for index, (way, each) in enumerate(_ALSO.items()) if seed % each == index)]


def warm_up() -> None:
    """Import what a compilation imports when it first needs it, so that every child process has it when it is forked."""
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    nodes = [helper.make_node("Softmax", ["x"], ["y"]), helper.make_node("MatMul", ["y", "w"], ["z"])]
    weights = numpy_helper.from_array(np.ones((3, 4), np.float32), "w")
    result = helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 4])
    model = helper.make_model(helper.make_graph(nodes, "warm", [value], [result], [weights]))
    compilation = Compilation(Options())
    compilation.read(model)
    compilation.lower_to("llvm")
    compilation.llvm_ir()


def _verdict(outcome: Outcome, stage: Stage) -> Verdict:
    if outcome.kind == "ok":
        return Verdict(**json.loads(outcome.text))
    kind = outcome.kind if outcome.kind in ("crash", "hang") else "fault"
    if str(stage) in ("generate", "onnxruntime") and kind != "fault":
        kind = "invalid"  # ONNX Runtime died of it
    return Verdict(kind, outcome.text, str(stage))


def replay(case: Case, ways: Sequence[str] = ("-O3", "-O0", INTERPRETER)) -> Verdict:
    """The verdict on one case, in a process of its own."""
    stage = Stage()
    outcome = next(iter(run_boxed([lambda: judge(case, ways, stage).dumps()], SECONDS, MEMORY)))
    return _verdict(outcome, stage)
