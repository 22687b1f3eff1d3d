"""The rewriting half of `bufferize`: memrefs for tensors, as the alias analysis decided."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import prod

from xdsl.dialects import arith, func, scf, tensor, vector
from xdsl.dialects.builtin import (
    DYNAMIC_INDEX,
    ArrayAttr,
    DenseArrayBase,
    DenseResourceAttr,
    FunctionType,
    IntegerAttr,
    MemRefType,
    ModuleOp,
    NoneAttr,
    StridedLayoutAttr,
    TensorType,
    i64,
)
from xdsl.ir import Attribute, Block, BlockArgument, Operation, OpResult, Region, SSAValue

from stepwell.conversion.bufferize.aliases import Aliases, Slice, is_tensor, previous, slice_parameters
from stepwell.conversion.bufferize.place_results import constant_of
from stepwell.conversion.linalg_to_loops import IndexConstants
from stepwell.diagnostics import unsupported
from stepwell.dialects import memref
from stepwell.dialects.arith import SelectOp
from stepwell.dialects.memref import ALIGNMENT, strides_of
from stepwell.dialects.scf import ForallOp, InParallelOp
from stepwell.dialects.tensor import ParallelInsertSliceOp
from stepwell.dialects.text import TEXT, TextOp
from stepwell.dialects.value import UnwrapOp, WrapOp
from stepwell.remarks import missed

OUTPUT_KEY = "stepwell.output"
"""On the `memref.alloc` of a returned buffer: the number of the result."""


def memref_of(type: Attribute) -> MemRefType:
    """The row-major memref with the shape of a tensor type."""
    assert isinstance(type, TensorType)
    return MemRefType(type.element_type, type.shape)


class Globals:
    """The constant buffers of a module, one per distinct value."""

    def __init__(self, module: ModuleOp):
        self._module = module
        self._names: dict[Attribute, str] = {}
        self._taken = {
            name.data for op in module.body.block.ops if (name := getattr(op, "sym_name", None)) is not None
        }

    def get(self, value: Attribute, type: MemRefType) -> memref.GetGlobalOp:
        if value not in self._names:
            stem = value.resource_handle.data if isinstance(value, DenseResourceAttr) else "constant"
            name, number = stem, 0
            while name in self._taken:
                name, number = f"{stem}_{number}", number + 1
            self._taken.add(name)
            self._names[value] = name
            block = self._module.body.block
            op = memref.GlobalOp(name, type, value, alignment=ALIGNMENT)
            if first := block.first_op:
                block.insert_op_before(op, first)
            else:
                block.add_op(op)
        return memref.GetGlobalOp(self._names[value], type)


class FunctionRewriter:
    """Rewrites one function. `mem[t]` is the memref of tensor `t`."""

    def __init__(self, function: func.FuncOp, kernels: Mapping[str, int], module_globals: Globals):
        self.function = function
        self.kernels = kernels
        self.is_kernel = "stepwell.kernel" in function.attributes
        self.aliases = Aliases(function, kernels, self.is_kernel)
        self.globals = module_globals
        self.constant = IndexConstants(function)
        self.mem: dict[SSAValue, SSAValue] = {}
        self.outputs: dict[tensor.EmptyOp, tuple[int, list[Operation]]] = {}
        self.output_buffers: dict[int, SSAValue] = {}
        self._handlers: dict[type[Operation], Callable[[Operation], None]] = {
            arith.ConstantOp: self._constant,
            SelectOp: self._select,
            tensor.CastOp: self._cast_op,
            tensor.CollapseShapeOp: self._collapse,
            tensor.DimOp: self._dim,
            tensor.EmptyOp: self._empty,
            tensor.ExpandShapeOp: self._expand,
            tensor.ExtractOp: self._extract,
            tensor.ExtractSliceOp: self._extract_slice,
            tensor.FromElementsOp: self._from_elements,
            tensor.InsertOp: self._insert,
            tensor.InsertSliceOp: self._insert_slice,
            vector.TransferReadOp: self._transfer_read,
            vector.TransferWriteOp: self._transfer_write,
            UnwrapOp: self._unwrap,
            WrapOp: self._wrap,
            func.CallOp: self._call,
            scf.ForOp: self._for,
            scf.WhileOp: self._while,
            scf.IfOp: self._if,
            ForallOp: self._forall,
            **dict.fromkeys(TEXT.operations, self._text),
        }

    def run(self) -> None:
        block = self.function.body.block
        old_arguments = [arg for arg in block.args if is_tensor(arg)]
        for arg in old_arguments:
            new = block.insert_arg(memref_of(arg.type), arg.index)
            new.name_hint = arg.name_hint
            self.mem[arg] = new
        if not self.is_kernel:
            self._find_outputs()
        self._block(block, self._return)
        for arg in old_arguments:
            block.erase_arg(arg)
        results: list[Attribute] = []
        if not self.is_kernel:
            results = [
                memref_of(t) if isinstance(t, TensorType) else t for t in self.function.function_type.outputs
            ]
        self.function.properties["function_type"] = FunctionType.from_lists(
            [a.type for a in block.args], results
        )
        if self.is_kernel:
            self.function.properties.pop("res_attrs", None)

    # Emission

    def _emit(self, new: Operation, before: Operation) -> SSAValue | None:
        new.location = before.location
        block = before.parent
        assert block is not None
        block.insert_op_before(new, before)
        return new.results[0] if new.results else None

    def _value(self, new: Operation, before: Operation) -> SSAValue:
        value = self._emit(new, before)
        assert value is not None
        return value

    def _index(self, value: SSAValue | int) -> SSAValue:
        return self.constant(value) if isinstance(value, int) else value

    def _extent(self, value: SSAValue, axis: int, before: Operation) -> SSAValue | int:
        """The extent of `axis` of tensor `value`, asked of what made it rather than of its buffer."""
        shape = value.type.get_shape()  # pyright: ignore
        if shape[axis] != DYNAMIC_INDEX:
            return shape[axis]
        current = value
        while True:
            owner = current.owner
            if isinstance(owner, tensor.EmptyOp):
                return owner.dynamic_sizes[_count_dynamic(current, axis)]
            if isinstance(owner, tensor.ExpandShapeOp):
                return owner.dynamic_output_shape[_count_dynamic(current, axis)]
            if isinstance(owner, tensor.ExtractSliceOp):
                sizes = slice_parameters(owner)[1]
                return [sizes[dim] for dim in _kept_dims(owner.static_sizes.get_values(), shape)][axis]
            if isinstance(current, BlockArgument):
                loop = current.block.parent_op()
                if isinstance(loop, scf.ForOp) and current not in self.aliases.carried:
                    current = loop.iter_args[current.index - 1]
                elif isinstance(loop, ForallOp):
                    current = loop.outputs[current.index - len(loop.static_step)]
                else:
                    break
            elif current in self.aliases.carried:
                break
            elif isinstance(current, OpResult) and (older := previous(current, self.kernels)) is not None:
                current = older
            else:
                break
            static = current.type.get_shape()[axis]  # pyright: ignore
            if static != DYNAMIC_INDEX:
                return static
        holder = current if current in self.mem else value
        return self._value(memref.DimOp(self.mem[holder], self.constant(axis)), before)

    def _extents(self, value: SSAValue, before: Operation) -> list[SSAValue]:
        """The dynamic extents of tensor `value`."""
        shape = value.type.get_shape()  # pyright: ignore
        return [
            self._index(self._extent(value, axis, before))
            for axis, extent in enumerate(shape)
            if extent == DYNAMIC_INDEX
        ]

    def _allocate(self, type: MemRefType, sizes: Sequence[SSAValue], before: Operation) -> SSAValue:
        """A new buffer: on the heap for the host, on the stack for a kernel."""
        alignment = IntegerAttr(ALIGNMENT, i64)
        if not self.is_kernel:
            return self._value(memref.AllocOp(sizes, [], type, alignment), before)
        op = memref.AllocaOp.build(
            operands=[sizes, []], result_types=[type], properties={"alignment": alignment}
        )
        return self._value(op, _outermost_place(before, sizes))

    def _new_like(self, value: SSAValue, before: Operation) -> SSAValue:
        return self._allocate(memref_of(value.type), self._extents(value, before), before)

    def _copy_of(self, value: SSAValue, before: Operation, why: str) -> SSAValue:
        missed(before, f"{_shown(value)} is copied: {why}")
        new = self._new_like(value, before)
        self._emit(memref.CopyOp(self.mem[value], new), before)
        return new

    def _destination(self, op: Operation, index: int) -> SSAValue:
        """The memref that `op` shall write in place of its operand `index`."""
        value = op.operands[index]
        if (op, index) not in self.aliases.copied:
            return self.mem[value]
        if isinstance(value.owner, tensor.EmptyOp) and isinstance(op, func.CallOp | TextOp):
            return self.mem[value]
        return self._copy_of(value, op, f"{op.name} writes to it, and its old contents are read later")

    def _cast(self, value: SSAValue, type: Attribute, before: Operation) -> SSAValue:
        assert isinstance(type, MemRefType)
        return value if value.type == type else self._value(memref.CastOp(value, type), before)

    def _row_major(
        self, value: SSAValue, type: MemRefType, tensor_value: SSAValue, before: Operation
    ) -> SSAValue:
        """`value` as the row-major `type`, copied where it is a slice with gaps."""
        assert isinstance(value.type, MemRefType)
        if not isinstance(value.type.layout, NoneAttr):
            value = self._copy_of(tensor_value, before, "a slice with gaps goes where rows lie side by side")
        return self._cast(value, type, before)

    # Blocks

    def _block(self, block: Block, terminate: Callable[[Operation], None]) -> None:
        """Rewrite `block`; `terminate` rewrites its last op. Then the tensor ops are erased."""
        ops = list(block.ops)
        dead: list[Operation] = []
        for op in ops[:-1]:
            handler = self._handlers.get(type(op))
            if handler is not None:
                handler(op)
                if any(is_tensor(v) for v in (*op.results, *op.operands)):
                    dead.append(op)
                continue
            if any(is_tensor(v) for v in (*op.results, *op.operands)):
                raise unsupported(
                    op, "it has no form on buffers", "run linalg-to-loops, or lower it to tensor ops, first"
                )
            for region in op.regions:
                for inner in region.blocks:
                    self._block(inner, lambda _: None)
        terminate(ops[-1])
        for op in reversed(dead):
            op.detach()
            op.erase()

    # Tensors made and read

    def _constant(self, op: Operation) -> None:
        assert isinstance(op, arith.ConstantOp)
        if is_tensor(op.result):
            new = self.globals.get(op.value, memref_of(op.result.type))
            self.mem[op.result] = self._value(new, op)

    def _empty(self, op: Operation) -> None:
        assert isinstance(op, tensor.EmptyOp)
        if op in self.outputs:
            self.mem[op.tensor] = self._output_buffer(op)
        elif op.tensor.first_use is not None:
            self.mem[op.tensor] = self._allocate(memref_of(op.tensor.type), op.dynamic_sizes, op)
        if op.tensor in self.mem:
            self.mem[op.tensor].name_hint = op.tensor.name_hint

    def _from_elements(self, op: Operation) -> None:
        assert isinstance(op, tensor.FromElementsOp)
        type = memref_of(op.result.type)
        new = self._allocate(type, [], op)
        shape = type.get_shape()
        for i, value in enumerate(op.elements):
            indices: list[SSAValue] = []
            for extent in reversed(shape):
                indices.insert(0, self.constant(i % extent))
                i //= extent
            self._emit(memref.StoreOp.get(value, new, indices), op)
        self.mem[op.result] = new

    def _dim(self, op: Operation) -> None:
        assert isinstance(op, tensor.DimOp)
        axis = constant_of(op.index)
        if axis is None:
            extent: SSAValue | int = self._value(memref.DimOp(self.mem[op.source], op.index), op)
        else:
            extent = self._extent(op.source, axis, op)
        op.result.replace_all_uses_with(self._index(extent))

    def _extract(self, op: Operation) -> None:
        assert isinstance(op, tensor.ExtractOp)
        load = memref.LoadOp.get(self.mem[op.tensor], list(op.indices))
        op.result.replace_all_uses_with(self._value(load, op))
        load.res.name_hint = op.result.name_hint

    def _transfer_read(self, op: Operation) -> None:
        assert isinstance(op, vector.TransferReadOp)
        if is_tensor(op.source):
            op.operands[0] = self.mem[op.source]

    def _select(self, op: Operation) -> None:
        assert isinstance(op, SelectOp)
        if not is_tensor(op.result):
            return
        type = memref_of(op.result.type)
        sizes = [
            self._value(
                SelectOp(
                    op.cond,
                    self._index(self._extent(op.lhs, axis, op)),
                    self._index(self._extent(op.rhs, axis, op)),
                ),
                op,
            )
            for axis, extent in enumerate(type.get_shape())
            if extent == DYNAMIC_INDEX
        ]
        new = self._allocate(type, sizes, op)
        branches = []
        for value in (op.lhs, op.rhs):
            # The source's static extents may differ from the result's dynamic ones; copy takes both.
            branches.append(Region(Block([memref.CopyOp(self.mem[value], new), scf.YieldOp()])))
        self._emit(scf.IfOp(op.cond, [], *branches), op)
        self.mem[op.result] = new

    def _wrap(self, op: Operation) -> None:
        assert isinstance(op, WrapOp)
        op.output.replace_all_uses_with(self._value(WrapOp(self.mem[op.input], op.element), op))

    def _unwrap(self, op: Operation) -> None:
        assert isinstance(op, UnwrapOp)
        new = UnwrapOp(op.input, op.element, memref_of(op.output.type))
        self.mem[op.output] = self._value(new, op)

    # Views

    def _subview(self, base: SSAValue, op: Slice, result: TensorType, before: Operation) -> SSAValue:
        offsets, _, strides = slice_parameters(op)
        dynamic = iter(op.sizes)
        sizes = [next(dynamic) if s == DYNAMIC_INDEX else s for s in op.static_sizes.get_values()]
        assert isinstance(base.type, MemRefType)
        base_strides, start = strides_of(base.type)
        steps = [
            None if step is None or not isinstance(stride, int) else step * stride
            for step, stride in zip(base_strides, strides, strict=True)
        ]
        for offset, step in zip(offsets, base_strides, strict=True):
            if offset != 0:
                start = (
                    None
                    if start is None or step is None or not isinstance(offset, int)
                    else start + offset * step
                )
        kept = _kept_dims(op.static_sizes.get_values(), result.get_shape())
        layout = StridedLayoutAttr([steps[dim] for dim in kept], start)
        type = MemRefType(result.element_type, result.shape, layout)
        return self._value(memref.SubviewOp.get(base, list(offsets), sizes, list(strides), type), before)

    def _extract_slice(self, op: Operation) -> None:
        assert isinstance(op, tensor.ExtractSliceOp)
        self.mem[op.result] = self._subview(self.mem[op.source], op, op.result.type, op)

    def _expand(self, op: Operation) -> None:
        assert isinstance(op, tensor.ExpandShapeOp)
        source = self.mem[op.src]
        self.mem[op.result] = self._value(
            _expand_shape(
                source, op.reassociation, op.static_output_shape, op.dynamic_output_shape, op.result.type
            ),
            op,
        )

    def _collapse(self, op: Operation) -> None:
        assert isinstance(op, tensor.CollapseShapeOp)
        source = self.mem[op.src]
        type = _collapsed_type(source.type, op.reassociation, op.result.type)
        if type is None:
            source = self._copy_of(op.src, op, "dims with gaps between them are joined")
            type = memref_of(op.result.type)
        self.mem[op.result] = self._value(_collapse_shape(source, op.reassociation, type), op)

    def _cast_op(self, op: Operation) -> None:
        assert isinstance(op, tensor.CastOp) and isinstance(op.dest.type, TensorType)
        source = self.mem[op.source]
        assert isinstance(source.type, MemRefType)
        type = MemRefType(op.dest.type.element_type, op.dest.type.shape, source.type.layout)
        self.mem[op.dest] = self._cast(source, type, op)

    # Writes

    def _insert(self, op: Operation) -> None:
        assert isinstance(op, tensor.InsertOp)
        destination = self._destination(op, 1)
        self._emit(memref.StoreOp.get(op.scalar, destination, list(op.indices)), op)
        self.mem[op.result] = destination

    def _transfer_write(self, op: Operation) -> None:
        assert isinstance(op, vector.TransferWriteOp)
        if op.result is None:
            return
        destination = self._destination(op, 1)
        new = vector.TransferWriteOp(
            op.vector, destination, op.indices, op.in_bounds, op.mask, op.permutation_map
        )
        self._emit(new, op)
        self.mem[op.result] = destination

    def _insert_slice(self, op: Operation) -> None:
        assert isinstance(op, tensor.InsertSliceOp)
        destination = self._destination(op, 1)
        if op not in self.aliases.in_slice:
            self._copy_into_slice(op, destination, op)
        self.mem[op.result] = destination

    def _copy_into_slice(
        self, op: tensor.InsertSliceOp | ParallelInsertSliceOp, destination: SSAValue, before: Operation
    ) -> None:
        source = self.mem[op.source]
        if isinstance(op, ParallelInsertSliceOp) and (
            self.aliases.buffer[op.source] is self.aliases.buffer[op.dest]
        ):
            source = self._copy_of(op.source, before, "it is inserted into the tensor that it is a part of")
        assert isinstance(op.source.type, TensorType)
        missed(
            before,
            f"{_shown(op.source)} is copied: its producer could not write to the place it is inserted at",
        )
        view = self._subview(destination, op, op.source.type, before)
        self._emit(memref.CopyOp(source, view), before)

    def _call(self, op: Operation) -> None:
        assert isinstance(op, func.CallOp)
        if not any(is_tensor(v) for v in (*op.operands, *op.results)):
            return
        kernel = op.callee.string_value() in self.kernels
        first = len(op.operands) - len(op.results) if kernel else len(op.operands)
        arguments: list[SSAValue] = []
        for i, value in enumerate(op.operands):
            if not is_tensor(value):
                arguments.append(value)
            elif i < first:
                arguments.append(self._row_major(self.mem[value], memref_of(value.type), value, op))
            else:
                buffer = self._destination(op, i)
                self.mem[op.results[i - first]] = buffer
                arguments.append(self._cast(buffer, memref_of(value.type), op))
        types = [] if kernel else [memref_of(r.type) if is_tensor(r) else r.type for r in op.results]
        call = func.CallOp(op.callee, arguments, types)
        call.attributes.update(op.attributes)
        self._emit(call, op)
        if not kernel:
            for old, new in zip(op.results, call.results, strict=True):
                if is_tensor(old):
                    self.mem[old] = new
                else:
                    old.replace_all_uses_with(new)

    def _text(self, op: Operation) -> None:
        assert isinstance(op, TextOp) and op.result is not None, "bufferization finds it on tensors"
        inputs = [self._row_major(self.mem[v], memref_of(v.type), v, op) for v in op.inputs]
        buffer = self._destination(op, len(inputs))
        self.mem[op.result] = buffer
        self._emit(op.with_buffers(inputs, self._cast(buffer, memref_of(op.out.type), op)), op)

    # Control flow

    def _forall(self, op: Operation) -> None:
        assert isinstance(op, ForallOp)
        first = len(op.operands) - len(op.outputs)
        for i, (arg, result) in enumerate(zip(op.shared_outs, op.res, strict=True)):
            self.mem[arg] = self.mem[result] = self._destination(op, first + i)
        block = op.region.block
        shared = list(op.shared_outs)

        def terminate(last: Operation) -> None:
            assert isinstance(last, InParallelOp)
            for inner in list(last.region.block.ops):
                assert isinstance(inner, ParallelInsertSliceOp)
                if inner not in self.aliases.in_slice:
                    self._copy_into_slice(inner, self.mem[inner.dest], last)
                inner.detach()
                inner.erase()

        self._block(block, terminate)
        if not shared:
            return
        for arg in reversed(shared):
            assert isinstance(arg, BlockArgument)
            block.erase_arg(arg)
        region = op.detach_region(op.region)
        new = ForallOp(op.lower_bounds, op.upper_bounds, op.steps, [], region, op.mapping)
        new.attributes.update(op.attributes)
        self._emit(new, op)

    def _fresh(self, value: SSAValue, scope: Operation) -> bool:
        """Whether `value` is a whole buffer allocated inside `scope`, which may hand it out."""
        buffer = self.aliases.buffer[value]
        origin = buffer.values[0]
        made = self.mem[value]
        return (
            buffer.writable
            and isinstance(origin, OpResult)
            and self.aliases.defined_inside(origin, scope)
            and isinstance(made.owner, memref.AllocOp)
        )

    def _hand_out(self, value: SSAValue, type: Attribute, scope: Operation, last: Operation, given: set[int]):
        """The memref of `value` as a carried one of tensor type `type`: its own buffer, or a copy."""
        if self.is_kernel:
            raise unsupported(
                scope, "a tensor changes its extents in a kernel", "leave it in the host function"
            )
        buffer = id(self.aliases.buffer[value])
        memory = self.mem[value]
        if not self._fresh(value, scope) or buffer in given:
            memory = self._copy_of(value, last, "it leaves its region, and its buffer is in use outside")
        given.add(buffer)
        return self._cast(memory, memref_of(type), last)

    def _move(self, terminator: Operation, pairs: Sequence[tuple[int, SSAValue]]) -> None:
        """At the end of an iteration, copy operands of `terminator` to the loop's own buffers."""
        sources: list[tuple[SSAValue, SSAValue]] = []
        for index, argument in pairs:
            value = terminator.operands[index]
            if self.aliases.whole[value] is self.aliases.whole[argument]:
                continue
            memory = self.mem[value]
            if (terminator, index) in self.aliases.swaps:
                memory = self._copy_of(
                    value, terminator, "values change places from one iteration to the next"
                )
            sources.append((memory, self.mem[argument]))
        for source, destination in sources:
            missed(
                terminator,
                "a value is copied at the end of an iteration: it was made in another buffer than the loop's",
            )
            self._emit(memref.CopyOp(source, destination), terminator)

    def _enter_loop(self, op: Operation, index: int, arg: BlockArgument) -> SSAValue | None:
        """Give `arg` the buffer of operand `index`; the initial memref where it is carried."""
        buffer = self._destination(op, index)
        if arg not in self.aliases.carried:
            self.mem[arg] = buffer
            return None
        type = memref_of(arg.type)
        new = arg.block.insert_arg(type, arg.index)
        new.name_hint = arg.name_hint
        self.mem[arg] = new
        return self._row_major(buffer, type, op.operands[index], op)

    def _for(self, op: Operation) -> None:
        assert isinstance(op, scf.ForOp)
        block = op.body.block
        old = list(block.args[1:])
        initial: list[SSAValue] = []
        for i, arg in enumerate(old):
            if not is_tensor(arg):
                initial.append(op.iter_args[i])
            elif (value := self._enter_loop(op, 3 + i, arg)) is not None:
                initial.append(value)

        def terminate(last: Operation) -> None:
            self._move(
                last, [(i, a) for i, a in enumerate(old) if is_tensor(a) and a not in self.aliases.carried]
            )
            kept: list[SSAValue] = []
            given: set[int] = set()
            for value, arg in zip(list(last.operands), old, strict=True):
                if not is_tensor(arg):
                    kept.append(value)
                elif arg in self.aliases.carried:
                    if self.aliases.whole[value] is arg:
                        kept.append(self._cast(self.mem[value], memref_of(arg.type), last))
                    else:
                        kept.append(self._hand_out(value, arg.type, op, last, given))
            _replace_terminator(last, scf.YieldOp(*kept))

        self._block(block, terminate)
        if not any(is_tensor(arg) for arg in old):
            return
        for arg in reversed(old):
            if is_tensor(arg):
                block.erase_arg(arg)
        new = scf.ForOp(op.lb, op.ub, op.step, initial, op.detach_region(op.body))
        new.attributes.update(op.attributes)
        self._emit(new, op)
        self._hand_results(op.res, old, new.res)

    def _hand_results(
        self, results: Sequence[SSAValue], arguments: Sequence[SSAValue], new: Sequence[SSAValue]
    ) -> None:
        """Map results of a loop: buffers of its arguments, or the next of the values that still travel."""
        travelling = iter(new)
        for result, arg in zip(results, arguments, strict=True):
            if not is_tensor(result):
                value = next(travelling)
                value.name_hint = result.name_hint
                result.replace_all_uses_with(value)
            elif arg in self.aliases.carried:
                self.mem[result] = next(travelling)
            else:
                self.mem[result] = self.mem[arg]

    def _while(self, op: Operation) -> None:
        assert isinstance(op, scf.WhileOp)
        before, after = op.before_region.block, op.after_region.block
        old_before, old_after = list(before.args), list(after.args)
        has_tensors = any(is_tensor(v) for v in (*old_before, *old_after))
        initial: list[SSAValue] = []
        for i, arg in enumerate(old_before):
            if not is_tensor(arg):
                initial.append(op.arguments[i])
            elif (value := self._enter_loop(op, i, arg)) is not None:
                initial.append(value)

        # What the condition passes on: one of the loop's own buffers, a buffer to copy to, or a memref.
        own: dict[SSAValue, SSAValue] = {
            self.aliases.whole[b]: b for b in old_before if is_tensor(b) and b not in self.aliases.carried
        }
        for arg in old_after:
            if not is_tensor(arg):
                continue
            if (origin := own.get(self.aliases.whole[arg])) is not None:
                self.mem[arg] = self.mem[origin]
            elif arg in self.aliases.carried:
                new_arg = after.insert_arg(memref_of(arg.type), arg.index)
                self.mem[arg] = new_arg
            else:
                self.mem[arg] = self._allocate(memref_of(arg.type), [], op)
        types: list[Attribute] = []

        def condition(last: Operation) -> None:
            assert isinstance(last, scf.ConditionOp)
            kept: list[SSAValue] = []
            given: set[int] = set()
            for value, arg in zip(list(last.operands[1:]), old_after, strict=True):
                if not is_tensor(arg):
                    kept.append(value)
                elif arg in self.aliases.carried:
                    kept.append(self._hand_out(value, arg.type, op, last, given))
                elif self.aliases.whole[arg] not in own:
                    self._emit(memref.CopyOp(self.mem[value], self.mem[arg]), last)
            types.extend(value.type for value in kept)
            if has_tensors:
                _replace_terminator(last, scf.ConditionOp(last.operands[0], *kept))

        def back(last: Operation) -> None:
            carried = self.aliases.carried
            self._move(last, [(i, a) for i, a in enumerate(old_before) if is_tensor(a) and a not in carried])
            kept: list[SSAValue] = []
            given: set[int] = set()
            for value, arg in zip(list(last.operands), old_before, strict=True):
                if not is_tensor(arg):
                    kept.append(value)
                elif arg in carried:
                    kept.append(self._hand_out(value, arg.type, op, last, given))
            if has_tensors:
                _replace_terminator(last, scf.YieldOp(*kept))

        self._block(before, condition)
        self._block(after, back)
        if not has_tensors:
            return
        for block, arguments in ((before, old_before), (after, old_after)):
            for arg in reversed(arguments):
                if is_tensor(arg):
                    block.erase_arg(arg)
        regions = [op.detach_region(region) for region in list(op.regions)]
        new = scf.WhileOp(initial, types, *regions)
        new.attributes.update(op.attributes)
        self._emit(new, op)
        self._hand_results(op.res, old_after, new.res)

    def _if(self, op: Operation) -> None:
        assert isinstance(op, scf.IfOp)
        has_tensors = any(is_tensor(r) for r in op.output)
        targets: dict[int, SSAValue] = {}
        carried: set[int] = set()
        for i, result in enumerate(op.output):
            if not is_tensor(result):
                continue
            origin = self.aliases.whole[result]
            if origin is not result:
                self.mem[result] = self._cast(self.mem[origin], memref_like(self.mem[origin], result), op)
            elif DYNAMIC_INDEX in result.type.get_shape():  # pyright: ignore
                carried.add(i)
            else:
                targets[i] = self.mem[result] = self._allocate(memref_of(result.type), [], op)

        def terminate(last: Operation) -> None:
            kept: list[SSAValue] = []
            given: set[int] = set()
            for i, value in enumerate(list(last.operands)):
                if not is_tensor(value):
                    kept.append(value)
                elif i in carried:
                    kept.append(self._hand_out(value, value.type, op, last, given))
                elif i in targets:
                    self._emit(memref.CopyOp(self.mem[value], targets[i]), last)
            if has_tensors:
                _replace_terminator(last, scf.YieldOp(*kept))

        for region in op.regions:
            if region.blocks:
                self._block(region.block, terminate)
        if not has_tensors:
            return
        kept_types = [
            memref_of(r.type) if is_tensor(r) else r.type
            for i, r in enumerate(op.output)
            if not is_tensor(r) or i in carried
        ]
        then, otherwise = [op.detach_region(region) for region in list(op.regions)]
        new = scf.IfOp(op.cond, kept_types, then, otherwise)
        new.attributes.update(op.attributes)
        self._emit(new, op)
        travelling = iter(new.output)
        for i, result in enumerate(op.output):
            if not is_tensor(result):
                result.replace_all_uses_with(next(travelling))
            elif i in carried:
                self.mem[result] = next(travelling)

    # Results of the function

    def _find_outputs(self) -> None:
        """Match each returned tensor with the `tensor.empty` it starts from, through writes and reshapes."""
        terminator = self.function.body.block.last_op
        assert terminator is not None
        for i, value in enumerate(terminator.operands):
            if not is_tensor(value):
                continue
            path: list[Operation] = []
            current: SSAValue | None = value
            while current is not None and not isinstance(current.owner, tensor.EmptyOp):
                if isinstance(current.owner, tensor.ExpandShapeOp | tensor.CollapseShapeOp):
                    path.append(current.owner)
                    current = current.owner.src
                else:
                    if isinstance(current.owner, tensor.CastOp):
                        path.append(current.owner)
                    current = previous(current, self.kernels)
            if current is None:
                continue
            empty = current.owner
            assert isinstance(empty, tensor.EmptyOp)
            same_buffer = self.aliases.buffer[value] is self.aliases.buffer[current]
            if (
                same_buffer
                and empty.parent is self.function.body.block
                and empty not in self.outputs
                and self._shapes_known(path, empty)
            ):
                self.outputs[empty] = (i, path)

    def _shapes_known(self, path: Sequence[Operation], empty: tensor.EmptyOp) -> bool:
        """Whether the extents of every tensor on the way from the output to `empty` follow from those of `empty`."""
        for op in path:
            if isinstance(op, tensor.ExpandShapeOp):
                shape = op.result.type.get_shape()
                several = any(
                    sum(shape[dim] == DYNAMIC_INDEX for dim in group) > 1
                    for group in _groups(op.reassociation)
                )
                if several and not all(self._known_at(size, empty) for size in op.dynamic_output_shape):
                    return False
        return True

    def _known_at(self, value: SSAValue, place: Operation) -> bool:
        if not isinstance(value, OpResult):
            return True
        # What bufferization made itself stands in front of what it looks at.
        position = self.aliases.order.get(value.op, -1)
        return value.op.parent is place.parent and position < self.aliases.order[place]

    def _extents_through(
        self, op: Operation, extents: list[SSAValue | int], before: Operation
    ) -> list[SSAValue | int]:
        """The extents of the result of the view `op` of a tensor of `extents`."""
        shape = op.results[0].type.get_shape()  # pyright: ignore
        if isinstance(op, tensor.CastOp):
            return [e if s == DYNAMIC_INDEX else s for e, s in zip(extents, shape, strict=True)]
        groups = _groups(op.properties["reassociation"])
        through: list[SSAValue | int] = []
        if isinstance(op, tensor.CollapseShapeOp):
            for group in groups:
                static = prod(e for dim in group if isinstance(e := extents[dim], int))
                total: SSAValue | int = static
                for dim in group:
                    if isinstance(extent := extents[dim], SSAValue):
                        if total == 1 and isinstance(total, int):
                            total = extent
                        else:
                            total = self._value(arith.MuliOp(self._index(total), extent), before)
                through.append(total)
            return through
        assert isinstance(op, tensor.ExpandShapeOp)
        given = iter(op.dynamic_output_shape)
        for extent, group in zip(extents, groups, strict=True):
            sizes = [next(given) if shape[dim] == DYNAMIC_INDEX else shape[dim] for dim in group]
            static = prod(size for size in sizes if isinstance(size, int))
            for size in sizes:
                if isinstance(size, SSAValue) and not self._known_at(size, before):
                    size = extent
                    if static != 1:
                        size = self._value(arith.DivUIOp(self._index(extent), self.constant(static)), before)
                through.append(size)
        return through

    def _output_buffer(self, empty: tensor.EmptyOp) -> SSAValue:
        """The buffer of an output, seen with the shape of `empty`."""
        number, path = self.outputs[empty]
        sizes = iter(empty.dynamic_sizes)
        shapes: list[list[SSAValue | int]] = [
            [next(sizes) if e == DYNAMIC_INDEX else e for e in empty.tensor.type.get_shape()]  # pyright: ignore
        ]
        for op in reversed(path):
            shapes.append(self._extents_through(op, shapes[-1], empty))
        shaped = path[0].results[0] if path else empty.tensor
        dynamic = self._dynamic(shapes[-1], shaped.type)
        alloc = memref.AllocOp(dynamic, [], memref_of(shaped.type), IntegerAttr(ALIGNMENT, i64))
        alloc.attributes[OUTPUT_KEY] = IntegerAttr(number, i64)
        value = self._value(alloc, empty)
        self.output_buffers[number] = value
        for op, extents in zip(path, reversed(shapes[:-1]), strict=True):
            source = op.operands[0]
            if isinstance(op, tensor.ExpandShapeOp):
                value = self._value(_collapse_shape(value, op.reassociation, memref_of(source.type)), empty)
            elif isinstance(op, tensor.CollapseShapeOp):
                shape = DenseArrayBase.from_list(i64, source.type.get_shape())  # pyright: ignore
                dynamic = self._dynamic(extents, source.type)
                value = self._value(
                    _expand_shape(value, op.reassociation, shape, dynamic, source.type), empty
                )
            else:
                value = self._cast(value, memref_of(source.type), empty)
        return value

    def _dynamic(self, extents: Sequence[SSAValue | int], type: Attribute) -> list[SSAValue]:
        """Those of `extents` that `type` does not know."""
        assert isinstance(type, TensorType)
        return [self._index(e) for e, s in zip(extents, type.get_shape(), strict=True) if s == DYNAMIC_INDEX]

    def _return(self, last: Operation) -> None:
        if self.is_kernel:
            block = self.function.body.block
            arguments = [arg for arg in block.args if isinstance(arg.type, MemRefType)][-len(last.operands) :]
            for value, argument in zip(list(last.operands), arguments, strict=False):
                origin = self.mem[self.aliases.whole[value]]
                if origin is not argument:
                    missed(last, f"{_shown(value)} is copied: the kernel returns what lies in another buffer")
                    self._emit(memref.CopyOp(self.mem[value], argument), last)
            _replace_terminator(last, func.ReturnOp())
            return
        values: list[SSAValue] = []
        for i, value in enumerate(list(last.operands)):
            if not is_tensor(value):
                values.append(value)
                continue
            if i not in self.output_buffers:
                alloc = memref.AllocOp(
                    self._extents(value, last), [], memref_of(value.type), IntegerAttr(ALIGNMENT, i64)
                )
                alloc.attributes[OUTPUT_KEY] = IntegerAttr(i, i64)
                self.output_buffers[i] = self._value(alloc, last)
                missed(last, f"output {i} is copied: it is an input, a constant or another output as well")
                self._emit(memref.CopyOp(self.mem[value], self.output_buffers[i]), last)
            values.append(self._cast(self.output_buffers[i], memref_of(value.type), last))
        _replace_terminator(last, func.ReturnOp(*values))


def memref_like(value: SSAValue, result: SSAValue) -> MemRefType:
    """The type of tensor `result` with the layout of memref `value`."""
    assert isinstance(value.type, MemRefType) and isinstance(result.type, TensorType)
    return MemRefType(result.type.element_type, result.type.shape, value.type.layout)


def _replace_terminator(old: Operation, new: Operation) -> None:
    new.location = old.location
    block = old.parent
    assert block is not None
    block.insert_op_before(new, old)
    old.detach()
    old.erase()


def _count_dynamic(value: SSAValue, axis: int) -> int:
    """The number of dynamic extents in front of `axis`."""
    return sum(extent == DYNAMIC_INDEX for extent in value.type.get_shape()[:axis])  # pyright: ignore


def _kept_dims(sizes: Sequence[int], shape: Sequence[int]) -> list[int]:
    """The dims of a slice of `sizes` that a result of `shape` keeps; unit dims may be dropped."""
    kept: list[int] = []
    for dim, size in enumerate(sizes):
        rest = len(shape) - len(kept)
        if rest and size == shape[len(kept)]:
            kept.append(dim)
        else:
            assert size == 1, f"a slice of {list(sizes)} has no rank-reduced form {list(shape)}"
    return kept


def _outermost_place(before: Operation, sizes: Sequence[SSAValue]) -> Operation:
    """
    The op in front of which a stack buffer of extents `sizes` stands: as far out as they are known, so
    that no loop takes new stack in every iteration, but inside the `scf.forall`, whose iterations run at once.
    """
    chain = [before]
    while (parent := chain[-1].parent_op()) is not None and not isinstance(parent, func.FuncOp | ForallOp):
        chain.append(parent)
    blocks = [size.owner if isinstance(size.owner, Block) else size.owner.parent for size in sizes]
    for place in reversed(chain):
        inner = [block for block in blocks if block is not place.parent and not _encloses(block, place)]
        if not inner:
            if not sizes:
                assert place.parent is not None and place.parent.first_op is not None
                return place.parent.first_op
            return place
    raise AssertionError("the extents of a buffer dominate its first use")


def _encloses(block: Block | None, op: Operation) -> bool:
    parent = op.parent_op()
    while parent is not None:
        if parent.parent is block:
            return True
        parent = parent.parent_op()
    return False


def _groups(reassociation: Attribute) -> list[list[int]]:
    assert isinstance(reassociation, ArrayAttr)
    return [[index.value.data for index in group] for group in reassociation]  # pyright: ignore


def _collapse_shape(source: SSAValue, reassociation: Attribute, type: MemRefType) -> Operation:
    return memref.CollapseShapeOp.build(
        operands=[source], properties={"reassociation": reassociation}, result_types=[type]
    )


def _expand_shape(
    source: SSAValue,
    reassociation: Attribute,
    static_shape: DenseArrayBase,
    dynamic_shape: Sequence[SSAValue],
    result: Attribute,
) -> Operation:
    assert isinstance(source.type, MemRefType)
    type = memref_of(result)
    if isinstance(source.type.layout, StridedLayoutAttr):
        strides, offset = strides_of(source.type)
        shape = type.get_shape()
        expanded: list[int | None] = [None] * len(shape)
        for stride, group in zip(strides, _groups(reassociation), strict=True):
            for dim in reversed(group):
                expanded[dim] = stride
                extent = shape[dim]
                stride = None if stride is None or extent == DYNAMIC_INDEX else stride * extent
        type = MemRefType(type.element_type, type.shape, StridedLayoutAttr(expanded, offset))
    return memref.ExpandShapeOp.build(
        operands=[source, list(dynamic_shape)],
        properties={"reassociation": reassociation, "static_output_shape": static_shape},
        result_types=[type],
    )


def _collapsed_type(source: Attribute, reassociation: Attribute, result: Attribute) -> MemRefType | None:
    """The type of a collapsed view; None where the dims of a group do not lie next to each other."""
    type = memref_of(result)
    assert isinstance(source, MemRefType)
    if not isinstance(source.layout, StridedLayoutAttr):
        return type
    strides, offset = strides_of(source)
    shape = source.get_shape()
    collapsed: list[int | None] = []
    for group in _groups(reassociation):
        dims = [dim for dim in group if shape[dim] != 1] or group[-1:]
        for outer, inner in pairwise(dims):
            step = strides[inner]
            if step is None or shape[inner] == DYNAMIC_INDEX or strides[outer] != step * shape[inner]:
                return None
        collapsed.append(strides[dims[-1]])
    return MemRefType(type.element_type, type.shape, StridedLayoutAttr(collapsed, offset))


def _shown(value: SSAValue) -> str:
    """A value as a remark names it."""
    return f"%{value.name_hint} : {value.type}" if value.name_hint else f"a {value.type}"
