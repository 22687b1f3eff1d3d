"""The errors that stepwell shows its users; each class maps to one exit code."""


class Error(Exception):
    """Any failure that stepwell reports: one or two lines, *where: what: why; what to do*."""

    exit_code = 1


class ImportModelError(Error):
    """The model file cannot be read, or breaks the rules of its format."""


class UnsupportedError(Error):
    """The input is valid but stepwell cannot compile it yet; names the op, the place, the way out."""

    exit_code = 2


class VerifyError(Error):
    """IR given by the user breaks a rule of its dialect."""


class CompileError(Error):
    """A compilation failed for a reason the user can mend (options, toolchain, disk)."""


class InternalError(Error):
    """Our fault: an invariant of stepwell does not hold."""

    exit_code = 3


class RunError(Error):
    """A compiled model was called wrongly, or failed while running."""


def shown(text: str, limit: int = 200) -> str:
    """What the user gave, in a message: unprintable characters escaped, at most `limit` characters."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:limit])
    return text if len(text) <= limit else f"{text[:limit]}..."
