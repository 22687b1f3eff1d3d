"""
The engines that stepwell is compared with, each with the settings its documentation recommends for f32
latency on a CPU: `python -m benchmarks.peers PEER MODEL.onnx INPUTS.npz THREADS` prepares the model, says so in
a line of JSON, then answers `{"run": n}` with the seconds of a run and `{"output": true}` with the first output.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Run = Callable[[], Any]


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


def iree(path: str, inputs: dict[str, np.ndarray], threads: int) -> Run:
    import subprocess
    import tempfile

    import iree.runtime as rt

    with tempfile.TemporaryDirectory() as folder:
        mlir, module = f"{folder}/m.mlir", f"{folder}/m.vmfb"
        subprocess.run(["iree-import-onnx", path, "--opset-version", "17", "-o", mlir], check=True)
        command = ["iree-compile", mlir, "-o", module, "--iree-hal-target-device=local"]
        command += ["--iree-hal-local-target-device-backends=llvm-cpu", "--iree-llvmcpu-target-cpu=host"]
        subprocess.run([*command, "--iree-opt-level=O3"], check=True)
        rt.flags.parse_flags(f"--task_topology_max_group_count={threads}")
        loaded = rt.load_vm_flatbuffer_file(module, driver="local-task" if threads > 1 else "local-sync")
    names = [n for n in loaded.vm_module.function_names if not n.startswith("_") and "$" not in n]
    function = loaded[names[0]]
    values = list(inputs.values())
    return lambda: np.asarray(function(*values).to_host())


def tvm(path: str, inputs: dict[str, np.ndarray], threads: int) -> Run:
    os.environ["TVM_NUM_THREADS"] = str(threads)
    import onnx
    import tvm as tvm_
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    model = from_onnx(onnx.load(path), shape_dict={k: list(v.shape) for k, v in inputs.items()})
    model = relax.transform.DecomposeOpsForInference()(model)
    cpu = tvm_.target.codegen.llvm_get_system_cpu()
    target = tvm_.target.Target({"kind": "llvm", "mcpu": cpu, "num-cores": threads})
    executable = tvm_.compile(model, target=target)
    machine = relax.VirtualMachine(executable, tvm_.cpu())
    values = [tvm_.runtime.tensor(v) for v in inputs.values()]
    return lambda: machine["main"](*values).numpy()


def inductor(path: str, inputs: dict[str, np.ndarray], threads: int) -> Run:
    from pathlib import Path

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
        print(json.dumps({"error": f"{type(error).__name__}: {str(error)[:300]}"}), flush=True)
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
