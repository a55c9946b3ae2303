"""`fl-server run|watch|stop|resume|status|models`: plans, rounds, models. Heavy imports stand inside the commands."""

import json
import sys
from pathlib import Path

import click

from edgehold.core.command import as_json_option
from edgehold.core.errors import ConfigError
from edgehold.server.desk.options import home_option


@click.command()
@click.argument("plan", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--detach", is_flag=True, help="Submit and return; watch later with `fl-server watch`.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the final model here (safetensors).")
@home_option
@as_json_option
def run(plan: Path, detach: bool, out: Path | None, home: Path, as_json: bool) -> None:
    """Check a plan, submit it, and watch it to its end. Ctrl-C stops watching, not the run.

    Example: fl-server run plan.toml --out model.safetensors
    """
    from edgehold.core.plan import parse_plan
    from edgehold.defenses import registry
    from edgehold.server.desk.operator import ask, submit

    try:
        text = plan.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{plan}: cannot be read: {error}") from None
    parsed, _ = parse_plan(text, registry.method, str(plan))
    name = ask(home, lambda stub: submit(stub, parsed, text, plan))
    if detach:
        click.echo(json.dumps({"run": name}) if as_json else f"Run {name} is submitted.")
        return
    _watch(name, home, as_json, out)


@click.command()
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the final model here (safetensors).")
@home_option
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


@click.command()
@click.argument("name")
@home_option
@as_json_option
def stop(name: str, home: Path, as_json: bool) -> None:
    """Stop a run where it is; `fl-server resume` goes on from there.

    Example: fl-server stop digits-clean
    """
    from edgehold.proto.v1 import admin_pb2 as pb
    from edgehold.server.desk.operator import ask

    ask(home, lambda stub: stub.unary("StopRun", pb.StopRunRequest(run=name), pb.StopRunResponse))
    click.echo(json.dumps({"run": name, "state": "stopped"}) if as_json else f"Run {name} is stopped.")


@click.command()
@click.argument("name")
@home_option
@as_json_option
def resume(name: str, home: Path, as_json: bool) -> None:
    """Go on with a stopped or failed run.

    Example: fl-server resume digits-clean && fl-server watch digits-clean
    """
    from edgehold.proto.v1 import admin_pb2 as pb
    from edgehold.server.desk.operator import ask

    ask(home, lambda stub: stub.unary("ResumeRun", pb.ResumeRunRequest(run=name), pb.ResumeRunResponse))
    click.echo(json.dumps({"run": name, "state": "running"}) if as_json else f"Run {name} goes on.")


@click.command()
@home_option
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


@click.command()
@click.argument("run", required=False)
@click.option("--round", "number", default=0, help="A certain round; default: the newest.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the model here (safetensors).")
@home_option
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


COMMANDS = (run, watch, stop, resume, status, models)
