"""Textual LLVM IR: the printer and the reader."""

from stepwell.backends.llvm_ir.printer import print_llvm_ir
from stepwell.backends.llvm_ir.reader import parse_llvm_ir, read_llvm_ir

__all__ = ["parse_llvm_ir", "print_llvm_ir", "read_llvm_ir"]
