"""``specml run``: the whole way, from the spec to the live model."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specml.cli.arguments import junit_option, parse, spec_and_overrides
from specml.errors import INTERRUPTED, DataCheckFailed, GateRefused, Problem, SpecError, SpecmlError, StaleCompile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from specml.compile.write import Compiled
    from specml.load import Loaded
    from specml.plan import Plan, Stage
    from specml.repro import Order

LAST = "release"
JUDGING = frozenset({"guard", "champion", "validate", LAST})
"""Stages that judge a model and train none."""


@dataclass
class Outcome:
    """What a run came to; printed as JSON with ``--json``."""

    name: str = ""
    stages_run: list[str] = field(default_factory=list)
    searches: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By candidate whose settings were searched in this run: how far that was told last."""
    leaderboard: list[dict[str, Any]] = field(default_factory=list)
    gates: dict[str, Any] = field(default_factory=dict)
    held_out: dict[str, Any] | None = None
    """How often the rows were opened that the gates judge by."""
    bundle: str = ""
    report: str = ""
    url: str = ""
    release: int | None = None
    """The number of the release that is live."""
    cause: str = ""
    """Why it was retrained."""
    error: SpecmlError | None = None

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "schema_version": 1,
            "name": self.name,
            "exit_status": self.error.status if self.error else 0,
            "error": str(self.error) if self.error else None,
            "stages_run": self.stages_run,
            "searches": self.searches,
            "leaderboard": self.leaderboard,
            "gates": self.gates,
            "held_out": self.held_out,
            "bundle": self.bundle,
            "report": self.report,
            "url": self.url,
            "release": self.release,
            "cause": self.cause,
        }


@dataclass(frozen=True)
class Way:
    """How a run was asked for."""

    target: str | None
    """The last stage; none: all."""
    single: bool
    force: bool
    wait: bool
    quiet: bool
    judges: bool = False
    """Only the gates, on the model as it is packaged."""


@click.command("run")
@spec_and_overrides
@click.option("--until", metavar="STAGE", help="Stop after this stage.")
@click.option("--only", metavar="STAGE", help="Run this stage only, as train@gbm.")
@click.option("--no-deploy", is_flag=True, help="Stop at the release.")
@click.option("--no-wait", is_flag=True, help="Refuse at once while another run is at work here.")
@click.option("--force", is_flag=True, help="Give up values that were changed in params.yaml itself.")
@click.option("-q", "--quiet", is_flag=True, help="Only the outcome, and errors.")
@click.option("--json", "as_json", is_flag=True, help="The outcome as one JSON document on standard output.")
@junit_option
def command(
    arguments: tuple[str, ...],
    until: str | None,
    only: str | None,
    no_deploy: bool,
    no_wait: bool,
    force: bool,
    quiet: bool,
    as_json: bool,
    junit: Path | None,
) -> None:
    """Carry the spec through: compile, train, judge, release, deploy."""
    from specml.cli.progress import console
    from specml.load import load

    if until and only:
        raise click.UsageError("--until and --only exclude each other.")
    way = Way(until or only, single=only is not None, force=force, wait=not no_wait, quiet=quiet or as_json)
    outcome, out = Outcome(), console()
    with told(outcome, as_json=as_json, junit=junit):
        loaded = load(*parse(arguments))
        carry(loaded, outcome, out, way)
        if not (until or only or no_deploy):
            deploy(loaded, outcome, out, quiet=way.quiet)
        elif way.target in (None, LAST):
            standing(loaded.folder, out, quiet=way.quiet)


@contextlib.contextmanager
def told(outcome: Outcome, *, as_json: bool, junit: Path | None = None) -> Iterator[None]:
    """Print the outcome of the block as JSON, if that is wanted, also when it ends in a refusal.

    ``junit``: where its verdicts are written to as JUnit XML.
    """
    try:
        yield
    except SpecmlError as error:
        outcome.error = error
    if junit is not None:
        from specml.files import write_atomic
        from specml.report.junit import xml

        write_atomic(junit, xml(outcome.name or "specml", outcome.gates, outcome.bundle, outcome.error))
    if as_json:
        print(json.dumps(outcome.document(), indent=1))
    if outcome.error:
        raise outcome.error


def carry(loaded: Loaded, outcome: Outcome, out: Console, way: Way) -> None:
    """Compile and reproduce, alone in the project."""
    from specml import ledger, repro
    from specml.bundle import RELEASE
    from specml.compile.dvc import compiled_digest
    from specml.compile.write import compiled
    from specml.files import read_json

    folder, target = loaded.folder, way.target
    outcome.name = loaded.spec.name
    with repro.alone(folder, wait=way.wait) as number:
        result = compiled(loaded, force=way.force)
        _possible(way, result, folder)
        left = result.left
        written = result.write()
        if not way.quiet:
            out.print(f"specml · {loaded.spec.name} · {loaded.path}", markup=False, soft_wrap=True)
            for how, names in (("compiled", written), ("removed", left)):
                out.print(f"{how} {', '.join(names)}\n" if names else "", markup=False, end="")
        _present(loaded)
        repro.set_up(folder)
        for mended in repro.tidy(folder):
            out.print(mended, markup=False, soft_wrap=True)
        repro.put_in_order(folder, _names(result.plan.stages))
        facts = {
            "number": number,
            "spec": compiled_digest(result.plan.params),
            **({"target": target} if target else {}),
        }
        with ledger.recorded(folder, "run", **facts) as ended:
            try:
                stale = _stale(result.plan, folder, number, way, out)
                if not way.single and _renewed(loaded, result.plan, stale, out, way):
                    stale.add("champion")
                if stale:
                    _reproduce(outcome, out, folder, number, _order(result.plan, way, stale), way)
            finally:
                ended["stages"] = outcome.stages_run
            if target in (None, LAST):  # DVC may have put back an earlier release, without its stage
                release = read_json(folder / RELEASE)
                ended |= {key: release[key] for key in ("bundle", "verdicts", "admitted")}
        if not (outcome.stages_run or way.quiet):
            back = f"put back as they were: the files of {', '.join(sorted(stale))}"
            out.print(back if stale else "nothing to do: every stage is up to date", markup=False, soft_wrap=True)
    if target is None or target == LAST:
        _tell(outcome, out, folder, quiet=way.quiet or not (outcome.stages_run or way.judges), judges=way.judges)
    elif outcome.stages_run and not way.quiet:
        out.print(f"done up to {target}; go on with `specml run`", markup=False)


def _stale(plan: Plan, folder: Path, number: int, way: Way, out: Console) -> set[str]:
    """The stages that are out of date.

    Where nothing else is, the sources that are no files are asked first whether their rows are others; else that is
    done as a part of the run.
    """
    from specml import repro
    from specml.cli import exit_status

    if way.judges:
        return set(repro.changes(folder)) & JUDGING
    if way.single:
        return {str(way.target)}
    targets = [way.target] if way.target else []
    asking = {f"{stage.name}@{key}" for stage in plan.stages if stage.always for key in stage.keys}
    stale = set(repro.changes(folder, targets))
    if not stale or stale - asking:
        return stale
    order = repro.Order(tuple(sorted(stale)), single=True, every=tuple(_names(plan.stages)))
    with repro.started(folder, number, order, exit_status) as running:
        running.follow(lambda event: None)
    after = set(repro.changes(folder, targets)) - asking
    if not (after or way.quiet):
        asked = ", ".join(name.partition("@")[2] for name in sorted(stale))
        out.print(f"asked {asked}: the rows are as they were", markup=False, soft_wrap=True)
    return after


def _renewed(loaded: Loaded, plan: Plan, stale: set[str], out: Console, way: Way) -> bool:
    """Whether challengers are from now on compared with another release, which is live now."""
    from specml import rollout

    asked, names = [stage.name for stage in plan.stages], _names(plan.stages)
    if "champion" not in asked or (way.target and way.target not in asked[asked.index("champion") :]):
        return False
    judged = set(names[: names.index("validate") + 1])
    champion = rollout.renew(loaded.spec, loaded.folder, stale=bool(judged & stale))
    if champion is not None and not way.quiet:
        told = f"the champion is release {champion.entry.number}, as champion.json now says"
        out.print(told, markup=False, soft_wrap=True)
    return champion is not None


def _order(plan: Plan, way: Way, stale: set[str]) -> Order:
    """What DVC is to do: the candidates that are ``stale`` side by side, where the target needs all of them."""
    from specml.repro import Order

    every = tuple(_names(plan.stages))
    if way.judges:
        return Order(tuple(name for name in every if name in JUDGING), single=True, every=every)
    targets = (way.target,) if way.target else ()
    names = [stage.name for stage in plan.stages]
    train = names.index("train")
    if way.single or (way.target and way.target not in names[train:]):
        return Order(targets, single=way.single, every=every)
    candidates = tuple(f"train@{key}" for key in plan.stages[train].keys)
    if stale.intersection(every[: every.index("train")]):  # what comes of it may change every candidate
        return Order(targets, together=candidates, before=tuple(names[:train]), every=every)
    return Order(targets, together=tuple(one for one in candidates if one in stale), every=every)


def _reproduce(outcome: Outcome, out: Console, folder: Path, number: int, order: Order, way: Way) -> None:
    from specml import durations, repro
    from specml.cli import exit_status
    from specml.cli.progress import Follow

    known = durations.known(folder)
    with repro.started(folder, number, order, exit_status) as running:
        try:
            with Follow(out, known, quiet=way.quiet) as follow:
                outcome.searches = follow.searches
                running.follow(follow)
        except SpecmlError as error:
            if error.status == GateRefused.status:
                _tell(outcome, out, folder, quiet=way.quiet, judges=way.judges)
            raise
        except (KeyboardInterrupt, SystemExit) as end:
            print(_interrupted(running.finished), file=sys.stderr)
            raise SystemExit(end.code if isinstance(end, SystemExit) else INTERRUPTED) from None
        finally:
            outcome.stages_run = running.finished


def _interrupted(finished: list[str]) -> str:
    """What was done, and how to go on."""
    import shlex

    done = f"finished in this run: {', '.join(finished)}" if finished else "no stage was finished in this run"
    return f"interrupted; {done}. Go on with: {shlex.join(['specml', *sys.argv[1:]])}"


def _present(loaded: Loaded) -> None:
    """Every file of a source and of a gate is there: DVC would tell it late and in its own words."""
    for name, source in loaded.spec.data.sources.items():
        for file in source.files():
            if not (loaded.folder / file).exists():
                where = loaded.origins.get(("data", "sources", name, "path"), f"data.sources.{name}")
                raise DataCheckFailed(
                    f"there is no file {file!r}.", where=where, hint=f"Paths start at {loaded.folder}."
                )
    for name, gate in loaded.spec.gates.items():
        for file in gate.files():
            if not (loaded.folder / file).exists():
                where = loaded.origins.get(("gates", name), "")
                what = f"there is no file {file!r}."
                raise SpecError([Problem(where, f"gates.{name}", what, f"Paths start at {loaded.folder}.")])


def _possible(way: Way, result: Compiled, folder: Path) -> None:
    """There is such a stage, or a model to judge that is the one which the spec asks for."""
    names = _names(result.plan.stages)
    if way.target is not None and way.target not in names:
        raise click.UsageError(f"there is no stage {way.target!r}; stages: {', '.join(names)}.")
    if not way.judges:
        return
    from specml.cli.plan import untrained

    if stale := untrained(result, folder):
        what = f"the model is not the one that this spec asks for; out of date: {', '.join(stale)}."
        raise StaleCompile(what, where=str(folder), hint="`specml run` makes it anew; `specml plan` says why.")


def _names(stages: tuple[Stage, ...]) -> list[str]:
    """As DVC knows them; a repeated stage has a name of its own, too, that stands for all of it."""
    return [name for stage in stages for name in (stage.name, *(f"{stage.name}@{key}" for key in stage.keys))]


def _tell(outcome: Outcome, out: Console, folder: Path, *, quiet: bool, judges: bool = False) -> None:
    """Candidates, verdicts, and where each file lies; the verdicts only, where a run ``judges``."""
    from specml import report
    from specml.cli import tables
    from specml.cli.report import draw, draw_exploration
    from specml.files import digest

    draw_exploration(folder)
    draw(folder)  # which leads there
    outcome.report = str(folder / report.OUT)
    outcome.leaderboard, outcome.gates = tables.leaderboard(folder), tables.gates(folder)
    outcome.held_out = tables.openings(folder)
    outcome.bundle = digest(folder / "artifacts/bundle/manifest.json")
    if quiet:
        return
    if not judges:
        out.print(tables.candidates_table(outcome.leaderboard), tables.taken(outcome.leaderboard))
    out.print(tables.gates_table(outcome.gates, bars=tables.roomy(out)), *tables.remarks(outcome.gates))
    out.print(*tables.held_out(outcome.held_out))
    for remark in tables.idle_waivers(folder):
        out.print(f"  {remark}", markup=False, soft_wrap=True)
    files = {"explore": report.EXPLORATION, "bundle": "artifacts/bundle", "card": "artifacts/release/card.md"}
    files = {"report": report.OUT} if judges else {**files, "report": report.OUT, "logs": ".specml/log"}
    for what, where in files.items():
        out.print(f"{what:<7} {folder / where}", markup=False)


def standing(folder: Path, out: Console, *, quiet: bool) -> None:
    """What the release waits for; DVC, which looks at no clock, does not refuse when a waiver has run out."""
    from specml import admission, bundle
    from specml.errors import ApprovalMissing
    from specml.files import digest

    release = bundle.released(folder, digest(folder / "artifacts/bundle/manifest.json"))
    try:
        admission.refuse_unapproved(folder, release, str(folder / bundle.RELEASE))
    except ApprovalMissing as waits:
        if not quiet:
            out.print(f"{waits.what} {waits.hint}", markup=False, soft_wrap=True)


def deploy(loaded: Loaded, outcome: Outcome, out: Console, *, quiet: bool) -> None:
    """Serve the released bundle."""
    from specml import rollout
    from specml.cli.deploy import announce

    def say(text: str) -> None:
        if not quiet:
            out.print(text, markup=False, soft_wrap=True)

    live = rollout.go_live(loaded.spec, loaded.folder, say)
    outcome.url, outcome.release = live.deployment.url, live.release.entry.number
    say(announce(live, loaded))
