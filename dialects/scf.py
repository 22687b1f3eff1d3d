"""The `scf` dialect: xDSL's, with the ops and the syntax of upstream MLIR that it lacks."""

from collections.abc import Sequence
from typing import Self

from xdsl.dialects.builtin import DYNAMIC_INDEX, I64, ArrayAttr, DenseArrayBase, IndexType, TensorType, i64
from xdsl.dialects.scf import Scf
from xdsl.dialects.utils import (
    get_dynamic_index_list,
    parse_assignment,
    parse_dynamic_index_list_without_types,
    print_assignment,
    print_dynamic_index_list,
    split_dynamic_index_list,
    verify_dynamic_index_list,
)
from xdsl.ir import Block, BlockArgument, Dialect, Region, SSAValue
from xdsl.irdl import (
    AttrSizedOperandSegments,
    IRDLOperation,
    irdl_op_definition,
    lazy_traits_def,
    opt_prop_def,
    prop_def,
    region_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.parser import Parser
from xdsl.printer import Printer
from xdsl.traits import (
    HasParent,
    IsTerminator,
    NoTerminator,
    Pure,
    RecursiveMemoryEffect,
)
from xdsl.utils.exceptions import VerifyException

Extent = SSAValue | int


@irdl_op_definition
class InParallelOp(IRDLOperation):
    """
    The end of an `scf.forall`: `tensor.parallel_insert_slice`s that put the tile of one iteration into the
    shared results. They may run in any order. Reference: MLIR `scf.forall.in_parallel`.
    """

    name = "scf.forall.in_parallel"
    region = region_def("single_block")
    traits = lazy_traits_def(
        lambda: (IsTerminator(), NoTerminator(), HasParent(ForallOp), RecursiveMemoryEffect(), Pure())
    )

    def __init__(self, region: Region | None = None):
        super().__init__(regions=[region or Region(Block())])

    def print(self, printer: Printer) -> None:
        printer.print_string(" ")
        printer.print_region(self.region, print_entry_block_args=False, print_empty_block=False)
        printer.print_op_attributes(self.attributes)

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        region = parser.parse_region(())
        if not region.blocks:
            region.add_block(Block())
        op = cls(region)
        op.attributes |= parser.parse_optional_attr_dict()
        return op


@irdl_op_definition
class ForallOp(IRDLOperation):
    """
    Run the body once for every point of a box, in any order or at the same time; iteration variable `i` goes
    from `lower_bounds[i]` in steps of `steps[i]` below `upper_bounds[i]`. The body sees `shared_outs` as its
    last arguments and returns tiles of them through `scf.forall.in_parallel`; what no tile covers keeps the
    value it had. Reference: MLIR `scf.forall`.
    """

    name = "scf.forall"
    dynamic_lower_bound = var_operand_def(IndexType)
    dynamic_upper_bound = var_operand_def(IndexType)
    dynamic_step = var_operand_def(IndexType)
    outputs = var_operand_def(TensorType)
    static_lower_bound = prop_def(DenseArrayBase.constr(i64), prop_name="staticLowerBound")
    static_upper_bound = prop_def(DenseArrayBase.constr(i64), prop_name="staticUpperBound")
    static_step = prop_def(DenseArrayBase.constr(i64), prop_name="staticStep")
    mapping = opt_prop_def(ArrayAttr)
    res = var_result_def(TensorType)
    region = region_def("single_block")

    irdl_options = (AttrSizedOperandSegments(as_property=True),)
    traits = traits_def(RecursiveMemoryEffect())

    def __init__(
        self,
        lower_bounds: Sequence[Extent],
        upper_bounds: Sequence[Extent],
        steps: Sequence[Extent],
        outputs: Sequence[SSAValue],
        region: Region,
        mapping: ArrayAttr | None = None,
    ):
        bounds = [split_dynamic_index_list(b, DYNAMIC_INDEX) for b in (lower_bounds, upper_bounds, steps)]
        statics = [DenseArrayBase.from_list(i64, static) for static, _ in bounds]
        super().__init__(
            operands=[*(dynamic for _, dynamic in bounds), outputs],
            result_types=[[value.type for value in outputs]],
            properties={
                "staticLowerBound": statics[0],
                "staticUpperBound": statics[1],
                "staticStep": statics[2],
                "mapping": mapping,
            },
            regions=[region],
        )

    @property
    def lower_bounds(self) -> list[Extent]:
        return get_dynamic_index_list(
            self.static_lower_bound.get_values(), self.dynamic_lower_bound, DYNAMIC_INDEX
        )

    @property
    def upper_bounds(self) -> list[Extent]:
        return get_dynamic_index_list(
            self.static_upper_bound.get_values(), self.dynamic_upper_bound, DYNAMIC_INDEX
        )

    @property
    def steps(self) -> list[Extent]:
        return get_dynamic_index_list(self.static_step.get_values(), self.dynamic_step, DYNAMIC_INDEX)

    @property
    def induction_variables(self) -> Sequence[SSAValue]:
        return self.region.block.args[: len(self.static_step)]

    @property
    def shared_outs(self) -> Sequence[BlockArgument]:
        """The body's views of `outputs`."""
        return self.region.block.args[len(self.static_step) :]

    def verify_(self) -> None:
        rank = len(self.static_step)
        for name, static, dynamic in (
            ("lower bound", self.static_lower_bound, self.dynamic_lower_bound),
            ("upper bound", self.static_upper_bound, self.dynamic_upper_bound),
            ("step", self.static_step, self.dynamic_step),
        ):
            if len(static) != rank:
                raise VerifyException(f"{len(static)} {name}s do not match the {rank} steps")
            verify_dynamic_index_list(
                static.get_values(), dynamic, DYNAMIC_INDEX, f" in the {name} arguments"
            )
        got = [arg.type for arg in self.region.block.args]
        want = [IndexType()] * rank + [value.type for value in self.outputs]
        if got != want:
            raise VerifyException(
                f"the body takes ({', '.join(map(str, got))}) and must take ({', '.join(map(str, want))})"
            )
        if [r.type for r in self.res] != want[rank:]:
            raise VerifyException("the results must have the types of shared_outs")
        if not isinstance(self.region.block.last_op, InParallelOp):
            raise VerifyException("the body must end in scf.forall.in_parallel")

    def _print_bounds(
        self, printer: Printer, static: DenseArrayBase[I64], values: Sequence[SSAValue]
    ) -> None:
        print_dynamic_index_list(
            printer, DYNAMIC_INDEX, values, static.get_values(), delimiter=Parser.Delimiter.PAREN
        )

    def print(self, printer: Printer) -> None:
        printer.print_string(" (")
        printer.print_list(self.induction_variables, printer.print_ssa_value)
        printer.print_string(")")
        normalised = not any(self.static_lower_bound.get_values()) and all(
            step == 1 for step in self.static_step.get_values()
        )
        if normalised:
            printer.print_string(" in ")
            self._print_bounds(printer, self.static_upper_bound, self.dynamic_upper_bound)
        else:
            printer.print_string(" = ")
            self._print_bounds(printer, self.static_lower_bound, self.dynamic_lower_bound)
            printer.print_string(" to ")
            self._print_bounds(printer, self.static_upper_bound, self.dynamic_upper_bound)
            printer.print_string(" step ")
            self._print_bounds(printer, self.static_step, self.dynamic_step)
        if self.outputs:
            printer.print_string(" shared_outs(")
            printer.print_list(
                zip(self.shared_outs, self.outputs, strict=True),
                lambda pair: print_assignment(printer, *pair),
            )
            printer.print_string(") -> (")
            printer.print_list((r.type for r in self.res), printer.print_attribute)
            printer.print_string(")")
        printer.print_string(" ")
        last = self.region.block.last_op
        printer.print_region(
            self.region,
            print_entry_block_args=False,
            print_empty_block=False,
            print_block_terminators=isinstance(last, InParallelOp) and bool(last.region.block.ops),
        )
        attributes = dict(self.attributes)
        if self.mapping is not None:
            attributes["mapping"] = self.mapping
        printer.print_op_attributes(attributes)

    @classmethod
    def parse(cls, parser: Parser) -> Self:
        variables = parser.parse_comma_separated_list(
            Parser.Delimiter.PAREN, lambda: parser.parse_argument(expect_type=False)
        )

        def bounds() -> list[Extent]:
            dynamic, static = parse_dynamic_index_list_without_types(
                parser, DYNAMIC_INDEX, delimiter=Parser.Delimiter.PAREN
            )
            values = [parser.resolve_operand(value, IndexType()) for value in dynamic]
            return get_dynamic_index_list(static, values, DYNAMIC_INDEX)

        if parser.parse_optional_keyword("in"):
            uppers = bounds()
            lowers, steps = [0] * len(uppers), [1] * len(uppers)
        else:
            parser.parse_punctuation("=")
            lowers = bounds()
            parser.parse_keyword("to")
            uppers = bounds()
            parser.parse_keyword("step")
            steps = bounds()
        pairs, types, position = [], [], parser.pos
        if parser.parse_optional_keyword("shared_outs"):
            pairs = parser.parse_comma_separated_list(
                Parser.Delimiter.PAREN, lambda: parse_assignment(parser)
            )
            parser.parse_punctuation("->")
            types = parser.parse_comma_separated_list(Parser.Delimiter.PAREN, parser.parse_type)
        outputs = parser.resolve_operands([value for _, value in pairs], types, position)
        arguments = [variable.resolve(IndexType()) for variable in variables]
        arguments += [argument.resolve(type) for (argument, _), type in zip(pairs, types, strict=True)]
        region = parser.parse_region(arguments)
        attributes = parser.parse_optional_attr_dict()
        mapping = attributes.pop("mapping", None)
        assert mapping is None or isinstance(mapping, ArrayAttr)
        op = cls(lowers, uppers, steps, outputs, region, mapping)
        op.attributes |= attributes
        if not isinstance(region.block.last_op, InParallelOp):
            region.block.add_op(InParallelOp())
        return op


SCF = Dialect("scf", [*Scf.operations, ForallOp, InParallelOp], [*Scf.attributes], Scf._interfaces)
