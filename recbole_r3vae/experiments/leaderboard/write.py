"""Leaderboards are written from the result files: a report, a Markdown page and CSV files a dataset, and one page of all."""

from __future__ import annotations

from pathlib import Path

from recbole_r3vae.errors import UserError
from recbole_r3vae.experiments.leaderboard.csv_rows import flat_failures, flat_rows
from recbole_r3vae.experiments.leaderboard.markdown import markdown
from recbole_r3vae.experiments.leaderboard.page.document import page
from recbole_r3vae.experiments.leaderboard.report import leaderboard
from recbole_r3vae.experiments.tables import write_csv
from recbole_r3vae.io import atomic_write, write_json


def write_leaderboards(results: Path) -> list[Path]:
    """Write the tables of every dataset under ``results/runs``, and one page with all of them.

    Per dataset ``leaderboard_<dataset>.md``, ``.csv`` and ``.json``; ``leaderboard.html`` for all, which needs no network. They are a
    function of the result files alone, so that writing them again changes nothing. Rows of a rarer precision have a CSV of their own,
    ``leaderboard_<dataset>_<precision>.csv``.

    Args:
        results: the folder that holds ``runs/<dataset>/*.json``.

    Returns:
        The files written.

    Raises:
        UserError: there is no result file.
    """
    results = Path(results)
    folders = sorted(path for path in (results / "runs").glob("*") if path.is_dir())
    reports = [report for report in map(leaderboard, folders) if report["rows"] or report["failed"]]
    if not reports:
        way_out = "run recbole-r3vae benchmark first, or name the folder that holds runs/"
        raise UserError(f"there are no results in {results / 'runs'}; {way_out}")
    written = []
    for report in reports:
        stem = f"leaderboard_{report['dataset']}"
        written += [results / f"{stem}.{ending}" for ending in ("md", "csv", "json")]
        with atomic_write(results / f"{stem}.md") as file:
            file.write(markdown(report))
        write_csv(results / f"{stem}.csv", flat_rows(report, report["rows"]) + flat_failures(report))
        write_json(results / f"{stem}.json", report)
        for part in report["apart"]:
            written.append(results / f"{stem}_{part['precision']}.csv")
            write_csv(written[-1], flat_rows(report, part["rows"]))
    written.append(results / "leaderboard.html")
    with atomic_write(written[-1]) as file:
        file.write(page(reports))
    return written
