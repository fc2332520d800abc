r"""References in a spec: ``${a.b}`` repeats another value, ``${secret:NAME}`` stays as it is, all else is refused.

``\${`` stands for the characters ``${`` themselves.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from specml.document import Path
from specml.errors import Problem
from specml.load.known import child, is_secret
from specml.values import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

REFERENCE = re.compile(r"\\\$\{|\$\{([^{}]*)\}|\$\{")
NAME = re.compile(r"[^.\s:{}$]+(\.[^.\s:{}$]+)*")
MAX_COPIES = 10_000

CHARACTERS = "Write \\${ for the characters themselves."
ALONE = "A secret is the whole value: ${secret:NAME}."
WRITE_OUT = "One of the values must be written out."


class _Refused(Exception):
    """A reference that can't be followed.

    ``chain``: the fault is in how references meet, so it is told for each of them; otherwise only where the
    faulty text stands.
    """

    def __init__(self, what: str, hint: str = "", *, chain: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.chain = chain


class References:
    """Follows every reference of a tree; what goes wrong is kept in ``problems`` and ``broken``."""

    def __init__(self, tree: dict[str, Any], where: Callable[[Path], str]) -> None:
        self.tree = tree
        self.where = where
        self.problems: list[Problem] = []
        self.broken: list[Path] = []
        self.open: list[Path] = []
        self.copies = 0

    def resolved(self) -> dict[str, Any]:
        """The tree with every reference replaced by what it names; the broken ones are left as they are."""
        return {key: self._value(item, (key,)) for key, item in self.tree.items()}

    def _value(self, node: Any, path: Path) -> Any:
        if isinstance(node, dict):
            return {key: self._value(item, (*path, key)) for key, item in node.items()}
        if isinstance(node, list):
            return [self._value(item, (*path, index)) for index, item in enumerate(node)]
        try:
            return self._leaf(node, path, path)
        except _Refused as refused:
            self.broken.append(path)
            if refused.what:
                self.problems.append(Problem(self.where(path), dotted(path), refused.what, refused.hint))
            return node

    def _leaf(self, node: Any, path: Path, use: Path) -> Any:
        """The value of what stands at ``path``, to be used at ``use``."""
        if not isinstance(node, str) or "${" not in node:
            return node
        if Secret.PATTERN.match(node):
            if not is_secret(use, self.tree):
                hint = "Only fields made for secrets, such as serving.auth.tokens, can."
                raise _Refused(f"can't take a secret: {node}.", hint, chain=True)
            return node
        self.open.append(path)
        try:
            whole = REFERENCE.fullmatch(node)
            if whole is not None and whole.group(1) is not None:
                return self._follow(whole.group(1), use)
            return REFERENCE.sub(lambda match: self._part(match, use), node)
        finally:
            self.open.pop()

    def _part(self, match: re.Match[str], use: Path) -> str:
        """A reference inside a text, as text."""
        if match.group().startswith("\\"):
            return "${"
        if match.group(1) is None:
            raise _Refused("opens a reference with ${ that is not closed, or that holds another.", CHARACTERS)
        if match.group(1).startswith("secret:"):
            raise _Refused("mixes a secret with other text.", ALONE)
        value = self._follow(match.group(1), use)
        if isinstance(value, (dict, list)):
            kind = "a mapping" if isinstance(value, dict) else "a list"
            raise _Refused(f"puts {match.group()} into a text, but that is {kind}.")
        if value is None or isinstance(value, bool):
            return {None: "null", True: "true", False: "false"}[value]
        return str(value)

    def _follow(self, name: str, use: Path) -> Any:
        shown = "${" + name[:60] + "}"
        if ":" in name:
            raise _Refused(
                f"calls the resolver {name.partition(':')[0][:40]!r}: {shown}.",
                "Only ${secret:NAME} and references to other keys, ${a.b}, are allowed.",
            )
        if NAME.fullmatch(name) is None:
            raise _Refused(f"is no reference: {shown}.", "A reference names a key from the root: ${a.b}.")
        target, node = self._find(name, shown)
        if any(path[: len(target)] == target for path in self.open):
            raise _Refused(f"refers to itself through {shown}.", WRITE_OUT, chain=True)
        return self._copied(node, target, use)

    def _copied(self, node: Any, target: Path, use: Path) -> Any:
        self.copies += 1
        if self.copies > MAX_COPIES:
            raise _Refused(f"repeats more than {MAX_COPIES} values, other references included.", chain=True)
        if isinstance(node, dict):
            return {key: self._copied(item, (*target, key), (*use, key)) for key, item in node.items()}
        if isinstance(node, list):
            return [self._copied(item, (*target, i), (*use, i)) for i, item in enumerate(node)]
        try:
            return self._leaf(node, target, use)
        except _Refused as refused:
            if refused.chain:
                raise
            raise _Refused("") from None  # told where the faulty text stands

    def _find(self, name: str, shown: str) -> tuple[Path, Any]:
        path: Path = ()
        node: Any = self.tree
        for key in name.split("."):
            part = int(key) if isinstance(node, list) and key.isdecimal() else key
            found = child(node, part)
            if found is None and not (isinstance(node, dict) and key in node):
                block = dotted(path) or "the spec"
                raise _Refused(f"refers to {shown}, but {block} has no {key!r}.", "" if path else CHARACTERS)
            path, node = (*path, part), found
        return path, node


def dotted(path: Path) -> str:
    """A path as messages show it and as overrides write it."""
    return ".".join(map(str, path))
