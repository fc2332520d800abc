"""Late labels over HTTP: checked, on disk before they are acknowledged, and left there for ``specml watch``."""

from __future__ import annotations

import asyncio
import math
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from specml.data import category
from specml.files import write_atomic
from specml.serving.capture import ID, NAME
from specml.serving.refusal import Refused, json_type, short
from specml.serving.request import read_object

if TYPE_CHECKING:
    from pathlib import Path

    from specml.bundle import Contract

INBOX = "labels"
"""The folder beside that of the captures in which labels wait."""
MOST_FILES = 10_000
"""Files that may wait there; each has the labels of all requests that came while the one before was written."""
ROW = re.compile(rf"({ID.pattern})-[0-9]{{1,9}}")
"""What a row is called: its request's id and its place there."""
FULL = 60
"""Seconds after which to come back when too many labels wait."""


def read_labels(raw: bytes, contract: Contract, max_rows: int) -> list[dict[str, str]]:
    """The labels of ``{"labels": [{"id": "ID-0", TARGET: label}, …]}``, each as ``{"id": …, "label": text}``.

    Raises:
        Refused: 400 for what is no JSON object, 413 for too many, 422 for what is no label of the model's.
    """
    body = read_object(raw, 16 * (max_rows + 16))
    labels = body.get("labels")
    if body.keys() != {"labels"} or not isinstance(labels, list) or not labels:
        like = f'{{"labels": [{{"id": "ID-0", "{contract.target}": …}}]}}'
        raise Refused(422, f"the body is not {like} with one label or more.")
    if len(labels) > max_rows:
        raise Refused(413, f"the request has {len(labels)} labels; at most {max_rows} are taken. Send them in parts.")
    classes = {category(label) for label in contract.classes}
    return [_label(one, f"labels[{index}]", contract, classes) for index, one in enumerate(labels)]


def _label(one: Any, where: str, contract: Contract, classes: set[str]) -> dict[str, str]:
    target = contract.target
    if not isinstance(one, dict):
        raise Refused(422, f"{where} is a JSON {json_type(one)}, not an object.")
    if one.keys() != {"id", target}:
        strange = ", ".join(short(name, 40) for name in sorted(one))
        raise Refused(422, f"{where} has {strange or 'nothing'}; it needs id and {target}, and takes nothing else.")
    identity, label = one["id"], one[target]
    if not isinstance(identity, str) or not ROW.fullmatch(identity):
        raise Refused(422, f"{where}.id is no id of an answered row, such as 0c5a-0: the answer's id and its place.")
    if contract.task == "regression":
        if isinstance(label, bool) or not isinstance(label, (int, float)) or not math.isfinite(label):
            raise Refused(422, f"{where}.{target} is {_seen(label)}; it takes a number.")
    elif not isinstance(label, (str, int, float, bool)) or category(label) not in classes:
        told = short(", ".join(map(str, contract.classes)), 500)
        raise Refused(422, f"{where}.{target} is {_seen(label)}, no class of the model; its classes: {told}.")
    return {"id": identity, "label": repr(label) if contract.task == "regression" else category(label)}


def _seen(value: Any) -> str:
    return short(orjson.dumps(value).decode())


class Inbox:
    """Keeps labels in ``folder``, for this user's eyes only.

    What comes while a file is written goes into the next one together: the disk is waited for by all at once.
    """

    def __init__(self, folder: Path, replica: str) -> None:
        self._folder, self._replica = folder, re.sub(r"[^A-Za-z0-9]", "", replica)[-16:]
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feedback")
        self._waiting: list[tuple[list[dict[str, str]], asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def keep(self, labels: list[dict[str, str]]) -> None:
        """Returns when they are on disk.

        Raises:
            Refused: 503; the disk does not take them, or too many wait for ``specml watch``.
        """
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((labels, kept))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all())
        await kept

    def close(self) -> None:
        """Let what is being written finish."""
        self._thread.shutdown(wait=True)

    async def _write_all(self) -> None:
        while self._waiting:
            parts, self._waiting = self._waiting, []
            refusal: Refused | None = None
            try:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._write, [one for one, _ in parts])
            except Refused as full:
                refusal = full
            except (OSError, RuntimeError):  # the disk, or this replica is going
                refusal = Refused(503, "the labels can't be kept now; try again.", headers={"retry-after": "5"})
            for _, kept in parts:
                if not kept.done():  # its client may be gone
                    kept.set_result(None) if refusal is None else kept.set_exception(refusal)

    def _write(self, parts: list[list[dict[str, str]]]) -> None:
        if sum(1 for _ in self._folder.iterdir()) >= MOST_FILES:
            what = "too many labels wait for `specml watch`, which reads them; try again later."
            raise Refused(503, what, headers={"retry-after": str(FULL)})
        lines = b"".join(orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE) for part in parts for one in part)
        write_atomic(self._folder / f"{datetime.now(UTC):{NAME}}-{self._replica}.jsonl", lines, mode=0o600)
