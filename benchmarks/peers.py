"""
The engines that stepwell is compared with, each with the settings its documentation recommends for f32
latency on a CPU: `python -m benchmarks.peers PEER MODEL.onnx INPUTS.npz THREADS` prepares the model, says so in
a line of JSON, then answers `{"run": n}` with the seconds of a run and `{"output": true}` with the first output.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[], Any]


def first(outputs: Any) -> Any:
    """Of several outputs the first; one alone comes as itself."""
    return outputs if hasattr(outputs, "shape") else outputs[0]


def seconds_of(run: Run) -> float:
    """Of the fastest of a few runs, the first of which does not count."""
    run()
    times = []
    for _ in range(3):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return min(times)


def extents(path: str, inputs: dict[str, np.ndarray]) -> dict[str, int]:
    """What `inputs` say of the extents that have names: every engine is told, as some take no others."""
    import onnx

    found: dict[str, int] = {}
    clashing: set[str] = set()
    for value in onnx.load(path, load_external_data=False).graph.input:
        if value.name in inputs:
            dims = value.type.tensor_type.shape.dim
            for dim, extent in zip(dims, inputs[value.name].shape, strict=True):
                if dim.dim_param and found.setdefault(dim.dim_param, extent) != extent:
                    clashing.add(dim.dim_param)
    return {name: extent for name, extent in found.items() if name not in clashing}


def stepwell(path: str, inputs: dict[str, np.ndarray], threads: int) -> Run:
    import stepwell

    model = stepwell.compile(path, threads=threads, dims=extents(path, inputs))
    return lambda: next(iter(model.run(inputs).values()))


def ort(path: str, inputs: dict[str, np.ndarray], threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    for name, extent in extents(path, inputs).items():
        options.add_free_dimension_override_by_name(name, extent)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, inputs)[0]


def openvino(path: str, inputs: dict[str, np.ndarray], threads: int) -> Run:
    import openvino as ov

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # its default lowers precision where the CPU has bf16
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    model = ov.Core().read_model(path)
    model.reshape({name: list(value.shape) for name, value in inputs.items()})
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda: next(iter(request.infer(inputs).values()))


def static(path: str, inputs: dict[str, np.ndarray]) -> Any:
    """
    The model for inputs of these shapes alone, without what computes shapes: IREE and TVM fail on much that is
    dynamic. onnxruntime folds it and at its basic level keeps to the operators of ONNX.
    """
    import onnx
    import onnxruntime

    model = onnx.load(path)
    for value in model.graph.input:
        if value.name in inputs:
            dims = value.type.tensor_type.shape.dim
            for dim, extent in zip(dims, inputs[value.name].shape, strict=True):
                dim.dim_value = extent
    model.ir_version = max(model.ir_version, 4)  # before, weights had to be inputs, which not all models obey
    if next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) < 17:
        model = onnx.version_converter.convert_version(model, 17)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = f"{folder}/static.onnx"
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def tool(*command: str) -> None:
    """Run a compiler; should it fail, its own words are the error."""
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"{command[0]} ended with {done.returncode}"]
        raise RuntimeError(next((line for line in said if "error: " in line), said[-1]).split("error: ")[-1])


def iree_module(path: str, inputs: dict[str, np.ndarray], choice: list[str]) -> Path:
    """The model compiled with the options `choice`; kept, as that takes minutes for some models."""
    import onnx
    from iree.compiler.version import VERSION

    from benchmarks.zoo import directory

    command = ["iree-compile", "--iree-hal-target-device=local", "--iree-opt-level=O3"]
    command += ["--iree-hal-local-target-device-backends=llvm-cpu", "--iree-llvmcpu-target-cpu=host"]
    # The level leaves data tiling out; layer norms of AVX-512 ask for more stack than the default allows.
    command += ["--iree-opt-data-tiling", "--iree-llvmcpu-stack-allocation-limit=262144", *choice]
    shapes = {name: value.shape for name, value in inputs.items()}
    key = hashlib.sha256(Path(path).read_bytes() + repr((VERSION, command, shapes)).encode()).hexdigest()
    module = directory() / "iree" / f"{key}.vmfb"
    if not module.exists():
        module.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=module.parent) as folder:
            source, mlir, compiled = f"{folder}/m.onnx", f"{folder}/m.mlir", f"{folder}/m.vmfb"
            onnx.save(static(path, inputs), source)
            tool("iree-import-onnx", source, "-o", mlir)
            tool(*command, mlir, "-o", compiled)
            os.replace(compiled, module)
    return module


def iree(path: str, inputs: dict[str, np.ndarray], threads: int) -> Run:
    import iree.runtime as rt
    import onnx

    rt.flags.parse_flags(f"--task_topology_max_group_count={threads}")
    values = list(inputs.values())

    def load(choice: list[str]) -> Run:
        module = iree_module(path, inputs, choice)
        loaded = rt.load_vm_flatbuffer_file(str(module), driver="local-task" if threads > 1 else "local-sync")
        names = [n for n in loaded.vm_module.function_names if not n.startswith("_") and "$" not in n]
        function = loaded[names[0]]
        return lambda: np.asarray(first(function(*values)).to_host())

    choices: list[list[str]] = [[]]
    if any(node.op_type == "Conv" for node in onnx.load(path, load_external_data=False).graph.node):
        # As matrix products, convolutions take a third of the time in some models, twice the time in others.
        choices.append(["--iree-global-opt-use-im2col-for-convs"])
    runs: list[Run] = []
    problems: list[RuntimeError] = []
    for choice in choices:
        try:
            runs.append(load(choice))
        except RuntimeError as error:
            problems.append(error)
    if not runs:
        raise problems[0]
    return min(runs, key=seconds_of)


def tvm(path: str, inputs: dict[str, np.ndarray], threads: int) -> Run:
    os.environ["TVM_NUM_THREADS"] = str(threads)
    import tvm as tvm_
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    # TVM has schedules for a CPU from tuning alone, which takes hours: these are loops as they are written.
    model = from_onnx(static(path, inputs))
    model = relax.transform.DecomposeOpsForInference()(model)
    cpu = tvm_.target.codegen.llvm_get_system_cpu()
    target = tvm_.target.Target({"kind": "llvm", "mcpu": cpu, "num-cores": threads})
    executable = tvm_.compile(model, target=target)
    machine = relax.VirtualMachine(executable, tvm_.cpu())
    values = [tvm_.runtime.tensor(v) for v in inputs.values()]
    return lambda: first(machine["main"](*values)).numpy()


def inductor(path: str, inputs: dict[str, np.ndarray], threads: int) -> Run:
    import torch

    from benchmarks.zoo import build

    torch.set_num_threads(threads)
    torch._inductor.config.freezing = True
    model, _ = build(Path(path).stem)
    compiled = torch.compile(model)
    values = {k: torch.from_numpy(v) for k, v in inputs.items()}
    positional = not hasattr(model, "config")

    def run() -> Any:
        with torch.no_grad():
            result = compiled(*values.values()) if positional else compiled(**values, return_dict=False)
        return (result[0] if isinstance(result, tuple) else result).numpy()

    return run


PEERS = {p.__name__: p for p in (stepwell, ort, openvino, iree, tvm, inductor)}


def main() -> int:
    peer, path, saved, threads = sys.argv[1:]
    with np.load(saved) as arrays:
        inputs = dict(arrays)
    started = time.perf_counter()
    try:
        run = PEERS[peer](path, inputs, int(threads))
        run()
    except Exception as error:
        said = str(error).strip().splitlines() or [""]
        print(json.dumps({"error": f"{type(error).__name__}: {said[0][:300]}"}), flush=True)
        return 1
    print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if "run" in command:
            # The engine before may still spin on the processors: settle, warm up, then measure.
            time.sleep(0.05)
            run()
            started = time.perf_counter()
            for _ in range(command["run"]):
                run()
            print(json.dumps({"seconds": (time.perf_counter() - started) / command["run"]}), flush=True)
        else:
            # A few hundred elements spread over the output tell engines apart and fit a line.
            flat = np.asarray(run(), np.float64).reshape(-1)
            picked = flat[np.linspace(0, flat.size - 1, min(flat.size, 500)).astype(int)]
            print(json.dumps({"digest": picked.tolist()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
