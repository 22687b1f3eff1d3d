"""Everything this compiler contains; each table is the only list of its kind.

An entry is text, `module:name`, imported when asked for, so that listing is free.
"""

from typing import Any

DIALECTS: dict[str, str] = {
    "arith": "stepwell.dialects.arith:ARITH",
    "builtin": "stepwell.dialects.builtin:BUILTIN",
    "cf": "xdsl.dialects.cf:Cf",
    "func": "stepwell.dialects.func:FUNC",
    "graph": "stepwell.dialects.graph:GRAPH",
    "linalg": "stepwell.dialects.linalg:LINALG",
    "llvm": "stepwell.dialects.llvm:LLVM",
    "math": "stepwell.dialects.math:MATH",
    "memref": "stepwell.dialects.memref:MEMREF",
    "scf": "stepwell.dialects.scf:SCF",
    "schedule": "stepwell.dialects.schedule:SCHEDULE",
    "stepwell": "stepwell.dialects.stepwell:STEPWELL",
    "tensor": "stepwell.dialects.tensor:TENSOR",
    "text": "stepwell.dialects.text:TEXT",
    "ub": "xdsl.dialects.ub:UB",
    "value": "stepwell.dialects.value:VALUE",
    "vector": "stepwell.dialects.vector:VECTOR",
}

_GRAPH = "stepwell.transforms.graph"
_LINALG = "stepwell.transforms.linalg"
_VECTOR = "stepwell.transforms.vector"
_MEMREF = "stepwell.transforms.memref"
_CONVERSION = "stepwell.conversion"

PASSES: dict[str, Any] = {
    # any level
    "canonicalize": "stepwell.transforms.canonicalize:CanonicalizePass",
    "cse": "stepwell.transforms.cse:CsePass",
    "dce": "stepwell.transforms.dce:DcePass",
    "set-target": "stepwell.transforms.set_target:SetTargetPass",
    # graph
    "assign-layouts": f"{_GRAPH}.assign_layouts:AssignLayoutsPass",
    "choose-convolution": f"{_GRAPH}.choose_convolution:ChooseConvolutionPass",
    "fold-batch-norm": f"{_GRAPH}.fold_batch_norm:FoldBatchNormPass",
    "fold-constants": f"{_GRAPH}.fold_constants:FoldConstantsPass",
    "fold-sequences": f"{_GRAPH}.fold_sequences:FoldSequencesPass",
    "fold-transposes": f"{_GRAPH}.fold_transposes:FoldTransposesPass",
    "graph-decompose": f"{_GRAPH}.graph_decompose:GraphDecomposePass",
    "infer-shapes": f"{_GRAPH}.infer_shapes:InferShapesPass",
    "merge-products": f"{_GRAPH}.merge_products:MergeProductsPass",
    "record-signature": f"{_GRAPH}.record_signature:RecordSignaturePass",
    "simplify-graph": f"{_GRAPH}.simplify_graph:SimplifyGraphPass",
    "specialise-dims": f"{_GRAPH}.specialise_dims:SpecialiseDimsPass",
    # graph to tensor
    "graph-to-linalg": f"{_CONVERSION}.graph_to_linalg:GraphToLinalgPass",
    # tensor and kernels
    "absorb-slices": f"{_LINALG}.absorb_slices:AbsorbSlicesPass",
    "collapse-dims": f"{_LINALG}.collapse_dims:CollapseDimsPass",
    "assign-schedules": f"{_LINALG}.assign_schedules:AssignSchedulesPass",
    "form-kernels": f"{_LINALG}.form_kernels:FormKernelsPass",
    "fuse-loops": f"{_VECTOR}.fuse_loops:FuseLoopsPass",
    "loop-over-rows": f"{_VECTOR}.loop_over_rows:LoopOverRowsPass",
    "fold-unit-reshapes": f"{_LINALG}.fold_unit_reshapes:FoldUnitReshapesPass",
    "fuse-elementwise": f"{_LINALG}.fuse_elementwise:FuseElementwisePass",
    "move-row-factors": f"{_LINALG}.move_row_factors:MoveRowFactorsPass",
    "flush-denormals": f"{_LINALG}.flush_denormals:FlushDenormalsPass",
    "pack-weights": f"{_LINALG}.pack_weights:PackWeightsPass",
    "tile-and-fuse": f"{_LINALG}.tile_and_fuse:TileAndFusePass",
    "vectorise": f"{_LINALG}.vectorise:VectorisePass",
    # tensor to memref
    "linalg-to-loops": f"{_CONVERSION}.linalg_to_loops:LinalgToLoopsPass",
    "bufferize": f"{_CONVERSION}.bufferize:BufferizePass",
    "lift-parallel": f"{_CONVERSION}.lift_parallel:LiftParallelPass",
    "plan-memory": f"{_MEMREF}.plan_memory:PlanMemoryPass",
    "promote-scratch": f"{_MEMREF}.promote_scratch:PromoteScratchPass",
    # memref to llvm
    "version-masked-tiles": f"{_VECTOR}.version_masked_tiles:VersionMaskedTilesPass",
    "unroll-vectors": f"{_VECTOR}.unroll_vectors:UnrollVectorsPass",
    "expand-math": f"{_VECTOR}.expand_math:ExpandMathPass",
    "kernels-to-llvm": f"{_CONVERSION}.to_llvm.kernels:KernelsToLLVMPass",
    "host-to-llvm": f"{_CONVERSION}.to_llvm.host:HostToLLVMPass",
}
"""Pass name to its class; a plug-in may enter the class itself."""

FRONTENDS = {
    "ll": "stepwell.backends.llvm_ir:read_llvm_ir",
    "onnx": "stepwell.frontends.onnx:import_onnx",
}
"""Format name to the function `(source, ctx, dims) -> ModuleOp` that reads it."""

BACKENDS = {
    "dot": "stepwell.backends.dot:print_dot",
    "ll": "stepwell.backends.llvm_ir.printer:print_llvm_ir",
}
"""Format name to the function `(module, stream) -> None` that writes it as text."""

FILE_BACKENDS = {
    "onnx": "stepwell.backends.onnx:write_onnx",
}
"""Format name to the function `(module, ctx, path) -> None` that writes it as a file of bytes."""
