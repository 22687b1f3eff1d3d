"""The CPU back end: LLVM IR text in, a shared library out."""

from stepwell.backends.cpu.library import build_library

__all__ = ["build_library"]
