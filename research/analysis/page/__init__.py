"""One HTML page about runs that needs no other file and no network: `write(folders)`.

The charts are drawn by uPlot (MIT licence), whose released files are in `uplot/`.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import jinja2

from research import config
from research.analysis import curves, scores, summary, time_spent
from research.analysis.runs import Run, read
from research.runtime import files

FOLDER = Path(__file__).parent
COLOURS = 8  # that page.css has for runs


def write(folders: Sequence[Path], out: Path | None = None) -> Path:
    """Writes the page about some run folders and returns its path: `report.html` in the run folder, of several runs in
    the one above, unless `out` says otherwise.

    Raises:
      InputError: if one is not a run folder.
    """
    found = read(folders)
    out = out or (folders[0] if len(folders) == 1 else folders[0].resolve().parent) / "report.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(out, html(found))
    return out


def html(runs: Sequence[Run]) -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    data = {
        "runs": [
            {
                "name": run.name,
                "tokens": run.tokens_per_step,
                "flops": run.flops_per_step,
                "hours": curves.hours(run),
                "experiment": experiment,
            }
            for run, experiment in zip(runs, summary.seeds(runs), strict=True)
        ],
        "charts": [asdict(chart) for chart in curves.charts(runs)],
        "colours": COLOURS,
    }
    return environment.get_template("page.html").render(
        names=[run.name for run in runs],
        colours=COLOURS,
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        overview=summary.overview(runs),
        settings=summary.settings(runs),
        comparison=summary.comparison(runs),
        experiments=[json.dumps(config.to_dict(run.experiment), indent=2) for run in runs],
        samples=[summary.samples(run) for run in runs],
        evaluations=scores.evaluations(runs),
        times=[time_spent.time(run) for run in runs],
        styles=_read("uplot/uPlot.min.css") + _read("page.css"),
        scripts=[_read("uplot/uPlot.iife.min.js"), _read("page.js")],
    )


def _read(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
