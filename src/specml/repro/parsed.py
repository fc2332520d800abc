"""Have DVC parse a YAML text once.

DVC reads params.yaml anew for each parameter of each stage and dvc.lock before each change of it, by a parser in pure
Python: more work than all else that it does in a run.
"""

from __future__ import annotations

import pickle
from typing import Any

KEPT = 16
"""Texts that are remembered: a run's own files, and a few of DVC's run cache."""


def parse_once() -> None:
    """From here on, DVC in this process remembers what the texts hold that it parsed or wrote last."""
    from dvc.utils.serialize import _yaml

    ours = {"parse_yaml", "parse_yaml_for_update", "_dump"}
    if not ours <= vars(_yaml).keys() or _yaml.parse_yaml.__module__ == __name__:
        return
    parse, parse_for_update, dump = _yaml.parse_yaml, _yaml.parse_yaml_for_update, _yaml._dump
    known: dict[str, bytes] = {}
    written: dict[str, Any] = {}

    def parse_yaml(text: str, path: Any, typ: str = "safe") -> Any:
        if typ != "safe":
            return parse(text, path, typ)
        if text not in known:
            while len(known) >= KEPT:
                del known[next(iter(known))]
            known[text] = pickle.dumps(parse(text, path))
        return pickle.loads(known[text])  # noqa: S301 - pickled above; whoever gets it may change it

    def parse_yaml_for_update(text: str, path: Any) -> Any:
        """With comments and places. What was written last comes back as it was, to be changed and written again."""
        return written.pop(text) if text in written else parse_for_update(text, path)

    def dump_and_remember(data: Any, stream: Any) -> Any:
        told = dump(data, stream)
        written.clear()
        if stream.seekable() and stream.readable():
            stream.seek(0)
            written[stream.read()] = data
        return told

    _yaml.parse_yaml, _yaml.parse_yaml_for_update, _yaml._dump = parse_yaml, parse_yaml_for_update, dump_and_remember
