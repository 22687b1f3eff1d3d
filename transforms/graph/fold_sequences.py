"""Sequences whose elements are known at compile time become these elements."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, TensorType
from xdsl.ir import Region, SSAValue
from xdsl.passes import ModulePass
from xdsl.utils.exceptions import VerifyException

from stepwell.dialects.graph import (
    ConcatFromSequenceOp,
    GraphOp,
    OptionalGetElementOp,
    OptionalHasElementOp,
    OptionalOp,
    SequenceAtOp,
    SequenceConstructOp,
    SequenceEmptyOp,
    SequenceEraseOp,
    SequenceInsertOp,
    SequenceLengthOp,
    SplitToSequenceOp,
    dims_of,
)
from stepwell.dialects.graph.types import OptionalType
from stepwell.transforms.graph.emitter import (
    Emitter,
    functions_of,
    remove_dead_ops,
    replace,
    update_function_type,
)
from stepwell.transforms.graph.infer_shapes import infer_region


@dataclass(frozen=True)
class FoldSequencesPass(ModulePass):
    """
    Let who reads a sequence whose elements are known read these elements, and likewise of optionals.
    Requires: inferred shapes. Ensures: no operator reads, measures or concatenates a sequence that is made of tensors at
    places that are constants; one that is wrong (a place that there is not) is left to the run.
    """

    name = "fold-sequences"
    most_pieces: int = 64
    """A tensor that is split into more pieces stays one: each piece would be an op."""

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        for function in functions_of(op):
            folder = _Folder(Emitter(ctx), self.most_pieces)
            folder.region(function.body)
            if folder.changed:
                remove_dead_ops(function.body)
                infer_region(function.body)
                update_function_type(function)


@dataclass
class _Folder:
    emitter: Emitter
    most_pieces: int
    elements: dict[SSAValue, list[SSAValue]] = field(default_factory=dict)
    """The elements of each sequence of which they are known."""
    changed: bool = False

    def region(self, region: Region) -> None:
        for block in region.blocks:
            for op in list(block.ops):
                for inner in op.regions:
                    self.region(inner)
                if isinstance(op, GraphOp):
                    self.emitter.at(op)
                    self._visit(op)

    def _visit(self, op: GraphOp) -> None:
        known = self._elements_of(op)
        if known is not None:
            self.elements[op.results[0]] = known
            return
        try:
            value = self._value_of(op)
        except VerifyException:
            return  # elements that do not fit together end the run
        if value is not None:
            replace(op, [value])
            self.changed = True

    # construct(xs) == [xs];  insert([xs], x, i) == [xs[:i], x, xs[i:]];  erase([xs], i) == [xs[:i], xs[i + 1:]]
    def _elements_of(self, op: GraphOp) -> list[SSAValue] | None:
        """The elements of the sequence that `op` makes, if they are known."""
        match op:
            case SequenceEmptyOp():
                return []
            case SequenceConstructOp():
                return list(op.operands)
            case SplitToSequenceOp():
                return self._pieces(op)
            case SequenceInsertOp():
                if (held := self.elements.get(op.input_sequence)) is None:
                    return None
                place = self._place(op.position, len(held), 1) if op.position is not None else len(held)
                return None if place is None else [*held[:place], op.tensor, *held[place:]]
            case SequenceEraseOp():
                if (held := self.elements.get(op.input_sequence)) is None:
                    return None
                place = self._place(op.position, len(held)) if op.position is not None else len(held) - 1
                return None if place is None or place < 0 else held[:place] + held[place + 1 :]
            case _:
                return None

    def _place(self, position: SSAValue, count: int, end: int = 0) -> int | None:
        """The place that a constant position means, None if there is none."""
        array = self.emitter.value(position)
        if array is None or array.size != 1:
            return None
        place = int(array.reshape(())[()])
        place += count if place < 0 else 0
        return place if 0 <= place < count + end else None

    # split_to_sequence(x) == [split(x)]
    def _pieces(self, op: SplitToSequenceOp) -> list[SSAValue] | None:
        if not op.output_sequence.uses:
            return None
        shape, axis = dims_of(op.input.type), op.get("axis")
        extent = shape[axis]
        if op.split is None:
            sizes = None if not isinstance(extent, int) else [1] * extent
        else:
            sizes = self._sizes(self.emitter.value(op.split), extent)
        if not sizes or len(sizes) > self.most_pieces:
            return None
        try:
            pieces = list(
                self.emitter.emit(
                    "Split", op.input, self.emitter.ints(sizes), outputs=len(sizes), axis=axis
                ).results
            )
        except VerifyException:
            return None  # sizes that are not those of the whole end the run
        if op.split is None and not op.get("keepdims"):
            pieces = [self.emitter.make("Squeeze", piece, self.emitter.ints([axis])) for piece in pieces]
        return pieces

    def _sizes(self, split: np.ndarray | None, extent: object) -> list[int] | None:
        if split is None or (split < 0).any():
            return None
        if split.ndim:
            return [int(size) for size in split]
        each = int(split)
        if not isinstance(extent, int) or each < 1 or extent // each > self.most_pieces:
            return None
        return [min(each, extent - start) for start in range(0, extent, each)]

    # at([xs], i) == xs[i];  length([xs]) == |xs|;  concat_from_sequence([xs]) == concat(xs)
    # get_element(optional(x)) == x;  has_element(optional(x)) == true
    def _value_of(self, op: GraphOp) -> SSAValue | None:
        """The value that the one result of `op` is, if the sequence or optional that it reads is known."""
        match op:
            case SequenceAtOp():
                held = self.elements.get(op.input_sequence)
                place = None if held is None else self._place(op.position, len(held))
                return None if held is None or place is None else held[place]
            case SequenceLengthOp():
                held = self.elements.get(op.input_sequence)
                return None if held is None else self.emitter.constant(np.array(len(held), np.int64))
            case ConcatFromSequenceOp():
                held = self.elements.get(op.input_sequence)
                return self._concatenated(op, held) if held else None
            case OptionalHasElementOp():
                known = None if op.input is None else self._is_present(op.input)
                return None if known is None else self.emitter.constant(np.array(known))
            case OptionalGetElementOp():
                owner = op.input.owner
                if not isinstance(op.input.type, OptionalType):
                    return op.input
                return owner.input if isinstance(owner, OptionalOp) else None
            case _:
                return None

    def _is_present(self, value: SSAValue) -> bool | None:
        if not isinstance(value.type, OptionalType):
            return True
        return value.owner.input is not None if isinstance(value.owner, OptionalOp) else None

    def _concatenated(self, op: ConcatFromSequenceOp, held: Sequence[SSAValue]) -> SSAValue:
        axis = op.get("axis")
        if op.get("new_axis"):
            assert isinstance(op.concat_result.type, TensorType), "a tensor is made"
            axis %= op.concat_result.type.get_num_dims()
            held = [self.emitter.make("Unsqueeze", value, self.emitter.ints([axis])) for value in held]
        return self.emitter.make("Concat", *held, axis=axis)
