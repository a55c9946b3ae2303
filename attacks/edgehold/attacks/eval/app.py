"""The `fl-eval` command."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from edgehold.attacks.eval import cells, reproductions
from edgehold.attacks.eval.bars import Table, aligned, markdown
from edgehold.attacks.matrix import commands as matrices
from edgehold.attacks.privacy.membership import commands as memberships
from edgehold.core.command import Commands, as_json_option, version_option
from edgehold.core.config import parse_toml
from edgehold.core.errors import ConfigError

MISSED = 3
"""Exit code when a bar does not hold."""

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group(cls=Commands)
@version_option
def main() -> None:
    """Simulate federations of thousands of virtual clients, and check what the methods promise.

    Nothing here opens a socket: the methods' own code runs over virtual clients on all cores of this machine, with the
    same bytes, laws, weights and random numbers as fl-server and fl-client, and gives the same model bit for bit.

    \b
    Start with:
      fl-eval reproduce --list
      fl-eval reproduce fedavg --seeds 5
      fl-eval simulate plan.toml --clients 1000 --task edgehold.client.data.digits:make_task --out sim
      fl-eval facts sim
      fl-eval audit --method dp_ef_sgd --runs 5
      fl-eval membership digits
      fl-eval attacks
      fl-eval matrix quick
      fl-eval invert --transcript run.sqlite --task ENTRY --attack sparse --out images

    \b
    Exit codes: 0 fine, 1 refused or failed (one line says why), 2 wrong usage,
    3 a bar does not hold, or a cell crashed.
    """


main.add_command(matrices.matrix)
main.add_command(matrices.report)
main.add_command(memberships.membership)


def _pairs(ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """k=v with v as TOML (numbers, true, [1, 2], "text"), or as plain text where it is no TOML."""
    found: dict[str, Any] = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{value!r}; write name=value, for example alpha=0.3")
        try:
            found[key] = parse_toml(f"value = {text}", key)["value"]
        except ConfigError:
            found[key] = text
    return found


@main.command()
@click.argument("plan", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--clients", required=True, type=click.IntRange(1), help="Virtual clients in the fleet.")
@click.option("--task", required=True, metavar="ENTRY", help="package.module:function that makes a client's task.")
@click.option("--option", "options", multiple=True, callback=_pairs, metavar="K=V", help="Argument of the task; repeatable.")
@click.option("--adversary", default="", metavar="ENTRY", help="What makes the liars lie, as in client.toml.")
@click.option(
    "--adversary-option", "lies", multiple=True, callback=_pairs, metavar="K=V", help="Argument of the adversary; repeatable."
)
@click.option("--liars", default=0, type=click.IntRange(0), help="How many of the first clients lie.")
@click.option("--workers", type=click.IntRange(1), help="Processes. By default one, and all cores where that pays.")
@click.option("--batch", is_flag=True, help="Train small equal models together: faster, equal within float32 rounding.")
@click.option("--out", type=_FOLDER, help="Keep state and facts after each round, model and result.json here.")
@click.option("--resume", is_flag=True, help="Go on with the simulation in --out, as if it had never stopped.")
@click.option("--transcript", type=click.Path(path_type=Path, dir_okay=False), help="Keep what the server is able to see here.")
@click.option("--keep", multiple=True, type=click.IntRange(1), metavar="ROUND", help="Rounds to keep there; all without this.")
@click.option("--imprint", is_flag=True, help="A malicious server: start from weights that sort records into bins.")
@as_json_option
def simulate(
    plan: Path, clients: int, task: str, options: dict[str, Any], adversary: str, lies: dict[str, Any], liars: int,
    workers: int | None, batch: bool, out: Path | None, resume: bool, transcript: Path | None, keep: tuple[int, ...],
    imprint: bool, as_json: bool,
) -> None:  # fmt: skip
    """Play a run PLAN (the same TOML that fl-server takes) over virtual clients.

    A client's task is made when it is asked for, with device_index (from 0) and devices added to the options; device -1 is
    the server's own copy with the test data. Memory stays flat however many clients there are.

    \b
    Examples:
      fl-eval simulate plan.toml --clients 200 --task edgehold.client.data.digits:make_task --option alpha=0.3
      fl-eval simulate plan.toml --clients 5000 --task edgehold.client.data.tasks:make_task \\
          --option dataset=fashion-mnist --option path=/data/fashion-mnist --option model=mlp --out sim
      fl-eval simulate plan.toml ... --liars 20 --adversary edgehold.attacks.byzantine.sign_flip:make \\
          --adversary-option scale=5.0
    """
    from edgehold.attacks.eval import simulate as play

    found = play.simulate(
        play.Wish(
            plan, clients, task, options, adversary, lies, liars, workers, batch, out, resume, transcript, keep, imprint
        )
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{found['run']}: {found['rounds']} rounds of {clients} clients in {found['seconds']:.1f} s")
    click.echo(f"  {play.said(found['last'])}")
    click.echo(f"  refused: {found['rejected'] or 'none'}")
    click.echo(f"  model {found['digest']}" + (f", kept in {out}" if out else ""))


@main.command("export-backbone")
@click.option("--task", required=True, metavar="ENTRY", help="package.module:function that makes the model's task.")
@click.option("--option", "options", multiple=True, callback=_pairs, metavar="K=V", help="Argument of the task; repeatable.")
@click.option("--weights", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The trained model's file.")
@click.option("--head", default="", help="Part to leave out, by its dotted name. By default the last linear layer.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The ONNX file to write.")
@as_json_option
def export_backbone(
    task: str, options: dict[str, Any], weights: Path, head: str, out: Path, as_json: bool
) -> None:  # fmt: skip
    """Write a trained PyTorch model without its head as an ONNX file, for devices that train a head on its features.

    Needs the extra edgehold[export]; the devices need edgehold[device] only. Give them the SHA-256 that is printed.

    \b
    Example:
      fl-eval export-backbone --task edgehold.client.data.tasks:make_task --option dataset=digits \\
          --weights sim/model.safetensors --out backbone.onnx
    """
    from edgehold.attacks.eval.export import export

    found = export(task, options, weights, head, out)
    click.echo(json.dumps(found) if as_json else f"{out}: {found['features']} features, sha256 {found['sha256']}")


@main.command()
@click.argument("folder", type=_FOLDER)
@as_json_option
def facts(folder: Path, as_json: bool) -> None:
    """Facts of every round of a simulation kept in FOLDER; also while it still runs."""
    from edgehold.attacks.eval.simulate import facts_of

    rounds = facts_of(folder)
    if as_json:
        click.echo(json.dumps(rounds))
        return
    if not rounds:
        click.echo("no round is committed yet")
        return
    names = [name for name in ("round", "accuracy", "loss", "clients_admitted", "step_norm", "seconds") if name in rounds[0]]
    rows = [[f"{one.get(name, float('nan')):.6g}" for name in names] for one in rounds]
    click.echo(aligned(Table(str(folder), names, rows)))


@main.command()
@click.option("--method", required=True, metavar="NAME", help="dp_ef_sgd or dp_sgd.")
@click.option("--epsilon", default=2.0, show_default=True, type=float, help="What the method is set to promise.")
@click.option("--delta", default=1e-5, show_default=True, type=float)
@click.option("--canaries", default=4000, show_default=True, type=click.IntRange(1), help="Records whose presence is guessed.")
@click.option("--runs", default=1, show_default=True, type=click.IntRange(1), help="Trainings, each judged on its own.")
@click.option("--noise-factor", default=1.0, show_default=True, type=float,
              help="Multiply the noise and leave the promise: a planted bug, to see the audit find it.")  # fmt: skip
@as_json_option
def audit(
    method: str, epsilon: float, delta: float, canaries: int, runs: int, noise_factor: float, as_json: bool
) -> None:  # fmt: skip
    """Hold the epsilon that a private method promises against what its released updates give away about canaries.

    Each run trains once, through the device half and the noise that ship. Its bound is above the true epsilon with a chance
    of 5 % at most. Exit code 3 when more runs are above the promise than chance explains.

    \b
    Examples:
      fl-eval audit --method dp_ef_sgd --runs 20
      fl-eval audit --method dp_sgd --epsilon 1 --noise-factor 0.25 --json
    """
    from edgehold.attacks.privacy import run as auditing

    wish = auditing.Wish(method, epsilon, delta, canaries, runs, noise_factor)
    found = auditing.run(wish)
    if as_json:
        click.echo(json.dumps(
            {"method": method, "epsilon": epsilon, "delta": delta, "noise_factor": noise_factor, "claimed": found.claimed,
             "ceiling": found.ceiling, "noise_multiplier": found.noise_multiplier, "above": found.above, "holds": found.holds,
             "verdicts": [msgspec.to_builtins(one) for one in found.verdicts]}
        ))  # fmt: skip
    else:
        rows = [[str(i), f"{v.epsilon_lower:.3f}", f"{v.correct} of {v.guesses}"] for i, v in enumerate(found.verdicts, 1)]
        click.echo(aligned(Table(f"{method}, {canaries} canaries", ["run", "epsilon at least", "right guesses"], rows)))
        click.echo(f"claimed {found.claimed:.3f} at delta {delta:g}; {found.above} of {runs} runs above it")
        click.echo(f"all guesses right would have shown {found.ceiling:.3f}")
    sys.exit(0 if found.holds else MISSED)


@main.command()
@click.argument("name", required=False)
@as_json_option
def attacks(name: str | None, as_json: bool) -> None:
    """Every Byzantine attack there is, or the attack NAME: what it needs to know, what it changes, where it is from.

    Needs: K0 a liar's own update, K1 those of all liars, K2 every honest update of the round; +A: the server's rule as well.

    \b
    Examples:
      fl-eval attacks
      fl-eval attacks min_max
      fl-eval attacks --json
    """
    from edgehold.attacks.byzantine import registry

    cards = [registry.find(name)] if name else list(registry.ATTACKS.values())
    if as_json:
        click.echo(json.dumps([card.as_dict() for card in cards]))
    elif name:
        for key, value in cards[0].as_dict().items():
            click.echo(f"{key + ':':12} {json.dumps(value) if isinstance(value, dict) else value}")
    else:
        heads = ("attack", "needs", "NIST AI 100-2", "what it does", "source")
        rows = [(card.name, str(card.needs), card.nist, card.summary, card.source) for card in cards]
        click.echo(aligned(Table(f"{len(cards)} attacks", heads, rows)))


def _attacks(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from edgehold.attacks.inversion.catalogue import ATTACKS

        for one in ATTACKS.values():
            click.echo(f"{one.name:12} {one.summary}; needs: {one.needs}")
        ctx.exit()


@main.command()
@click.option("--transcript", required=True, type=click.Path(path_type=Path, dir_okay=False), help="What a server recorded.")
@click.option("--task", required=True, metavar="ENTRY", help="The run's task, package.module:function; as in server.toml.")
@click.option("--option", "options", multiple=True, callback=_pairs, metavar="K=V", help="Argument of the task; repeatable.")
@click.option(
    "--truth",
    multiple=True,
    callback=_pairs,
    metavar="K=V",
    help="What makes the task one device's own (device_index=0); its records are then shown and scored. Repeatable.",
)
@click.option("--attack", required=True, metavar="NAME", help="--list names them.")
@click.option("--client", "clients", multiple=True, metavar="ID", help="Clients to look at; all without this.")
@click.option("--round", "rounds", multiple=True, type=click.IntRange(1), help="Rounds to look at; the first without this.")
@click.option("--records", type=click.IntRange(1), help="How many to look for; what the client claims, without this.")
@click.option(
    "--restarts", default=3, show_default=True, type=click.IntRange(1), help="Of searches; the best by their own measure."
)
@click.option("--iterations", default=0, type=click.IntRange(0), help="Of searches; 0: the attack's own number.")
@click.option("--tv", type=click.FloatRange(0), help="Weight of total variation (cosine).")
@click.option("--seed", default=0, show_default=True, type=int)
@click.option("--out", required=True, type=_FOLDER, help="Where pictures and result.json go.")
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_attacks, help="Name every attack.")
@as_json_option
def invert(
    transcript: Path, task: str, options: dict[str, Any], truth: dict[str, Any], attack: str, clients: tuple[str, ...],
    rounds: tuple[int, ...], records: int | None, restarts: int, iterations: int, tv: float | None, seed: int, out: Path,
    as_json: bool,
) -> None:  # fmt: skip
    """Reconstruct training images from what the server of a run was able to see.

    A transcript is made by `fl-eval simulate --transcript FILE`, or by a real server whose server.toml names run and rounds
    under [record]. The attack reads the transcript, the server's own copy of the task (device_index = -1) and its test records,
    nothing else. --truth brings the device's records in for scoring alone. Updates with noise are attacked all the same; expect
    noise back. Ctrl-C stops after writing what is done.

    \b
    Examples:
      fl-eval simulate plan.toml --clients 4 --task edgehold.client.data.tasks:make_task --option dataset=fashion-mnist \\
          --option path=/data/fashion-mnist --option model=mlp --option limit=8 --transcript run.sqlite
      fl-eval invert --transcript run.sqlite --task edgehold.client.data.tasks:make_task --option dataset=fashion-mnist \\
          --option path=/data/fashion-mnist --option model=mlp --option devices=4 --option limit=8 \\
          --attack sparse --client c0000 --truth device_index=0 --out images
    """
    from edgehold.attacks.eval import invert as inverting

    found = inverting.run(inverting.Wish(
        transcript, task, options, truth, attack, clients, rounds, records, restarts, iterations, tv, seed, out
    ))  # fmt: skip
    if as_json:
        click.echo(json.dumps(found))
    else:
        rows = [[one["client"], str(one["round"]), str(one["found"]), inverting.told(one), f"{one['seconds']:.2f}", one["note"]]
                for one in found["results"]]  # fmt: skip
        heads = ["client", "round", "images", "PSNR", "seconds", "note"]
        click.echo(aligned(Table(f"{attack} on run {found['run']} ({found['method']}), in {out}", heads, rows)))
    sys.exit(130 if found["interrupted"] else 0)


_BEGIN, _END = "<!-- measured -->\n", "<!-- /measured -->"


@main.command()
@click.argument("result", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--into", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="Card whose table is renewed.")
def render(result: Path, into: Path | None) -> None:
    """Tables of RESULT, a file that `reproduce --json` wrote, as Markdown.

    --into puts them between <!-- measured --> and <!-- /measured --> of a method's card.
    """
    found = json.loads(result.read_text(encoding="utf-8"))
    quick = " --quick" if found["quick"] else ""
    data = " --data FOLDER" if any(cell["cell"].get("dataset", "digits") != "digits" for cell in found["cells"]) else ""
    text = markdown(found, f"fl-eval reproduce {found['method']}{quick} --seeds {found['seeds']}{data}")
    if into is None:
        click.echo(text)
        return
    before, begun, rest = into.read_text(encoding="utf-8").partition(_BEGIN)
    _, ended, after = rest.partition(_END)
    if not begun or not ended:
        raise ConfigError(
            f"{into}: has no place for measured tables: put {_BEGIN.strip()} and {_END.strip()} there", field="into"
        )
    into.write_text(before + begun + text + "\n" + ended + after, encoding="utf-8")


def _listed(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        for name in reproductions.REPRODUCTIONS:
            click.echo(f"{name:14} {reproductions.find(name).SUMMARY}")
        ctx.exit()


@main.command()
@click.argument("name")
@click.option("--seeds", default=5, show_default=True, type=click.IntRange(1), help="Runs behind each bar.")
@click.option("--data", type=_FOLDER, envvar="EDGEHOLD_DATA", help="Folder with a folder per data set [env: EDGEHOLD_DATA].")
@click.option("--quick", is_flag=True, help="Small data and few rounds: a minute, for continuous integration.")
@click.option("--out", type=_FOLDER, help="Keep finished runs here; asked again, those are not played again.")
@click.option("--workers", default=0, type=click.IntRange(0), help="Processes; 0: one per core.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), metavar="FILE",
              help="Also write the result here (- for standard output, without tables).")  # fmt: skip
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_listed, help="Name every reproduction.")
def reproduce(
    name: str, seeds: int, data: Path | None, quick: bool, out: Path | None, workers: int, json_file: Path | None
) -> None:
    """Reproduce what method NAME promises, bar by bar, scaled to one machine. Exit code 3 when a bar does not hold.

    \b
    Examples:
      fl-eval reproduce fedavg --quick
      fl-eval reproduce robust_rules --data /data --out cells --json robust_rules.json
    """
    began = time.monotonic()
    one = reproductions.find(name)
    if data is not None and not data.is_dir():
        raise ConfigError(f"data = {data}: no such folder", field="data")
    options = reproductions.Options(seeds, quick, data)
    played = cells.play_all(name, one.cells(options), data, out, workers or len(os.sched_getaffinity(0)))
    report = one.judge(options, played)
    found = {
        "method": name,
        "bars": [bar.as_dict() for bar in report.bars],
        "seconds": round(time.monotonic() - began, 1),
        "processor_seconds": round(sum(cell.seconds for cell in played), 1),
        "seeds": seeds,
        "quick": quick,
        "commits": sorted({cell.commit for cell in played}),
        "tables": [msgspec.to_builtins(table) for table in report.tables],
        "notes": list(report.notes),
        "cells": [msgspec.to_builtins(cell) for cell in played],
    }
    text = json.dumps(found, indent=1)
    if json_file is not None and str(json_file) == "-":
        click.echo(text)
    else:
        if json_file is not None:
            json_file.write_text(text + "\n", encoding="utf-8")
        click.echo(report.text())
        commits = ", ".join(sorted({cell.commit for cell in played}))
        click.echo(f"\n{len(played)} runs, {found['processor_seconds']:.0f} processor seconds, commit {commits}")
    sys.exit(0 if report.holds else MISSED)
