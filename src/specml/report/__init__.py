"""One HTML file that tells what a run came to: drawn from the run's own files, readable offline, without a script.

The same run gives the same bytes. Nothing in it is fetched, and every text from the spec or the data is escaped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

OUT = "artifacts/report.html"
EXPLORATION = "artifacts/explore.html"


def html(folder: Path) -> str:
    """The report on the last run of the project in ``folder``.

    Raises:
        SpecmlError: no run got as far as the gates' verdicts.
    """
    from specml.report.facts import gather
    from specml.report.sections import sections

    return _page("page.html", {**sections(gather(folder)), "explored": (folder / EXPLORATION).exists()})


def exploration(folder: Path) -> str:
    """What the stage ``explore`` of the project in ``folder`` has seen of the training rows.

    Raises:
        SpecmlError: the stage has not run.
    """
    from specml.report import explored

    return _page("explore.html", explored.sections(explored.gather(folder)))


def _page(template: str, variables: dict[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    here = Path(__file__).parent
    page = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = Markup((here / "style.css").read_text(encoding="utf-8"))  # noqa: S704 - our own file
    return page.get_template(template).render(style=style, **variables)
