"""The command line: one file per verb, imported when the verb is used."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from typing_extensions import override

from specml import __version__
from specml.errors import INTERRUPTED, SpecmlError, of_system

if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS = {
    "init": "Draft a spec from a table of yours.",
    "check": "Say whether a spec is valid, and every problem if not.",
    "plan": "Say what would run, and why; write nothing.",
    "diff": "Say what changes from one spec to another: what re-runs, what is loosened.",
    "compile": "Write dvc.yaml, params.yaml and serve.yaml.",
    "run": "Carry the spec through: compile, train, judge, release, deploy.",
    "gate": "Judge the packaged model again; train nothing.",
    "explore": "Draw what there is to know of the training rows, as one HTML file.",
    "report": "Draw what the last run came to, as one HTML file.",
    "approve": "Approve the release, where the spec asks for it.",
    "deploy": "Serve the released model.",
    "status": "Say what is live.",
    "releases": "List the releases that went live here.",
    "rollback": "Serve an earlier release in the place of what is live.",
    "tune": "Change knobs of what is live, such as its objective; nothing restarts.",
    "predict": "Ask the model about the rows of a file.",
    "explain": "Say of single rows what moves the model's answer.",
    "watch": "Judge what the live model is asked, and how good its answers were.",
    "feedback": "Bring the labels that came late.",
    "retrain": "Train a challenger on the new data; it is released if it is not worse than what is live.",
    "stop": "Stop what is live.",
    "bench": "Measure what a call of the model takes here, by device and rows.",
    "doctor": "Look for what would break a run, and say how to mend it.",
    "audit": "Check and show the record of what was run, decided and served.",
    "clean": "Remove what crashes left, and what can be made again.",
    "render": "Print the full spec, with every default and where each value came from.",
    "schema": "Print the JSON Schema of specs, for editors.",
}
HIDDEN = ("stage",)

TELEMETRY_OFF = {
    "DVC_NO_ANALYTICS": "1",
    "ITERATIVE_DO_NOT_TRACK": "1",
    "WHYLOGS_NO_ANALYTICS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class Verbs(click.Group):
    """Knows the verbs without importing them, so that ``--help`` is instant."""

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS and cmd_name not in HIDDEN:
            return None
        command = importlib.import_module(f"specml.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))

    @override
    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in VERBS and args[0] not in HIDDEN and not args[0].startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(args[0], VERBS, 1)
            hint = f" Did you mean {close[0]!r}?" if close else " See `specml --help`."
            ctx.fail(f"{args[0]!r} is no verb.{hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="specml")
def cli() -> None:
    """One YAML spec becomes a trained, judged and live model."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status; see ``errors`` for what each status means."""
    for name, value in TELEMETRY_OFF.items():
        os.environ.setdefault(name, value)
    sys.exit(exit_status(arguments))


def exit_status(arguments: Sequence[str] | None) -> int:
    """Run the command line; returns the status to exit with."""
    try:
        return int(cli.main(args=arguments, standalone_mode=False) or 0)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except SpecmlError as error:
        print(error, file=sys.stderr)
        return error.status
    except (KeyboardInterrupt, click.Abort):
        print("interrupted; the same command carries on from what was finished.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone: nothing is wrong, and nothing more can be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        print(of_system(error, _here()), file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(missing(error), file=sys.stderr)
        return 1
    except SystemExit:
        raise
    except BaseException:  # a panic inside polars is no Exception
        path = _crash_report()
        print(f"this is a bug in specml; please report it with the file {path}", file=sys.stderr)
        return 1


def _here() -> Path:
    """The current folder; where it was, if it is gone."""
    try:
        return Path.cwd()
    except OSError:
        return Path(os.environ.get("PWD", "."))


EXTRAS = {
    "sql": ("adbc_driver_manager", "adbc_driver_postgresql", "duckdb", "nanoarrow", "sqlalchemy", "sqlglot"),
    "s3": ("s3fs", "aiobotocore", "botocore"),
    "stream": ("confluent_kafka", "paho"),
    "train": ("pandas", "pyarrow", "tensorboardX"),
    "catboost": ("catboost",),
    "xgboost": ("xgboost",),
}
"""What is installed only where it is asked for."""


def missing(error: ModuleNotFoundError) -> str:
    """What to tell when a library that specml stands on is not installed."""
    package = (error.name or "").partition(".")[0]
    extra = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
    how = f"Install what it needs: pip install 'specml[{extra}]'" if extra else "Install specml again, which brings it."
    return f"the package {package} can't be imported: {error}\n  {how}"


def _crash_report() -> Path:
    import tempfile
    import traceback

    handle, name = tempfile.mkstemp(prefix="specml-crash-", suffix=".txt")
    with os.fdopen(handle, "w") as file:
        file.write(f"specml {__version__}, Python {sys.version}\n\n{traceback.format_exc()}")
    return Path(name)
