"""One module of LLVM IR as several that link to the same code, so that as many compilers can work side by side."""

import re
from dataclasses import dataclass

_SYMBOL = re.compile(r'@(?:"[^"]*"|[\w.$-]+)')
_LOCAL = ("private", "internal")


@dataclass(eq=False)
class _Item:
    """A global, a declaration or a definition: its lines and what it is called."""

    text: str
    name: str
    kind: str
    local: bool

    def symbols(self) -> set[str]:
        return set(_SYMBOL.findall(self.text))

    def must_be_one(self) -> bool:
        """Whether all that read it must be in its module: it is local code, or data that is no constant's copy."""
        if self.kind == "global":
            copied = self.local and " constant " in self.text
            return not copied and " = external " not in self.text
        return self.kind == "define" and self.local

    def declaration(self) -> str:
        """What another module says of a function that is defined here."""
        head = self.text[: self.text.index("{")].replace("define ", "declare ", 1)
        return re.sub(r" %[\w.$-]+(?=[,)])", "", head).rstrip() + "\n"


def split_llvm_ir(text: str, count: int) -> list[str]:
    """
    `text`, which our printer wrote, in at most `count` parts of similar length. Functions that share something that
    only their module can see stay together; constants of a module are repeated where they are read.
    """
    items = _items(text)
    numbered = "".join(item.text for item in items if item.kind == "attributes")
    known = {item.name: item for item in items if item.kind != "attributes"}
    defined = [item for item in items if item.kind == "define"]
    if any(item.kind == "global" and not item.local and item.must_be_one() for item in items):
        return [text]  # others may read it by its name, and only one module can define it
    read = {item: {known[name] for name in item.symbols() - {item.name} if name in known} for item in items}
    parts = _balanced(_groups(defined, read), count)
    if len(parts) < 2:
        return [text]
    return [_part(items, read, set(part)) + numbered for part in parts]


def _items(text: str) -> list[_Item]:
    """The top level of a module: our printer begins each item in the first column and ends a function with `}`."""
    items: list[_Item] = []
    at = 0
    while at < len(text):
        end = text.index("\n}\n", at) + 3 if text.startswith("define ", at) else text.index("\n", at) + 1
        body = text[at:end]
        head = body[: body.index("\n")]
        kind = head.split(" ", 1)[0]
        if kind.startswith("@"):
            kind = "global"
        elif kind.startswith("!"):
            kind = "attributes"  # metadata, by number like the attribute groups
        if kind not in ("global", "define", "declare", "attributes"):
            raise AssertionError(f"our printer writes no line such as {head[:80]!r}")
        name = "" if kind == "attributes" else _SYMBOL.findall(head)[0]
        local = any(f" {word} " in head.split("(")[0] for word in _LOCAL)
        items.append(_Item(body, name, kind, local))
        at = end
    return items


def _groups(defined: list[_Item], read: dict[_Item, set[_Item]]) -> list[list[_Item]]:
    """Functions that must be in one module: those that share a local function or a variable."""
    leader: dict[_Item, _Item] = {}

    def find(item: _Item) -> _Item:
        while leader.setdefault(item, item) is not item:
            item = leader[item]
        return item

    for item in defined:
        for other in read[item]:
            if other.must_be_one():
                leader[find(other)] = find(item)
    groups: dict[_Item, list[_Item]] = {}
    for item in defined:
        groups.setdefault(find(item), []).append(item)
    return list(groups.values())


def _balanced(groups: list[list[_Item]], count: int) -> list[list[_Item]]:
    """The groups in `count` parts, the longest first, each to the part that is shortest so far."""
    parts: list[list[_Item]] = [[] for _ in range(count)]
    sizes = [0] * count
    for group in sorted(groups, key=lambda group: -sum(len(item.text) for item in group)):
        smallest = sizes.index(min(sizes))
        parts[smallest].extend(group)
        sizes[smallest] += sum(len(item.text) for item in group)
    return [part for part in parts if part]


def _part(items: list[_Item], read: dict[_Item, set[_Item]], own: set[_Item]) -> str:
    """The module that defines `own`: with the constants that they read, and declarations of the rest."""
    wanted = set(own)
    todo = list(own)
    while todo:
        for other in read[todo.pop()]:
            if other not in wanted:
                wanted.add(other)
                if other.kind == "global":
                    todo.append(other)
    texts: list[str] = []
    for item in items:
        if item in wanted:
            foreign = item.kind == "define" and item not in own
            texts.append(item.declaration() if foreign else item.text)
    return "".join(texts)
