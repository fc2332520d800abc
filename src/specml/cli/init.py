"""``specml init``: a spec drafted from a table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from specml.data import Task

TASKS = ("binary", "multiclass", "regression")


@click.command("init")
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--target", default="", metavar="COLUMN", help="The column to predict.")
@click.option("--task", type=click.Choice(TASKS), help="Instead of a guess from the target's values.")
@click.option("--name", default="", help="Of the spec; the file's, or its folder's, unless given.")
@click.option("-o", "out", type=click.Path(path_type=Path), help="Where to; spec.yaml. Its folder is the project.")
@click.option("--print", "show", is_flag=True, help="Print it; write nothing.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def command(data: Path, target: str, task: Task | None, name: str, out: Path | None, show: bool, force: bool) -> None:
    """Draft a spec from a table of yours: types, roles, the problem, gates, split; each guess is marked.

    DATA is a CSV file, Parquet, JSON lines or another file that a source reads. The spec runs as it is.
    """
    import specml.spec  # noqa: F401 - the built-in sources
    from specml.drafting import draft
    from specml.files import write_atomic

    path = _free(out, show=show, force=force)
    folder = path.resolve().parent
    folder = folder.parent if folder.name == "conf" else folder
    made = draft(data, target, folder, task=task, name=name)
    if show:
        print(made.text, end="")
        return
    write_atomic(path, made.text)
    print(f"wrote {path}: a {made.task} problem, {made.rows:,} rows × {made.columns:,} columns")
    if made.review:
        print(f"look at its {len(made.review)} lines marked `review`: they were guessed")
    print(f"next: specml run --no-deploy{'' if out is None else f' {path}'}", file=sys.stdout)


def _free(out: Path | None, *, show: bool, force: bool) -> Path:
    """Where the spec is to stand.

    Raises:
        SpecmlError: something stands there, or in the place where `specml run` looks first.
    """
    from specml.errors import SpecmlError
    from specml.load import NAMES

    path = out or Path("spec.yaml")
    taken = [path] if out else [name for name in NAMES if name.exists()] or [path]
    if show or (force and taken == [path]) or not taken[0].exists():
        return path
    hint = "Name another with -o, or see what it would be with --print."
    if taken == [path]:
        hint = f"{hint} --force writes over it."
    raise SpecmlError("is there already.", where=str(taken[0]), hint=hint)
