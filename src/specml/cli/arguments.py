"""``[SPEC] [OVERRIDES]…``: the arguments that most verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable


def spec_and_overrides(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the parameters ``spec`` (Path or None) and ``overrides`` (tuple of str)."""
    return click.argument("arguments", nargs=-1, metavar="[SPEC] [KEY=VALUE]...")(function)


def junit_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the parameter ``junit`` (Path or None)."""
    return click.option(
        "--junit",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Write the verdicts as JUnit XML, for CI systems.",
    )(function)


def parse(arguments: tuple[str, ...]) -> tuple[Path | None, tuple[str, ...]]:
    """The spec's path, if one is given, and the overrides."""
    overrides = tuple(one for one in arguments if "=" in one or one.startswith(("~", "+")))
    paths = [one for one in arguments if one not in overrides]
    if len(paths) > 1:
        raise click.UsageError(f"one spec at a time; {' and '.join(map(repr, paths))} are given.")
    return (Path(paths[0]) if paths else None), overrides


def folder_of(path: Path | None) -> Path:
    """The project's folder, even where its spec is broken or gone."""
    from specml.errors import SpecError
    from specml.load import project_folder

    try:
        return project_folder(path)
    except SpecError:
        return without_spec(path)


def without_spec(path: Path | None) -> Path:
    """Where the project would be whose spec ``path`` names, if it is there or not."""
    folder = (path or Path()).resolve()
    folder = folder if folder.is_dir() else folder.parent
    return folder.parent if folder.name == "conf" else folder
