"""What a person needs to ask the live server: a plausible row, and a curl line that works as pasted."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from specml.data import iso, looks_back
from specml.files import digest
from specml.serving import picture
from specml.serving.history import KEY, before_by

if TYPE_CHECKING:
    from specml.bundle import Contract
    from specml.data import Column
    from specml.kinds import Deployment, ScoredFiles


SOME_TIME = "2026-01-01T00:00:00Z"


def example_row(contract: Contract) -> dict[str, Any]:
    """A row with every column: the middle of its range, its first category; with a history that of the row before.

    Columns that an image tells are told by one.
    """
    row, before = dict[str, Any](), dict[str, Any]()
    pixels = frozenset(contract.image.names if contract.image else ())
    if contract.image:
        row[picture.KEY] = picture.example_image(contract)
    for column in contract.inputs:
        if column.name in pixels:
            continue
        step = looks_back(column.name)
        if step:
            before.setdefault(step[0], example(column))
        else:
            row[column.name] = example(column)
    told = contract.history
    if before and told and told.steps:
        own = {told.time: SOME_TIME, **dict.fromkeys(told.by, "any"), **row}
        backs = sorted({told.steps.season, told.steps.horizon}, reverse=True)
        times = [before_by(own[told.time], back, told.steps) for back in backs]
        return {**own, KEY: [{told.time: time, **{name: own[name] for name in told.by}, **before} for time in times]}
    return {**row, KEY: [before]} if before else row


def example(column: Column) -> Any:
    """A plausible value of a column."""
    if column.kind == "boolean":
        return True
    if column.kind == "text":
        return "any text"
    if column.kind == "categorical":
        return column.categories[0] if column.categories else "any"
    if column.kind == "datetime":
        return iso(((column.minimum or 0) + (column.maximum or 0)) / 2)
    if column.minimum is None or column.maximum is None:
        return 0 if column.integral else 0.0
    middle = column.minimum / 2 + column.maximum / 2
    return round(middle) if column.integral else float(f"{middle:.4g}")


def curl_line(url: str, contract: Contract, *, token_variable: str = "") -> str:
    """A line for a POSIX shell that asks the server for one prediction.

    ``token_variable``: the environment variable whose first token it sends; none when the server is open.
    """
    body = shlex.quote(json.dumps({"rows": [example_row(contract)]}, ensure_ascii=False))
    # The shell cuts the list of tokens at its first comma; the token itself never stands in the line.
    bearer = f' -H "Authorization: Bearer ${{{token_variable}%%,*}}"' if token_variable else ""
    return f"curl -sS {url}/predict -H 'Content-Type: application/json'{bearer} -d {body}"


def in_words(scored: ScoredFiles) -> str:
    """How far the answers to files are."""
    parts = f"; {scored.unfinished} more begun, `specml deploy` goes on" if scored.unfinished else ""
    return f"{scored.rows:,} rows of {scored.files} files{parts} → {scored.folder}"


def announcement(
    live: Deployment, contract: Contract, *, release: int, token_variable: str = "", stop: str = "specml stop"
) -> str:
    """What is live or packed, how to ask it and how to stop or start it: some lines for a terminal."""
    if live.scored:
        return f"{contract.name}: {in_words(live.scored)} (release {release}, bundle {live.bundle[7:19]})"
    ask = curl_line(live.url, contract, token_variable=token_variable)
    if live.commands:
        lines = [f"{contract.name} is packed: {live.archive} (release {release}, bundle {live.bundle[7:19]})", ""]
        lines += ["To serve it:", *(f"  {one}" for one in live.commands), "Ask it there:", f"  {ask}"]
        return "\n".join([*lines, *([f"  By gRPC: {', '.join(live.grpc)}"] if live.grpc else [])])
    if live.archive:
        path = Path(live.archive)
        return "\n".join(
            [
                f"{contract.name} is packed: {path} (release {release}, bundle {live.bundle[7:19]})",
                f"  {path.stat().st_size:,} bytes, {digest(path)}",
                "",
                "On the device:",
                f"  tar xzf {path.name} && {contract.name}/run --self-test && {contract.name}/run",
                "Ask it there:",
                f"  {ask}",
            ]
        )
    replicas = f"{live.replicas} replica{'s' if live.replicas != 1 else ''}"
    devices = ", ".join(sorted({device.removesuffix("ExecutionProvider") for device in live.devices}))
    what = f"release {release}, bundle {live.bundle[7:19]}"
    on = f" on {devices}" if devices else ""
    lines = [
        f"{contract.name} is live at {live.url} ({replicas}{on}, {what})",
        "",
        "Ask it:",
        f"  {ask}",
        f"  Its columns and limits: {live.url}/openapi.json",
        *([f"  By gRPC: {', '.join(live.grpc)}"] if live.grpc else []),
        f"Stop it:  {stop}",
    ]
    if live.unguarded:
        guards = ", ".join(sorted({socket.partition(": ")[2] for socket in live.unguarded}))
        sockets = f"{len(live.unguarded)} socket{'s' if len(live.unguarded) != 1 else ''}"
        lines.append(f"Beyond loopback:  {sockets} ({guards}); `specml status` names them")
    return "\n".join(lines)
