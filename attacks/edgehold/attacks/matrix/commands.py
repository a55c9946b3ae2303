"""`fl-eval matrix` and `fl-eval report`."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from edgehold.attacks.eval.bars import Table, aligned
from edgehold.attacks.matrix.plan import READY, parse
from edgehold.core.command import as_json_option
from edgehold.core.errors import ConfigError

FAILED = 3
"""Exit code when a cell crashed."""
_FOLDER = click.Path(path_type=Path, file_okay=False)
_DATA = click.option(
    "--data", type=_FOLDER, envvar="EDGEHOLD_DATA", help="Folder with a folder per data set [env: EDGEHOLD_DATA]."
)
_INVERSION = click.option(
    "--inversion", "inversions", multiple=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="result.json of `fl-eval invert`, whose pictures the report shows. Repeatable.",
)  # fmt: skip


@click.command()
@click.argument("plan")
@click.option("--out", type=_FOLDER, help="Keep cells and report here. By default matrix-NAME in the current folder.")
@_DATA
@click.option("--workers", default=0, type=click.IntRange(0), help="Processes; 0: one per core.")
@click.option(
    "--ray", default="", metavar="ADDRESS", help="Play on this Ray cluster ('local': one made here). Needs edgehold[ray]."
)
@click.option("--check", is_flag=True, help="Only say what would be played, or what is wrong with the file.")
@click.option("--show", is_flag=True, help="Print the file: the start of one of your own.")
@READY.list_option("Name the ready matrices.")
@_INVERSION
@as_json_option
def matrix(
    plan: str, out: Path | None, data: Path | None, workers: int, ray: str, check: bool, show: bool,
    inversions: tuple[Path, ...], as_json: bool,
) -> None:  # fmt: skip
    """Play PLAN, a TOML file or a ready matrix, and report on it: defences x attacks x shares of liars x seeds x data.

    Two controls run whatever the file says: nobody lies, and nobody defends. A defence is credited only with attacks that
    clearly beat the undefended average. Every cell is kept as it finishes: killed or stopped by Ctrl-C, the same command goes
    on with what is missing; a changed file plays only what is new. A cell that crashes is kept with its traceback, the rest
    goes on, and asked again it is tried again.

    \b
    Examples:
      fl-eval matrix --list
      fl-eval matrix quick                         # minutes; the page is matrix-quick/report.html
      fl-eval matrix quick --show > mine.toml      # change it, then:
      fl-eval matrix mine.toml --check
      fl-eval matrix mine.toml --out mine
      fl-eval matrix full --ray 10.0.0.7:6379

    \b
    Exit codes: 0 all cells are there, 1 refused before anything was played, 3 a cell crashed, 130 stopped by Ctrl-C.
    """
    from edgehold.attacks.matrix import page, run
    from edgehold.attacks.matrix.grid import Grid
    from edgehold.attacks.matrix.store import Store

    text = READY.text_of(plan)
    if show:
        click.echo(text, nl=False)
        return
    if data is not None and not data.is_dir():
        raise ConfigError(f"data = {data}: no such folder", field="data")
    grid = Grid(parse(text, plan), data)
    name = grid.matrix.matrix.name
    folder = out or Path(f"matrix-{name}")
    for missing in grid.missing:
        click.echo(
            f"{name}: data {missing} is left out: its folder is not in the data folder (--data or EDGEHOLD_DATA)", err=True
        )
    if check:
        found: dict[str, Any] = {
            "matrix": name, "digest": grid.matrix.digest, "cells": len(grid.cells()), "data": list(grid.data),
            "defences": list(grid.defences), "attacks": list(grid.attacks), "left_out": list(grid.missing),
        }  # fmt: skip
        click.echo(json.dumps(found) if as_json else f"{name}: {found['cells']} cells, controls among them: "
                   f"{len(grid.defences)} defences x {len(grid.attacks)} attacks on {', '.join(grid.data)}")  # fmt: skip
        return
    store = Store(folder)
    try:
        done = run.play_all(grid, text, store, data, workers or len(os.sched_getaffinity(0)), ray)
    finally:
        store.close()
    report = page.write(folder, inversions)
    _tell(report, as_json)
    if done.stopped:
        click.echo(
            f"stopped with {report.facts['cells']} of {done.cells} cells, which are kept; the same command goes on: "
            f"fl-eval matrix {plan} --out {folder}",
            err=True,
        )  # fmt: skip
        sys.exit(130)
    if done.failed:
        click.echo(
            f"{done.failed} cells crashed: their tracebacks stand in the report; asked again, they are tried again", err=True
        )
        sys.exit(FAILED)


@click.command()
@click.argument("folder", metavar="DIR", type=_FOLDER)
@_INVERSION
@as_json_option
def report(folder: Path, inversions: tuple[Path, ...], as_json: bool) -> None:
    """Write the report on the matrix kept in DIR again: report.html, report.json, cells.csv, verdicts.csv and pictures.

    Nothing is played; cells that are missing are named. Works while a matrix is still being played.

    \b
    Examples:
      fl-eval report matrix-quick
      fl-eval report matrix-quick --inversion images/result.json
    """
    from edgehold.attacks.matrix import page

    _tell(page.write(folder, inversions), as_json)


def _tell(report: Any, as_json: bool) -> None:
    facts = report.facts
    if as_json:
        wanted = ("matrix", "digest", "cells", "waiting", "failed", "commits", "worst")
        click.echo(json.dumps({"page": str(report.page), **{name: facts[name] for name in wanted}}))
        return
    rows = [
        [one["data"], f"{100 * one['share']:.0f} %", one["defence"], _told(one["value"]), one["attack"], _told(one["clean"])]
        for one in facts["worst"]
    ]
    click.echo(
        aligned(
            Table("worst case of every defence", ("data", "liars", "defence", "at its worst", "under", "nobody lies"), rows)
        )
    )
    click.echo(f"\n{facts['cells']} cells, {facts['waiting']} to play, {facts['failed']} failed; page: {report.page}")


def _told(one: dict[str, float] | None) -> str:
    return f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" if one else "-"
