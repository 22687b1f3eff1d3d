"""Textual LLVM IR: the printer."""

from stepwell.backends.llvm_ir.printer import print_llvm_ir

__all__ = ["print_llvm_ir"]
