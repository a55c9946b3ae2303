"""`fl-eval membership`."""

import json
import os
import sys
from pathlib import Path

import click

from edgehold.attacks.eval.bars import aligned
from edgehold.attacks.privacy.membership.study import READY, parse
from edgehold.core.command import as_json_option

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("plan")
@click.option("--out", type=_FOLDER, help="Keep models and result here. By default membership-NAME in the current folder.")
@click.option("--data", type=_FOLDER, envvar="EDGEHOLD_DATA", help="Folder with a folder per data set [env: EDGEHOLD_DATA].")
@click.option("--workers", default=0, type=click.IntRange(0), help="Processes; 0: one per core.")
@click.option("--show", is_flag=True, help="Print the file: the start of one of your own.")
@READY.list_option("Name the ready studies.")
@as_json_option
def membership(plan: str, out: Path | None, data: Path | None, workers: int, show: bool, as_json: bool) -> None:
    """Guess which records the models of PLAN, a TOML file or a ready study, were trained on.

    Targets are federated runs through the methods as they ship; the attacker is a server that sees the global model. Scores:
    loss threshold, LiRA online and offline, RMIA. Each target has a control beside it: a model that never saw the records,
    which must score about 0.5. Every model is kept as it finishes: after Ctrl-C the same command goes on with what is missing.

    \b
    Examples:
      fl-eval membership --list
      fl-eval membership digits                          # a minute; models, result.json and roc.png in membership-digits
      fl-eval membership fashion --data /data --out study
      fl-eval membership digits --show > mine.toml

    \b
    Exit codes: 0 all models are there, 1 refused, 130 stopped by Ctrl-C.
    """
    text = READY.text_of(plan)
    if show:
        click.echo(text, nl=False)
        return
    from edgehold.attacks.privacy.membership import run as attacking

    study = parse(text, plan)
    folder = out or Path(f"membership-{study.name}")
    found = attacking.run(study, data, folder, workers or len(os.sched_getaffinity(0)))
    if as_json:
        click.echo(json.dumps({"out": str(folder), "stopped": found.stopped, **found.facts}))
    else:
        for table in attacking.tables(found.findings):
            click.echo(aligned(table) + "\n")
        click.echo(f"{study.seeds} seeds; mean +- standard deviation, exact 95 % intervals from the lowest to the highest run")
        click.echo(f"{found.models} models, {found.missing} missing, {found.facts['processor_seconds']:.0f} processor seconds; "
                   f"{folder / attacking.RESULT}")  # fmt: skip
    if found.stopped:
        click.echo(
            f"stopped with {found.models} of {found.models + found.missing} models, which are kept; the same command goes on: "
            f"fl-eval membership {plan} --out {folder}",
            err=True,
        )  # fmt: skip
        sys.exit(130)
