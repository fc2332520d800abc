"""Have DVC parse a YAML text once.

DVC reads params.yaml anew for each parameter of each stage and dvc.lock before each change of it, by a parser in pure
Python: more work than all else that it does in a run.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT = 16
"""Texts that are remembered: a run's own files, and a few of DVC's run cache."""


def parse_once() -> None:
    """From here on, DVC in this process remembers what the texts hold that it parsed or wrote last."""
    from dvc.utils import strictyaml
    from dvc.utils.serialize import _yaml

    ours = {"parse_yaml", "parse_yaml_for_update", "_dump"}
    if not ours <= vars(_yaml).keys() or isinstance(getattr(_yaml.parse_yaml, "__self__", None), Texts):
        return
    texts = Texts(_yaml.parse_yaml, _yaml.parse_yaml_for_update, _yaml._dump)
    if getattr(strictyaml, "parse_yaml", None) is _yaml.parse_yaml:
        strictyaml.parse_yaml = texts.parse_yaml
    _yaml.parse_yaml, _yaml._dump = texts.parse_yaml, texts.dump
    _yaml.parse_yaml_for_update = texts.parse_yaml_for_update


@dataclass
class Texts:
    """DVC's three functions for YAML, and the texts that went through them."""

    parse: Callable[..., Any]
    parse_for_update: Callable[..., Any]
    write: Callable[..., Any]
    known: dict[str, bytes] = field(default_factory=dict)
    """Plain values by text, pickled: whoever gets them may change them."""
    written: dict[str, Any] = field(default_factory=dict)
    """Values with comments and places by the text that they became."""

    def parse_yaml(self, text: str, path: Any, typ: str = "safe") -> Any:
        """The text's plain values, or with another ``typ`` what DVC makes of it."""
        if typ != "safe":
            return self.parse(text, path, typ)
        if text not in self.known:
            _keep(self.known, text, pickle.dumps(self.parse(text, path)))
        return pickle.loads(self.known[text])  # noqa: S301 - pickled above

    def parse_yaml_for_update(self, text: str, path: Any) -> Any:
        """With comments and places. What was written comes back as it was, once: to be changed and written again."""
        return self.written.pop(text) if text in self.written else self.parse_for_update(text, path)

    def dump(self, data: Any, stream: Any) -> Any:
        """Write the values."""
        told = self.write(data, stream)
        if stream.seekable() and stream.readable():
            stream.seek(0)
            text = stream.read()
            _keep(self.written, text, data)
            _keep(self.known, text, pickle.dumps(_plain(data)))
        return told


def _keep(store: dict[str, Any], text: str, value: Any) -> None:
    while len(store) >= KEPT:
        del store[next(iter(store))]
    store[text] = value


def _plain(value: Any) -> Any:
    """Without what only a person or an editor needs of it."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
