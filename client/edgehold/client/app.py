"""`fl-client`: enrol a device, run its daemon, look at it. Heavy imports stand inside the commands: help is quick."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgehold.core.command import Commands, as_json_option, version_option
from edgehold.core.errors import ConfigError

HOME_VARIABLE = "EDGEHOLD_CLIENT_HOME"

_home = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    envvar=HOME_VARIABLE,
    default=Path("fl-client"),
    show_default=True,
    help=f"Folder of this client [env: {HOME_VARIABLE}].",
)


@click.group(cls=Commands, epilog="Start with: fl-client enroll --bundle @bundle.txt && fl-client check && fl-client run")
@version_option
def main() -> None:
    """Train together without handing over data: the daemon of one device.

    A client lives in a folder (--home) with client.toml (its tasks), policy.toml (what its owner allows) and its identity.
    """


@main.command()
@click.option(
    "--bundle", required=True, metavar="TEXT|@FILE|-", help="What the operator's `fl-server token` printed; - reads stdin."
)
@click.option("--allow-unmasked", is_flag=True, help="Write a first policy under which single updates may leave in the clear.")
@_home
@as_json_option
def enroll(bundle: str, allow_unmasked: bool, home: Path, as_json: bool) -> None:
    """Make this device's keys and fetch its certificate with a one-time bundle.

    Leaves a commented policy.toml and client.toml where there are none.

    Example: fl-client enroll --bundle @bundle.txt --home /var/lib/fl-client
    """
    import asyncio

    from edgehold.client import enrol, identity
    from edgehold.client.config import TEMPLATE, Home
    from edgehold.client.policy import template
    from edgehold.core.keys import decode_bundle

    places, decoded = Home(home), decode_bundle(_text(bundle))
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    asyncio.run(enrol.enrol(decoded, places.identity))
    for path, text in ((places.config, TEMPLATE), (places.policy, template(allow_unmasked))):
        if not path.exists():
            path.write_text(text, encoding="utf-8")
    found = identity.load(places.identity)
    if as_json:
        said = {"client": found.client_id, "federation": found.federation, "expires_s": found.expires_s, "home": str(home)}
        click.echo(json.dumps(said))
    else:
        click.echo(f"{found.client_id} is enrolled in {found.federation}.")
        click.echo(f"Next: name your tasks in {places.config}, read {places.policy}, then `fl-client check --home {home}`.")


def _text(bundle: str) -> str:
    """The bundle itself, or what the file or stdin it points to holds."""
    if bundle == "-":
        return sys.stdin.read()
    if bundle.startswith("@"):
        try:
            return Path(bundle[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--bundle {bundle}: cannot be read: {error}") from None
    return bundle


@main.command()
@click.option(
    "--home",
    "homes",
    type=click.Path(path_type=Path, file_okay=False),
    multiple=True,
    help=f"Folder of a client; repeat it to hold several clients in one process [env: {HOME_VARIABLE}; default: fl-client].",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Overrides [log] format of client.toml.")
@click.option("--json", "as_json", is_flag=True, help="Same as --log-format json.")
def run(homes: tuple[Path, ...], log_format: str | None, as_json: bool) -> None:
    """Connect, wait for tasks, train, upload; until SIGTERM. SIGHUP reads policy.toml again.

    Example: fl-client run --home /var/lib/fl-client --log-format json
    """
    # Before gRPC is loaded: its own chatter would break the one-object-a-line log.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from edgehold.core import loading, logs

    with loading.for_good():
        from edgehold.client.config import Home, load_config
        from edgehold.client.policy import load_policy

    folders = homes or (Path(os.environ.get(HOME_VARIABLE) or "fl-client"),)
    places = [Home(folder) for folder in folders]
    for place in places:
        load_policy(place.policy)  # fail closed, before anything else
    configs = [load_config(place.config) for place in places]
    logs.setup(
        "json" if as_json or log_format == "json" else "text" if log_format else configs[0].log.format, configs[0].log.level
    )
    with loading.for_good():
        from edgehold.client import daemon

    sys.exit(daemon.run(places, configs))


@main.command()
@_home
@as_json_option
def status(home: Path, as_json: bool) -> None:
    """Is the daemon up, is it connected, and what has it done?

    Example: fl-client status --json
    """
    from edgehold.client.config import Home
    from edgehold.client.daemon import is_running
    from edgehold.client.keep import read_status

    places = Home(home)
    said: dict[str, Any] = read_status(places.keep)
    said["running"] = is_running(places)
    said["connected"] = said["running"] and said.get("connected") == "True"
    if as_json:
        click.echo(json.dumps(said))
        return
    for key in ("client", "running", "connected", "server", "error", "rounds_today", "tasks", "runs"):
        if said.get(key) not in (None, "", {}):
            click.echo(f"{key:13} {said[key]}")


@main.group(invoke_without_command=True)
@_home
@as_json_option
@click.pass_context
def policy(ctx: click.Context, home: Path, as_json: bool) -> None:
    """Show what the device's owner allows, and where that is written.

    Example: fl-client policy --json; fl-client policy check draft.toml
    """
    if ctx.invoked_subcommand is None:
        from edgehold.client.config import Home

        _show_policy(Home(home).policy, as_json)


@policy.command("check")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@as_json_option
def check_policy(file: Path, as_json: bool) -> None:
    """Test a draft before putting it in force; exit code 1 when it is wrong.

    Example: fl-client policy check draft.toml && cp draft.toml fl-client/policy.toml
    """
    _show_policy(file, as_json)


def _show_policy(path: Path, as_json: bool) -> None:
    import msgspec

    from edgehold.client.policy import load_policy

    values: dict[str, Any] = msgspec.to_builtins(load_policy(path))
    if as_json:
        click.echo(json.dumps({"source": str(path.absolute()), "policy": values}))
        return
    click.echo(f"# {path.absolute()}")
    for key, value in values.items():
        click.echo(f"{key} = {json.dumps(value)}")


@main.command()
@click.option("--dataset", help="Only this data set.")
@_home
@as_json_option
def ledger(dataset: str | None, home: Path, as_json: bool) -> None:
    """The bill: what every run has spent of the privacy budgets in policy.toml, and what is left.

    Epsilon is that of the data set after the line, at the delta of its budget. Nothing here is ever refunded.

    Example: fl-client ledger --home /var/lib/fl-client; fl-client ledger --dataset patients --json
    """
    from edgehold.client.config import Home
    from edgehold.client.policy import load_policy
    from edgehold.core.privacy.bill import bill, told
    from edgehold.core.privacy.ledger import Limit

    places = Home(home)
    budgets = {name: Limit(one.max_epsilon, one.delta) for name, one in load_policy(places.policy).budgets.items()}
    found = bill(places.ledger, budgets, dataset)
    click.echo(json.dumps(found) if as_json else told(found))


@main.command()
@_home
@as_json_option
def check(home: Path, as_json: bool) -> None:
    """Look for everything that would keep this device from taking part; exit code 1 when something would.

    Example: fl-client check --home /var/lib/fl-client
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from edgehold.client.config import Home
    from edgehold.client.preflight import findings
    from edgehold.core.command import report

    report(findings(Home(home)), as_json)


@main.command()
@click.argument("model")
@click.argument("source", default="-")
@click.option("--task", help="Task of client.toml whose columns the model has.")
@click.option("--columns", help="The model's columns in their order: a,b,c or @FILE with a line for each.")
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), help="Default: told by the first byte.")
@click.option("--delimiter", default=",", show_default=True, help="Between the fields of a CSV record.")
@click.option("--follow", is_flag=True, help="Wait for more at the end of the file, as `tail -f` does.")
@click.option("--alarms-only", is_flag=True, help="Write nothing about records that raise no alarm.")
@click.option("--skip-bad", is_flag=True, help="Skip and count records that cannot be read, instead of ending.")
@click.option("--threshold", type=float, help="Alarm above this score, instead of the model's own threshold.")
@_home
@as_json_option
def detect(
    model: str, source: str, task: str | None, columns: str | None, form: Any, delimiter: str, follow: bool, alarms_only: bool,
    skip_bad: bool, threshold: float | None, home: Path, as_json: bool,
) -> None:  # fmt: skip
    """Score records against a MODEL of FedPCA: its file, a folder of `fl-server export`, or deployed:TASK.

    SOURCE: a file, or - for standard input; CSV with a header, or JSON lines.

    Writes one JSON object a line: record (counted from 1), score, threshold, alarm. Counts stand on standard error at the end,
    also after Ctrl-C. Columns are found by name; --task or --columns say which, and that they are the model's is checked.

    Example: tail -f flows.csv | fl-client detect model.safetensors --task flows --alarms-only
    """
    from edgehold.client import detect as logic

    if task and columns:
        raise ConfigError("--task and --columns exclude each other", field="columns")
    if follow and source == "-":
        raise ConfigError("--follow needs a file; standard input is read until it ends anyway", field="follow")
    names = logic.columns_of(home, task) if task else tuple(_text(columns).replace("\n", ",").split(",")) if columns else ()
    wish = logic.Wish(
        model, tuple(name.strip() for name in names if name.strip()), threshold, form or "", delimiter, alarms_only, skip_bad
    )
    counts = logic.Counts()
    try:
        logic.detect(wish, source, follow, sys.stdout, counts, home)
    finally:
        if counts.threshold:
            click.echo(json.dumps(counts.as_dict()) if as_json else counts.told(), err=True)


@main.command()
@click.argument("model")
@click.argument("source", default="-")
@click.option("--delimiter", default=",", show_default=True, help="Between the fields of a CSV record.")
@click.option("--follow", is_flag=True, help="Wait for more at the end of the file, as `tail -f` does.")
@click.option("--scores", is_flag=True, help="Write all outputs of each record.")
@click.option("--skip-bad", is_flag=True, help="Skip and count records that cannot be read, instead of ending.")
@_home
@as_json_option
def infer(
    model: str, source: str, delimiter: str, follow: bool, scores: bool, skip_bad: bool, home: Path, as_json: bool
) -> None:  # fmt: skip
    """Run a MODEL that was handed over: a folder of `fl-server export`, or deployed:TASK. Its signature is checked first.

    SOURCE: a .npy file of records, JSON arrays or objects a line, or CSV with a header; - for standard input. One JSON object a
    line comes out. A model that is deployed meanwhile takes over between two blocks of records.

    Example: fl-client infer deployed:digits records.npy
    """
    from edgehold.client import infer as logic

    if follow and source == "-":
        raise ConfigError("--follow needs a file; standard input is read until it ends anyway", field="follow")
    counts = logic.Counts()
    try:
        logic.infer(logic.Wish(model, scores, skip_bad, delimiter), home, source, follow, sys.stdout, counts)
    finally:
        if counts.model:
            click.echo(json.dumps(asdict(counts)) if as_json else counts.told(), err=True)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--task", help="Task whose model it is; default: as its manifest says.")
@click.option("--allow-older", is_flag=True, help="Take a model older than one that was deployed before.")
@_home
@as_json_option
def deploy(folder: Path, task: str | None, allow_older: bool, home: Path, as_json: bool) -> None:
    """Check a FOLDER of `fl-server export` and put its model in force; the former one stays beside it.

    Refused, with the former model left in force: a wrong signature, another federation, an older round, outputs that are not
    those of the exporting server.

    Example: fl-client deploy digits-clean-30 --home /var/lib/fl-client
    """
    from edgehold.client import identity, received
    from edgehold.client.config import Home
    from edgehold.client.deployed import Deployed

    places = Home(home)
    credentials = identity.load(places.identity)
    name = task or received.proved(folder, credentials).manifest.task
    model = Deployed(places.deployed, name, credentials).deploy(folder, allow_older)
    _told(name, model.bundle, as_json, "in force")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--task", required=True, help="Task of client.toml with which this device took part in the run.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write.")
@_home
@as_json_option
def personal(folder: Path, task: str, out: Path, home: Path, as_json: bool) -> None:
    """Make this device's own model of a run of hyperfl or bristle from the server's FOLDER.

    It is compared with the task's own arithmetic on own records and signed by this device. Local state stays here; deploy what
    comes out as any other model.

    Example: fl-client personal wards-40 --task wards --out my-model && fl-client deploy my-model
    """
    from edgehold.client.personal import personal as make

    bundle = make(folder, home, task, out)
    _told(task, bundle, as_json, f"{out} is written")


@main.command()
@click.option("--task", required=True, help="Task whose previous model shall run again.")
@_home
@as_json_option
def rollback(task: str, home: Path, as_json: bool) -> None:
    """Put the model in force that ran before the present one; used twice, it comes back.

    Example: fl-client rollback --task digits
    """
    from edgehold.client import identity
    from edgehold.client.config import Home
    from edgehold.client.deployed import Deployed

    places = Home(home)
    model = Deployed(places.deployed, task, identity.load(places.identity)).rollback()
    _told(task, model.bundle, as_json, "in force again")


@main.command()
@_home
@as_json_option
def deployed(home: Path, as_json: bool) -> None:
    """What is deployed here: by task, the model in force and the previous one.

    Example: fl-client deployed --json
    """
    from edgehold.client import deployed as logic
    from edgehold.client import identity, received
    from edgehold.client.config import Home

    places = Home(home)
    credentials = identity.load(places.identity)
    found: list[dict[str, Any]] = []
    for task in logic.tasks(places.deployed):
        store = logic.Deployed(places.deployed, task, credentials)
        now = store.in_force()
        assert now is not None, "listed by its pointer"
        manifest = received.proved(store.folder / now.current, credentials).manifest
        found.append(
            {
                "task": task, "run": manifest.run, "round": manifest.round, "method": manifest.method, "form": manifest.form,
                "numbers": manifest.numbers, "current": now.current, "previous": now.previous, "since_unix_s": now.since_s,
            }
        )  # fmt: skip
    if as_json:
        click.echo(json.dumps(found))
        return
    for one in found:
        click.echo(
            f"{one['task']}: run {one['run']} round {one['round']} ({one['method']}, {one['form']} {one['numbers']}), "
            f"{one['current'][:12]}, before {one['previous'][:12] or 'none'}"
        )
    if not found:
        click.echo("nothing is deployed; see `fl-client deploy --help`")


def _told(task: str, bundle: Any, as_json: bool, done: str) -> None:
    manifest = bundle.manifest
    if as_json:
        click.echo(json.dumps({"task": task, "run": manifest.run, "round": manifest.round, "manifest_sha256": bundle.digest}))
        return
    click.echo(f"{task}: run {manifest.run} round {manifest.round} ({manifest.form} {manifest.numbers}); {done}.")
