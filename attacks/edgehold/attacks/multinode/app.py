"""`deploy/testbed`: one command from testbed.toml to models and report."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from edgehold.attacks.demo.folders import HOMES, Folders
from edgehold.attacks.demo.outcome import Failed
from edgehold.attacks.demo.processes import interruptible
from edgehold.attacks.demo.progress import Screen, screen
from edgehold.attacks.demo.report import Report
from edgehold.attacks.multinode.backend import SKIP, Backend, NotPossible
from edgehold.attacks.multinode.config import RUNS, Testbed, checked, load
from edgehold.attacks.multinode.play import Played, play
from edgehold.attacks.multinode.verdict import judge
from edgehold.core.about import VERSION
from edgehold.core.errors import FlError

DEPLOY = Path(os.environ.get("EDGEHOLD_DEPLOY", "deploy"))
"""The folder deploy/ of a clone: files of the testbed and of the images."""
BACKENDS = ("process", "netns", "compose")
RENDERED = "testbed"
"""Name of a Compose project that is only written, not run."""
REPORT = "report.json"
TEXT = "report.txt"


def backend_of(kind: str, bed: Testbed, folder: Path, show: Screen) -> Backend:
    """The backend of that name; `NotPossible` where this machine cannot carry it."""
    if kind == "netns":
        from edgehold.attacks.multinode.netns import NetnsBackend

        return NetnsBackend(bed, folder)
    if kind == "compose":
        from edgehold.attacks.multinode.containers import ComposeBackend

        return ComposeBackend(bed, folder, show)
    from edgehold.attacks.multinode.local import LocalBackend

    if not bed.link.plain or bed.partition:
        raise NotPossible(
            "testbed.toml shapes links, and plain processes have none of their own; use --backend netns or compose"
        )
    return LocalBackend(bed, folder)


def testbed(kind: str, bed: Testbed, runs: Sequence[str], homes: Path, results: Path, show: Screen, hold: bool) -> list[Played]:
    """All of one seed: up, the runs, logs, down."""
    backend = backend_of(kind, bed, homes, show)
    try:
        backend.up()
        show.say(f"fl-server and {len(bed.clients)} devices are up ({kind}), enrolled with one-time tokens, over mutual TLS")
        played = play(bed, backend, runs, results, show)
        if hold:
            show.say("the testbed stays up until Ctrl-C")
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(1.0)
        return played
    except (RuntimeError, TimeoutError, subprocess.SubprocessError) as error:
        raise Failed(str(error)) from error
    finally:
        logs = results / "logs"
        logs.mkdir(exist_ok=True)
        with contextlib.suppress(Exception):
            backend.logs(logs)
        backend.down()


def seeded(kind: str, beds: Sequence[Testbed], runs: Sequence[str], folders: Folders, show: Screen, hold: bool) -> list[Played]:
    """A testbed for each seed, one after the other."""
    found, many = list[Played](), len(beds) > 1
    for bed in beds:
        _, results = folders.of_seed(bed.testbed.seed, many)
        homes = folders.work / f"seed-{bed.testbed.seed}" if many else folders.work
        homes.mkdir(mode=0o700, exist_ok=True)
        if many:
            show.say(f"seed {bed.testbed.seed}")
        found += testbed(kind, bed, runs, homes, results, show, hold)
    return found


def write(played: Sequence[Played], kind: str, bed: Testbed, begun: float, results: Path) -> str:
    """Picture, JSON and text, into the folder we are in; returns the text. results: how people call this folder."""
    outcomes = [one.outcome for one in played]
    report, verdict = Report(outcomes, None, None), judge(outcomes)
    report.draw(Path())
    said = {
        "testbed": {
            "backend": kind, "honest": bed.testbed.honest, "liars": bed.testbed.liars, "config_sha256": bed.digest,
            "edgehold": VERSION, "link": msgspec.to_builtins(bed.link), "task": bed.task.name,
            "attack": bed.attack.entry, "seconds": round(time.monotonic() - begun, 1),
        },
        "runs": [one.as_dict() for one in played],
        "verdict": verdict.as_dict() if verdict else None,
    }  # fmt: skip
    text = report.text(results) + (f"\n{verdict.text()}" if verdict else "")
    text += f"\nFor devices (ONNX, signed, in force on {bed.clients[0]}): " + ", ".join(
        str(results / one.outcome.model.with_suffix("")) for one in played
    )
    Path(REPORT).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    Path(TEXT).write_text(text + "\n", encoding="utf-8")
    return text


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), default=DEPLOY / "testbed.toml")
@click.option("--backend", "kind", type=click.Choice(BACKENDS), default="process", show_default=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("testbed-output"), show_default=True)
@click.option("--honest", type=click.IntRange(1), help="Honest devices, instead of the file's.")
@click.option("--liars", type=click.IntRange(0), help="Liars, instead of the file's.")
@click.option("--rounds", type=click.IntRange(1), help="Rounds of each run, instead of the file's.")
@click.option("--seed", type=click.IntRange(0), help="Instead of the file's.")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1), help="So many seeds, one after the other.")
@click.option("--run", "runs", type=click.Choice(RUNS), multiple=True, help="Only these runs; repeat it. Default: all three.")
@click.option("--render", is_flag=True, help="With --backend compose: write compose.yaml and what it mounts, and run nothing.")
@click.option("--keep", is_flag=True, help="Keep the homes of server and devices, keys and journals included.")
@click.option("--hold", is_flag=True, help="Keep it up after the runs, until Ctrl-C: for deploy/chaos and for looking around.")
def main(
    file: Path, kind: str, out: Path, honest: int | None, liars: int | None, rounds: int | None, seed: int | None,
    seeds: int, runs: tuple[str, ...], render: bool, keep: bool, hold: bool,
) -> None:  # fmt: skip
    """Run the testbed that FILE describes (default: deploy/testbed.toml) and write models and report into a folder.

    Exit code 77: this machine cannot carry the backend; the message says what is missing.

    Example: deploy/testbed --backend netns --out /tmp/bed
    """
    interruptible()
    begun = time.monotonic()
    try:
        bed = load(file)
        given = {"honest": honest, "liars": liars, "rounds": rounds, "seed": seed}
        table = msgspec.structs.replace(bed.testbed, **{key: value for key, value in given.items() if value is not None})
        bed = checked(msgspec.structs.replace(bed, testbed=table), str(file))
        out.mkdir(parents=True, exist_ok=True)
        if render:
            from edgehold.attacks.multinode import compose

            click.echo(f"{compose.write(bed, out, RENDERED, str((DEPLOY / 'monitoring').resolve()))} is written")
            return
        # Work inside the folder: socket paths have to be short, and so they are however deep it lies.
        with contextlib.chdir(out):
            with screen() as show:
                folders, first = Folders(Path()), bed.testbed.seed
                beds = [bed.with_seed(one) for one in range(first, first + seeds)]
                played = seeded(kind, beds, [run for run in RUNS if not runs or run in runs], folders, show, hold)
            if not keep:
                folders.drop_homes()
            text = write(played, kind, bed, begun, out)
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo(f"\ntestbed: interrupted; everything is taken down, logs are in {out / 'logs'}", err=True)
        sys.exit(130)
    except NotPossible as error:
        click.echo(f"testbed: not possible here: {error.message}", err=True)
        sys.exit(SKIP)
    except (Failed, FlError, OSError) as error:
        click.echo(f"testbed: {' '.join(str(error).split())}; logs are in {out / 'logs'}, homes in {out / HOMES}", err=True)
        sys.exit(1)
    click.echo(f"\n{text}\nReport: {out / REPORT}, {out / TEXT}\nDone in {time.monotonic() - begun:.0f} s.")


if __name__ == "__main__":
    main()
