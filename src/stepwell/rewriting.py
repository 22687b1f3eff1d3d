"""The one rewrite driver: patterns indexed by op class, benefit, an iteration cap, locations carried."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from xdsl.dialects.builtin import FusedLoc, LocationAttr, NoneAttr, UnknownLoc
from xdsl.ir import Operation, Region, SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern
from xdsl.rewriter import InsertPoint

from stepwell.compat import Matcher, aim, matcher_of
from stepwell.errors import InternalError

_REWRITES_PER_OP = 100
_MAX_FUSED = 8
"""Locations that a merged op keeps; the first ones, which are those of the op that was matched."""


@dataclass(frozen=True)
class Rewrite:
    """One rewrite that was done: by which rule, of an op of which name, at which place."""

    rule: str
    op: str
    location: LocationAttr

    def __str__(self) -> str:
        return f"{self.rule} on {self.op}"


@dataclass
class RewriteLog:
    """
    The rewrites of all passes while it is open, in order; at `limit` of them no pass does another one, as with
    LLVM's `-opt-bisect-limit`. Analyses and conversions of whole functions are no rewrites: they go on.
    """

    limit: int | None = None
    on_rewrite: Callable[[Rewrite], None] | None = None
    """Told of each rewrite when its IR is whole again."""
    on_no_match: Callable[[str, Operation], None] | None = None
    """Told of each pattern of `rewrite` that left an op alone."""
    on_begin: Callable[[], None] | None = None
    """Told that `rewrite` begins; a pass may have changed the IR by other means before."""
    done: list[Rewrite] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        return self.limit is not None and len(self.done) >= self.limit


_log: ContextVar[RewriteLog | None] = ContextVar("rewrites", default=None)


@contextmanager
def logged_rewrites(
    limit: int | None = None,
    on_rewrite: Callable[[Rewrite], None] | None = None,
    on_no_match: Callable[[str, Operation], None] | None = None,
    on_begin: Callable[[], None] | None = None,
) -> Iterator[RewriteLog]:
    """Log what `rewrite` and the passes that ask `may_rewrite` do inside."""
    log = RewriteLog(limit, on_rewrite, on_no_match, on_begin)
    token = _log.set(log)
    try:
        yield log
    finally:
        _log.reset(token)


def may_rewrite() -> bool:
    """Whether a rewrite may be done: false behind the limit of the log that is open."""
    log = _log.get()
    return log is None or not log.is_full


def is_logging() -> bool:
    return _log.get() is not None


def note_rewrite(rule: str, op: str, location: LocationAttr) -> None:
    """Enter a rewrite, that has been done, of an op named `op`, into the log that is open."""
    log = _log.get()
    if log is not None:
        done = Rewrite(rule, op, location)
        log.done.append(done)
        if log.on_rewrite is not None:
            log.on_rewrite(done)


def rewrite(op: Operation | Region, patterns: Sequence[RewritePattern]) -> bool:
    """
    Apply `patterns` to the ops nested in `op` until none matches; True if anything changed.

    A pattern is tried on ops of the class that its `match_and_rewrite` is annotated with, those with the
    highest `benefit` attribute (default 1) first, then in the order given. A new op takes the location of
    the op that was matched, fused with those of the ops that the pattern erased. Nothing is deleted but
    what a pattern deletes. Patterns that undo each other are an error that names them.
    """
    return _Driver(op, patterns).run()


class _Driver:
    def __init__(self, scope: Operation | Region, patterns: Sequence[RewritePattern]):
        self.scope = scope
        ranked = sorted(patterns, key=lambda pattern: -getattr(pattern, "benefit", 1))
        self.patterns = [(_name_of(pattern), *matcher_of(pattern)) for pattern in ranked]
        self.by_class: dict[type[Operation], list[tuple[str, Matcher]]] = {}
        self.stack: list[Operation | None] = []
        self.places: dict[Operation, int] = {}
        self.inserted: list[Operation] = []
        self.erased: list[LocationAttr] = []
        self.counts: Counter[str] = Counter()
        self.rewrites = 0
        self.log = _log.get()

    def run(self) -> bool:
        changed = False
        if self.log is not None and self.log.on_begin is not None:
            self.log.on_begin()
        ops = self._fill()
        limit = 10_000 + _REWRITES_PER_OP * ops
        rewriter: PatternRewriter | None = None
        # A pattern may look further than the worklist follows its rewrites, so sweep until all is quiet.
        while self.places:
            again = False
            while (op := self._pop()) is not None:
                if op.parent is None:
                    continue
                if self.log is not None and self.log.is_full:
                    return changed or again
                if rewriter is None:
                    rewriter = self._rewriter(op)
                again |= self._rewrite_op(op, rewriter, limit)
            if not again:
                break
            changed = True
            self._fill()
        return changed

    def _rewriter(self, op: Operation) -> PatternRewriter:
        rewriter = PatternRewriter(op)
        rewriter.operation_insertion_handler = [self._on_insertion]
        rewriter.operation_removal_handler = [self._on_removal]
        rewriter.operation_modification_handler = [self._push]
        rewriter.operation_replacement_handler = [self._on_replacement]
        return rewriter

    def _rewrite_op(self, op: Operation, rewriter: PatternRewriter, limit: int) -> bool:
        aim(rewriter, op)
        rewriter.has_done_action = False
        rewriter.insertion_point = InsertPoint.before(op)
        rewriter.name_hint = None
        location, op_name = op.location, op.name
        for name, match_and_rewrite in self._patterns_for(type(op)):
            match_and_rewrite(op, rewriter)
            if not rewriter.has_done_action:
                if self.log is not None and self.log.on_no_match is not None:
                    self.log.on_no_match(name, op)
                continue
            self._carry_location(location)
            self.counts[name] += 1
            self.rewrites += 1
            if self.rewrites > limit:
                frequent = ", ".join(f"{name} ({n}x)" for name, n in self.counts.most_common(4))
                raise InternalError(
                    f"rewriting does not end: {limit} rewrites, most often {frequent}; last at {op.name}"
                )
            if op.parent is not None:
                self._push(op)
            if self.log is not None:
                note_rewrite(getattr(rewriter, "rule", None) or name, op_name, location)
            return True
        return False

    def _patterns_for(self, op_class: type[Operation]) -> list[tuple[str, Matcher]]:
        found = self.by_class.get(op_class)
        if found is None:
            found = [
                (name, matcher)
                for name, classes, matcher in self.patterns
                if classes is None or issubclass(op_class, classes)
            ]
            self.by_class[op_class] = found
        return found

    # The worklist: last in, first out; each op at most once

    def _fill(self) -> int:
        """Push all ops of the scope so that they are popped in program order; how many there are."""
        count = 0
        for op in self.scope.walk(reverse=True, region_first=True):
            count += 1
            if op is not self.scope:
                self._push(op)
        return count

    def _push(self, op: Operation) -> None:
        if op not in self.places and self._patterns_for(type(op)):
            self.places[op] = len(self.stack)
            self.stack.append(op)

    def _pop(self) -> Operation | None:
        while self.stack:
            op = self.stack.pop()
            if op is not None:
                del self.places[op]
                return op
        return None

    # What the rewriter tells us

    def _on_insertion(self, op: Operation) -> None:
        self.inserted.append(op)
        if op.regions:
            for inner in op.walk(reverse=True, region_first=True):
                self._push(inner)
        else:
            self._push(op)

    def _on_removal(self, op: Operation) -> None:
        self.erased.append(op.location)
        for inner in op.walk() if op.regions else (op,):
            if (place := self.places.pop(inner, None)) is not None:
                self.stack[place] = None
        for operand in op.operands:
            if isinstance(owner := operand.owner, Operation) and operand.has_one_use():
                self._push(owner)

    def _on_replacement(self, op: Operation, new_results: Sequence[SSAValue | None]) -> None:
        for result in op.results:
            for use in result.uses:
                self._push(use.operation)

    def _carry_location(self, matched: LocationAttr) -> None:
        new = [op for op in self.inserted if isinstance(op.location, UnknownLoc)]
        if new:
            location = fuse_locations([matched, *self.erased])
            for op in new:
                for inner in op.walk() if op.regions else (op,):
                    if isinstance(inner.location, UnknownLoc):
                        inner.location = location
        self.inserted.clear()
        self.erased.clear()


def _name_of(pattern: RewritePattern) -> str:
    """The name of a pattern: that of its rule where it comes from a file of rules."""
    return getattr(pattern, "RULE", "") or type(pattern).__name__


def fuse_locations(locations: Sequence[LocationAttr]) -> LocationAttr:
    """The location of an op that stands for ops at `locations`: what is known, each place once."""
    flat: dict[LocationAttr, None] = {}
    for location in locations:
        parts = location.locations if isinstance(location, FusedLoc) else (location,)
        flat.update(dict.fromkeys(part for part in parts if not isinstance(part, UnknownLoc)))  # pyright: ignore
    known = list(flat)[:_MAX_FUSED]
    if len(known) <= 1:
        return known[0] if known else UnknownLoc()
    return FusedLoc(tuple(known), NoneAttr())
