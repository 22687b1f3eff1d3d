"""Textual LLVM IR: the printer, a module in parts, and the reader."""

from stepwell.backends.llvm_ir.parts import split_llvm_ir
from stepwell.backends.llvm_ir.printer import print_llvm_ir
from stepwell.backends.llvm_ir.reader import parse_llvm_ir, read_llvm_ir

__all__ = ["parse_llvm_ir", "print_llvm_ir", "read_llvm_ir", "split_llvm_ir"]
