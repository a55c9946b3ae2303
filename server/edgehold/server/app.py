"""`fl-server`: set a federation up, serve it, run plans on it. Heavy imports stand inside the commands: help is quick."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgehold.core.command import Commands, as_json_option, version_option
from edgehold.core.errors import ConfigError

if TYPE_CHECKING:
    from edgehold.server.identity.ca import CertificateAuthority

HOME_VARIABLE = "EDGEHOLD_SERVER_HOME"

_home = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    envvar=HOME_VARIABLE,
    default=Path("fl-server"),
    show_default=True,
    help=f"Folder of this server [env: {HOME_VARIABLE}].",
)


@click.group(cls=Commands, epilog="Start with: fl-server init --federation NAME && fl-server serve")
@version_option
def main() -> None:
    """Run a federation: enrol devices, submit plans, watch rounds, take models away.

    A server lives in a folder (--home). `serve` is the daemon; the other commands talk to it over a local socket in that
    folder, so they need its owner's permissions and no password.
    """
    # Before gRPC is loaded: its own chatter would stand between our lines.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


@main.command()
@click.option("--federation", required=True, help="Name of the federation: a-z 0-9 _ -, at most 64.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Name or address under which devices reach this server.")
@click.option("--port", default=8470, show_default=True, help="First of four ports (rounds, enrolment, renewal, metrics).")
@_home
@as_json_option
def init(federation: str, host: str, port: int, home: Path, as_json: bool) -> None:
    """Make a home: configuration, certificate authority, the server's and an operator's identity.

    Example: fl-server init --federation clinics --host fl.example.org --home /var/lib/fl-server
    """
    from edgehold.server.desk.setup import initialise

    initialise(home, federation, host, port)
    if as_json:
        click.echo(json.dumps({"home": str(home), "federation": federation}))
    else:
        click.echo(f"Federation {federation} is set up in {home}.")
        click.echo(
            f"Next: read {home / 'server.toml'}, then `fl-server check --home {home}` and `fl-server serve --home {home}`."
        )


@main.command()
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_default=True)
@_home
@as_json_option
def serve(log_format: Any, log_level: str, home: Path, as_json: bool) -> None:
    """Serve until SIGTERM or Ctrl-C (once: finish what is on the wire; twice: now). Unfinished runs go on at the next start.

    Example: fl-server serve --home /var/lib/fl-server --log-format json
    """
    import asyncio

    from edgehold.core import logs
    from edgehold.server.config import load
    from edgehold.server.daemon import Daemon

    logs.setup("json" if as_json else log_format, log_level)

    def ready(daemon: Daemon) -> None:
        # One line on standard output, so that whoever started us knows where we listen.
        click.echo(json.dumps({"ready": daemon.addresses}))
        sys.stdout.flush()

    sys.exit(asyncio.run(Daemon(home, load(home)).run(ready)))


@main.command()
@click.argument("plan", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--detach", is_flag=True, help="Submit and return; watch later with `fl-server watch`.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the final model here (safetensors).")
@_home
@as_json_option
def run(plan: Path, detach: bool, out: Path | None, home: Path, as_json: bool) -> None:
    """Check a plan, submit it, and watch it to its end. Ctrl-C stops watching, not the run.

    Example: fl-server run plan.toml --out model.safetensors
    """
    from edgehold.core.plan import parse_plan
    from edgehold.defenses import registry
    from edgehold.proto.v1 import admin_pb2 as pb
    from edgehold.server.desk.operator import ask, submission

    try:
        text = plan.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{plan}: cannot be read: {error}") from None
    parsed, _ = parse_plan(text, registry.method, str(plan))
    reply = ask(home, lambda stub: stub.collect("SubmitRun", submission(parsed, text, plan), pb.SubmitRunResponse))
    if detach:
        click.echo(json.dumps({"run": reply.run}) if as_json else f"Run {reply.run} is submitted.")
        return
    _watch(reply.run, home, as_json, out)


@main.command()
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the final model here (safetensors).")
@_home
@as_json_option
def watch(name: str, out: Path | None, home: Path, as_json: bool) -> None:
    """Watch a run to its end; rounds of the past are shown first.

    Example: fl-server watch digits-clean
    """
    _watch(name, home, as_json, out)


def _watch(run: str, home: Path, as_json: bool, out: Path | None) -> None:
    from edgehold.proto.v1 import admin_pb2 as pb
    from edgehold.server.desk import show
    from edgehold.server.desk.operator import ask

    request = pb.WatchRunRequest(run=run, from_round=1)
    try:
        last = ask(home, lambda stub: show.follow(stub.stream("WatchRun", request, pb.WatchRunResponse), as_json))
    except KeyboardInterrupt:
        click.echo(f"\nThe run goes on; come back with `fl-server watch {run}`.", err=True)
        sys.exit(130)
    if not as_json:
        click.echo(show.runs([last]))
    if last.state == "finished" and out is not None:
        _fetch(run, 0, out, home)
    if last.state == "failed":
        raise ConfigError(f"run {run} failed: {last.error}")


@main.command()
@click.argument("name")
@_home
@as_json_option
def stop(name: str, home: Path, as_json: bool) -> None:
    """Stop a run where it is; `fl-server resume` goes on from there.

    Example: fl-server stop digits-clean
    """
    from edgehold.proto.v1 import admin_pb2 as pb
    from edgehold.server.desk.operator import ask

    ask(home, lambda stub: stub.unary("StopRun", pb.StopRunRequest(run=name), pb.StopRunResponse))
    click.echo(json.dumps({"run": name, "state": "stopped"}) if as_json else f"Run {name} is stopped.")


@main.command()
@click.argument("name")
@_home
@as_json_option
def resume(name: str, home: Path, as_json: bool) -> None:
    """Go on with a stopped or failed run.

    Example: fl-server resume digits-clean && fl-server watch digits-clean
    """
    from edgehold.proto.v1 import admin_pb2 as pb
    from edgehold.server.desk.operator import ask

    ask(home, lambda stub: stub.unary("ResumeRun", pb.ResumeRunRequest(run=name), pb.ResumeRunResponse))
    click.echo(json.dumps({"run": name, "state": "running"}) if as_json else f"Run {name} goes on.")


@main.command()
@_home
@as_json_option
def status(home: Path, as_json: bool) -> None:
    """The server at a glance: runs past and present, clients, refusals.

    Example: fl-server status --json
    """
    from edgehold.proto.v1 import admin_pb2 as pb
    from edgehold.server.desk import show
    from edgehold.server.desk.operator import ask

    reply = ask(home, lambda stub: stub.unary("GetStatus", pb.GetStatusRequest(), pb.GetStatusResponse))
    if as_json:
        click.echo(json.dumps(show.plain(reply)))
        return
    click.echo(
        f"federation {reply.federation}, edgehold {reply.software}, boot {reply.boot_epoch}, listening on {reply.listen}"
    )
    click.echo(f"{reply.clients_connected} of {reply.clients_active} active clients connected; up {reply.uptime_s:.0f} s")
    if reply.rejections:
        click.echo("refused so far: " + ", ".join(f"{code} {count}" for code, count in sorted(reply.rejections.items())))
    click.echo(show.runs(list(reply.runs)) if reply.runs else "no runs yet; submit one with `fl-server run plan.toml`")


@main.command()
@_home
@as_json_option
def clients(home: Path, as_json: bool) -> None:
    """The roster: who is enrolled, connected, suspended, revoked.

    Example: fl-server clients
    """
    from edgehold.proto.v1 import admin_pb2 as pb
    from edgehold.server.desk import show
    from edgehold.server.desk.operator import ask

    reply = ask(home, lambda stub: stub.unary("ListClients", pb.ListClientsRequest(), pb.ListClientsResponse))
    if as_json:
        click.echo(json.dumps(show.plain(reply)["clients"]))
    else:
        click.echo(show.clients(list(reply.clients)) if reply.clients else "no clients yet; `fl-server token NAME` adds one")


@main.command()
@click.argument("client")
@click.option("--life-h", default=1.0, show_default=True, help="Hours the token is good for; 24 at most.")
@click.option("--task", "tasks", multiple=True, help="Task the client may be given; repeat it. Default: any.")
@click.option(
    "--only", "part", type=click.Choice(["roster", "token"]),
    help="Where server and enrolment key belong to different users: each runs its half.",
)  # fmt: skip
@_home
@as_json_option
def token(client: str, life_h: float, tasks: tuple[str, ...], part: Any, home: Path, as_json: bool) -> None:
    """Add a client to the roster and mint its one-time enrolment bundle.

    Hand the bundle over confidentially: it opens the federation to whoever redeems it first. Minting one for a client that
    is enrolled already makes its earlier certificates worthless.

    Example: fl-server token ward-7 > ward-7.bundle
    """
    from edgehold.server.desk.operator import mint

    bundle = mint(home, client, life_h * 3600.0, tasks, part or "both")
    click.echo(json.dumps({"client": client, "bundle": bundle}) if as_json else bundle or f"{client} is on the roster.")


@main.command()
@click.argument("client")
@click.option("--suspend", is_flag=True, help="For now only; `--reactivate` undoes it.")
@click.option("--reactivate", is_flag=True, help="Let a suspended client back in.")
@_home
@as_json_option
def revoke(client: str, suspend: bool, reactivate: bool, home: Path, as_json: bool) -> None:
    """Shut a client out: new calls are refused at once, open streams are cut, its update of the open round does not count.

    Example: fl-server revoke ward-7
    """
    from edgehold.proto.v1 import admin_pb2 as pb
    from edgehold.server.desk.operator import ask

    if suspend and reactivate:
        raise ConfigError("--suspend and --reactivate exclude each other")
    state = "suspended" if suspend else "active" if reactivate else "revoked"
    request = pb.SetClientStateRequest(client_id=client, state=state)
    ask(home, lambda stub: stub.unary("SetClientState", request, pb.SetClientStateResponse))
    click.echo(json.dumps({"client": client, "state": state}) if as_json else f"Client {client} is {state}.")


@main.command()
@click.argument("run", required=False)
@click.option("--round", "number", default=0, help="A certain round; default: the newest.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the model here (safetensors).")
@_home
@as_json_option
def models(run: str | None, number: int, out: Path | None, home: Path, as_json: bool) -> None:
    """List the models of all runs, or write one to a file.

    Example: fl-server models digits-clean --out model.safetensors
    """
    from edgehold.proto.v1 import admin_pb2 as pb
    from edgehold.server.desk import show
    from edgehold.server.desk.operator import ask

    if run is not None and out is not None:
        _fetch(run, number, out, home)
        click.echo(json.dumps({"run": run, "file": str(out)}) if as_json else f"{out}: {show.size(out.stat().st_size)}")
        return
    if run is not None or out is not None:
        raise ConfigError("name a run and --out FILE to write its model; without both, models are listed")
    reply = ask(home, lambda stub: stub.unary("GetStatus", pb.GetStatusRequest(), pb.GetStatusResponse))
    have = [info for info in reply.runs if info.model_digest]
    if as_json:
        click.echo(json.dumps([show.plain(info) for info in have]))
    else:
        click.echo(show.runs(have) if have else "no models yet")


def _fetch(run: str, number: int, out: Path, home: Path) -> None:
    from edgehold.proto.channel import Stub
    from edgehold.proto.v1 import admin_pb2 as pb
    from edgehold.server.desk.operator import ask

    temporary = out.with_name(out.name + ".part")

    async def go(stub: Stub) -> None:
        with temporary.open("wb") as file:
            async for part in stub.stream("GetModel", pb.GetModelRequest(run=run, round=number), pb.GetModelResponse):
                file.write(part.data)

    ask(home, go)
    temporary.rename(out)


@main.group(invoke_without_command=True)
@_home
@as_json_option
@click.pass_context
def roots(ctx: click.Context, home: Path, as_json: bool) -> None:
    """The trusted root certificates, and how to replace one without stopping a round.

    Rotation: `roots add`; wait one certificate life (24 h), until every client has renewed; `roots use NEW`; wait once more;
    `roots remove OLD`. Works while the server runs.

    Example: fl-server roots add && fl-server roots
    """
    if ctx.invoked_subcommand is None:
        _show_roots(home, as_json)


def _show_roots(home: Path, as_json: bool) -> None:
    from cryptography.hazmat.primitives.serialization import Encoding

    from edgehold.core.keys import fingerprint
    from edgehold.server.desk import show

    authority = _authority(home)
    current = authority.current()
    found = [
        {
            "fingerprint": fingerprint(root.public_bytes(Encoding.DER)).hex(), "signs": root == current,
            "valid_until": root.not_valid_after_utc.strftime("%Y-%m-%d"),
        }
        for root in authority.roots()
    ]  # fmt: skip
    if as_json:
        click.echo(json.dumps(found))
    else:
        rows = [[str(one["fingerprint"]), "yes" if one["signs"] else "no", str(one["valid_until"])] for one in found]
        click.echo(show.table(["FINGERPRINT", "SIGNS", "VALID UNTIL"], rows))


@roots.command("add")
@_home
@as_json_option
def add_root(home: Path, as_json: bool) -> None:
    """Make and trust a second root, which does not sign yet.

    Example: fl-server roots add
    """
    _authority(home).add_root()
    _show_roots(home, as_json)


@roots.command("use")
@click.argument("fingerprint")
@_home
@as_json_option
def use_root(fingerprint: str, home: Path, as_json: bool) -> None:
    """From now on sign with this trusted root.

    Example: fl-server roots use 3f9a...
    """
    _authority(home).use_root(_hex(fingerprint))
    _show_roots(home, as_json)


@roots.command("remove")
@click.argument("fingerprint")
@_home
@as_json_option
def remove_root(fingerprint: str, home: Path, as_json: bool) -> None:
    """Stop trusting a root: whatever it signed is refused from the next handshake on.

    Example: fl-server roots remove 71c0...
    """
    _authority(home).remove_root(_hex(fingerprint))
    _show_roots(home, as_json)


def _authority(home: Path) -> "CertificateAuthority":
    from edgehold.server.config import load
    from edgehold.server.identity.ca import CertificateAuthority

    return CertificateAuthority(load(home).ca_folder(home))


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ConfigError(f"{text[:80]!r} is no fingerprint; `fl-server roots` lists them") from None


@main.command()
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--equip", is_flag=True, help="Renew the server's own certificate under identity/ (30 days) and exit.")
@_home
@as_json_option
def enrolment(log_format: Any, equip: bool, home: Path, as_json: bool) -> None:
    """Host enrolment and renewal alone, for a server with `enrolment = "apart"`: only this process reads the enrolment key.

    Run it as a user of its own, better on a host of its own, on a home with server.toml and the ca folder; give the server
    server.toml, identity/ and, of the ca folder, only roots/. The server reads identity/ anew for every handshake.

    Example: fl-server enrolment --home /var/lib/fl-enrolment
    """
    import asyncio

    from edgehold.core import logs
    from edgehold.server.config import load
    from edgehold.server.wire.apart import serve_enrolment

    logs.setup("json" if as_json else log_format, "info")
    if equip:
        config = load(home).server
        _authority(home).equip("server", config.name, home / "identity", hosts=config.host_names)
        click.echo(json.dumps({"renewed": "identity"}) if as_json else f"{home / 'identity'} is renewed.")
        return

    def ready(addresses: dict[str, str]) -> None:
        click.echo(json.dumps({"ready": addresses}))
        sys.stdout.flush()

    asyncio.run(serve_enrolment(home, load(home), ready))


@main.command()
@click.option("--plan", type=click.Path(path_type=Path, dir_okay=False), help="Also check this plan.")
@_home
@as_json_option
def check(plan: Path | None, home: Path, as_json: bool) -> None:
    """Look for everything that would keep the server from working: keys, permissions, disk, clock, ports, plan.

    Example: fl-server check --plan plan.toml
    """
    from edgehold.core.command import report
    from edgehold.server.desk.preflight import findings

    report(findings(home, plan), as_json)
