"""`stepwell-lsp`: the language server for `.ir` files, over standard input and output."""

import argparse
import sys
from collections.abc import Sequence

from stepwell import __version__

_ABOUT = """The language server of stepwell's IR: editors start it and speak the language server protocol with it
over standard input and output. See docs/editor.md; editors/vscode is an extension for VS Code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until the editor says exit; 1 where pygls is not installed."""
    parser = argparse.ArgumentParser(prog="stepwell-lsp", description=_ABOUT)
    parser.add_argument("--version", action="version", version=f"stepwell-lsp {__version__}")
    parser.add_argument(
        "--stdio", action="store_true", help="speak over standard input and output (the only way)"
    )
    parser.parse_args(argv)
    try:
        import pygls.lsp.server  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        print(
            "error: stepwell-lsp needs pygls 2; run: pip install 'stepwell[lsp]'",
            file=sys.stderr,
        )
        return 1
    from stepwell.language_server.server import make_server

    make_server().start_io()
    return 0


if __name__ == "__main__":
    sys.exit(main())
