"""The command."""

import asyncio
import contextlib
import statistics
import sys
import time
from pathlib import Path

import click

from edgehold.attacks.demo.folders import HOMES, Folders
from edgehold.attacks.demo.memory import Peaks
from edgehold.attacks.demo.outcome import Failed, Outcome
from edgehold.attacks.demo.plan import Settings
from edgehold.attacks.demo.play import federate
from edgehold.attacks.demo.processes import interruptible
from edgehold.attacks.demo.progress import Screen, screen
from edgehold.attacks.demo.report import Report
from edgehold.core.errors import FlError


def demonstrate(folders: Folders, settings: Settings, show: Screen) -> Report:
    """All runs of all seeds, and the same model trained in one place."""
    outcomes, peaks, many = list[Outcome](), Peaks(), len(settings.seeds) > 1
    for seed in settings.seeds:
        if many:
            show.say(f"seed {seed}")
        homes, results = folders.of_seed(seed, many)
        outcomes += federate(homes, results, settings, seed, show, peaks)
        folders.keep_logs(homes, results)
    show.say("training the same model in one place, for comparison")
    from edgehold.client.data.digits import central_accuracy  # loads PyTorch, which nothing here needs before

    return Report(outcomes, statistics.mean(central_accuracy(seed=seed) for seed in settings.seeds), peaks)


@click.command()
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the results here.")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Folder for everything, homes included.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Of split, model and training.")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1), help="So many seeds, from --seed on.")
@click.option("--rounds", default=20, show_default=True, type=click.IntRange(1), help="Rounds of each run.")
@click.option(
    "--alpha",
    default=3.0,
    show_default=True,
    type=click.FloatRange(0.0, min_open=True),
    help="Of the split; 0.5 is very uneven.",
)
def main(json_file: Path | None, keep: Path | None, seed: int, seeds: int, rounds: int, alpha: float) -> None:
    """Train on handwritten digits with eight clients: honest, attacked, defended. Real processes on this machine."""
    interruptible()
    begun, results = time.monotonic(), keep or Path("demo-output")
    settings = Settings(rounds, range(seed, seed + seeds), alpha)
    json_file = json_file and json_file.absolute()
    try:
        results.mkdir(parents=True, exist_ok=True)
        # Work inside the folder: socket paths have to be short, and so they are however deep it lies.
        with contextlib.chdir(results):
            folders = Folders(Path())
            with screen() as show:
                report = demonstrate(folders, settings, show)
            if keep is None:
                folders.drop_homes()
            report.draw(Path())
            if json_file is not None:
                report.write(json_file)
    except (KeyboardInterrupt, asyncio.CancelledError):
        # The second for a Ctrl-C in the moment in which asyncio.run has set its handler and not yet begun to count.
        click.echo(f"\ndemo: interrupted; every process is stopped, logs are in {results / HOMES}", err=True)
        sys.exit(130)
    except (Failed, FlError, OSError) as error:
        said = " ".join(str(error).split())  # one line, whatever was quoted in it
        click.echo(f"demo: {said}; logs are in {results / HOMES}", err=True)
        sys.exit(1)
    click.echo(f"\n{report.text(results)}\nDone in {time.monotonic() - begun:.0f} s.")
