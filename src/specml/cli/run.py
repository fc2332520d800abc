"""``specml run``: the whole way, from the spec to the live model."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specml.cli.arguments import parse, spec_and_overrides
from specml.errors import DataCheckFailed, GateRefused, SpecmlError

if TYPE_CHECKING:
    from rich.console import Console

    from specml.load import Loaded

LAST = "release"


@dataclass
class Outcome:
    """What a run came to; printed as JSON with ``--json``."""

    name: str = ""
    stages_run: list[str] = field(default_factory=list)
    leaderboard: list[dict[str, Any]] = field(default_factory=list)
    gates: dict[str, Any] = field(default_factory=dict)
    bundle: str = ""
    report: str = ""
    url: str = ""
    error: SpecmlError | None = None

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "schema_version": 1,
            "name": self.name,
            "exit_status": self.error.status if self.error else 0,
            "error": str(self.error) if self.error else None,
            "stages_run": self.stages_run,
            "leaderboard": self.leaderboard,
            "gates": self.gates,
            "bundle": self.bundle,
            "report": self.report,
            "url": self.url,
        }


@click.command("run")
@spec_and_overrides
@click.option("--until", metavar="STAGE", help="Stop after this stage.")
@click.option("--only", metavar="STAGE", help="Run this stage only, as train@gbm.")
@click.option("--no-deploy", is_flag=True, help="Stop at the release.")
@click.option("--force", is_flag=True, help="Give up values that were changed in params.yaml itself.")
@click.option("-q", "--quiet", is_flag=True, help="Only the outcome, and errors.")
@click.option("--json", "as_json", is_flag=True, help="The outcome as one JSON document on standard output.")
def command(
    arguments: tuple[str, ...],
    until: str | None,
    only: str | None,
    no_deploy: bool,
    force: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Carry the spec through: compile, train, judge, release, deploy."""
    from specml.cli.progress import console
    from specml.load import load

    if until and only:
        raise click.UsageError("--until and --only exclude each other.")
    outcome, out = Outcome(), console()
    try:
        loaded = load(*parse(arguments))
        outcome.name = loaded.spec.name
        _carry(loaded, outcome, out, target=until or only, single=only is not None, force=force, quiet=quiet or as_json)
        if not (until or only or no_deploy):
            _deploy(loaded, outcome, out, quiet=quiet or as_json)
    except SpecmlError as error:
        outcome.error = error
    if as_json:
        print(json.dumps(outcome.document(), indent=1))
    if outcome.error:
        raise outcome.error


def _carry(
    loaded: Loaded, outcome: Outcome, out: Console, *, target: str | None, single: bool, force: bool, quiet: bool
) -> None:
    """Compile and reproduce, alone in the project."""
    from specml import repro
    from specml.compile.write import compiled

    folder = loaded.folder
    with repro.alone(folder):
        result = compiled(loaded, force=force)
        _known(target, result.plan.stages)
        written = result.write()
        if not quiet:
            out.print(f"specml · {loaded.spec.name} · {loaded.path}", markup=False, soft_wrap=True)
            if written:
                out.print(f"compiled {', '.join(written)}", markup=False)
        _present(loaded)
        repro.set_up(folder)
        if single or repro.changes(folder, [target] if target else []):
            _reproduce(
                outcome, out, folder, [*(["--single-item"] if single else []), *([target] if target else [])], quiet
            )
        if not (outcome.stages_run or quiet):
            out.print("nothing to do: every stage is up to date", markup=False)
    if target is None or target == LAST:
        _tell(outcome, out, folder, quiet=quiet or not outcome.stages_run)
    elif outcome.stages_run and not quiet:
        out.print(f"done up to {target}; go on with `specml run`", markup=False)


def _reproduce(outcome: Outcome, out: Console, folder: Path, arguments: list[str], quiet: bool) -> None:
    from specml import durations, repro
    from specml.cli.progress import Follow

    try:
        with Follow(out, durations.known(folder), quiet=quiet) as follow:
            outcome.stages_run = repro.run(folder, arguments, follow)
    except SpecmlError as error:
        if error.status == GateRefused.status:
            _tell(outcome, out, folder, quiet=quiet)
        raise


def _present(loaded: Loaded) -> None:
    """Every file of a source is there: DVC would tell it late and in its own words."""
    for name, source in loaded.spec.data.sources.items():
        for file in source.files():
            if not (loaded.folder / file).is_file():
                where = loaded.origins.get(("data", "sources", name, "path"), f"data.sources.{name}")
                raise DataCheckFailed(
                    f"there is no file {file!r}.", where=where, hint=f"Paths start at {loaded.folder}."
                )


def _known(target: str | None, stages: tuple[Any, ...]) -> None:
    if target is None:
        return
    names = [name for stage in stages for name in (stage.name, *(f"{stage.name}@{key}" for key in stage.keys))]
    if target not in names:
        raise click.UsageError(f"there is no stage {target!r}; stages: {', '.join(names)}.")


def _tell(outcome: Outcome, out: Console, folder: Path, *, quiet: bool) -> None:
    """Candidates, verdicts, and where each file lies."""
    from specml import report
    from specml.cli import tables
    from specml.cli.report import draw
    from specml.files import digest

    draw(folder)
    outcome.report = str(folder / report.OUT)
    outcome.leaderboard, outcome.gates = tables.leaderboard(folder), tables.gates(folder)
    outcome.bundle = digest(folder / "artifacts/bundle/manifest.json")
    if quiet:
        return
    out.print(tables.candidates_table(outcome.leaderboard))
    out.print(tables.gates_table(outcome.gates), *tables.remarks(outcome.gates))
    files = {"bundle": "artifacts/bundle", "card": "artifacts/release/card.md", "report": report.OUT}
    for what, where in {**files, "logs": ".specml/log"}.items():
        out.print(f"{what:<7} {folder / where}", markup=False)


def _deploy(loaded: Loaded, outcome: Outcome, out: Console, *, quiet: bool) -> None:
    """Serve the released bundle."""
    from specml.cli.deploy import announce

    def say(text: str) -> None:
        if not quiet:
            out.print(text, markup=False, soft_wrap=True)

    deployment = loaded.spec.deployment.target.deploy(loaded.spec, loaded.folder, say)
    outcome.url = deployment.url
    say(announce(deployment, loaded))
