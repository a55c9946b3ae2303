"""`fl-server export`: hand a model to devices that only run it."""

import json
from pathlib import Path
from typing import Any

import click

from edgehold.core.command import as_json_option
from edgehold.server.desk.options import home_option


@click.command()
@click.argument("run")
@click.option(
    "--format", "form", type=click.Choice(["onnx", "vote"]), default="onnx", show_default=True,
    help="onnx: a graph with its weights; vote: a bit per weight, from which the device draws them (frl, hidenseek).",
)  # fmt: skip
@click.option("--int8", is_flag=True, help="Eight-bit weights and activations, calibrated with the task's test records.")
@click.option("--round", "number", default=0, help="A certain round; default: the newest.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder to write; default: RUN-ROUND.")
@click.option(
    "--records",
    default=1000,
    show_default=True,
    type=click.IntRange(1),
    help="Real records that graph and task are compared on.",
)
@home_option
@as_json_option
def export(
    run: str, form: str, int8: bool, number: int, out: Path | None, records: int, home: Path, as_json: bool
) -> None:  # fmt: skip
    """Write a model as a folder that devices check before they run it: graph, signed manifest, certificate of parity.

    The server's own copy of the task says what surrounds the weights, and its test records what the graph is compared on. On a
    device: `fl-client deploy FOLDER --task NAME`, then `fl-client infer` or `fl-client detect`.

    Example: fl-server export digits-clean --format onnx --int8 --out digits-int8
    """
    from edgehold.core.handover import PARITY
    from edgehold.server.desk import handing, show

    folder, bundle = handing.export(home, handing.Wish(run, number, form, int8, records), out)
    manifest = bundle.manifest
    parity: dict[str, Any] = json.loads(bundle.files.get(PARITY, b"{}"))
    if as_json:
        said = {"folder": str(folder), "manifest": json.loads(bundle.data), "manifest_sha256": bundle.digest, "parity": parity}
        click.echo(json.dumps(said))
        return
    click.echo(
        f"{folder}: {manifest.method} model of run {manifest.run}, round {manifest.round}, {manifest.form} {manifest.numbers}"
    )
    click.echo(f"  {manifest.model}  {show.size(len(bundle.model))}, manifest {bundle.digest[:16]}...")
    if parity:
        for line in show.parity(parity):
            click.echo(f"  {line}")


COMMANDS = (export,)
