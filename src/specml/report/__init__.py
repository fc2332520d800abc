"""One HTML file that tells what a run came to: drawn from the run's own files, readable offline, without a script.

The same run gives the same bytes. Nothing in it is fetched, and every text from the spec or the data is escaped.
"""

from __future__ import annotations

from pathlib import Path

OUT = "artifacts/report.html"


def html(folder: Path) -> str:
    """The report on the last run of the project in ``folder``.

    Raises:
        SpecmlError: no run got as far as the gates' verdicts.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    from specml.report.facts import gather
    from specml.report.sections import sections

    here = Path(__file__).parent
    page = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = Markup((here / "style.css").read_text(encoding="utf-8"))  # noqa: S704 - our own file
    return page.get_template("page.html").render(style=style, **sections(gather(folder)))
