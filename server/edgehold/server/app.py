"""`fl-server`: set a federation up, serve it, run plans on it. Heavy imports stand inside the commands: help is quick."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from edgehold.core.command import Commands, as_json_option, version_option
from edgehold.server.desk import export_commands, people_commands, privacy_commands, run_commands
from edgehold.server.desk.options import home_option


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
@home_option
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
@home_option
@as_json_option
def serve(log_format: Any, log_level: str, home: Path, as_json: bool) -> None:
    """Serve until SIGTERM or Ctrl-C (once: finish what is on the wire; twice: now). Unfinished runs go on at the next start.

    Example: fl-server serve --home /var/lib/fl-server --log-format json
    """
    from edgehold.core import allocator, loading, logs

    with loading.for_good():
        import asyncio

        from edgehold.server.config import load
        from edgehold.server.daemon import Daemon

    allocator.few_arenas()
    logs.setup("json" if as_json else log_format, log_level)

    def ready(daemon: Daemon) -> None:
        # One line on standard output, so that whoever started us knows where we listen.
        click.echo(json.dumps({"ready": daemon.addresses}))
        sys.stdout.flush()

    sys.exit(asyncio.run(Daemon(home, load(home)).run(ready)))


@main.command()
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--equip", is_flag=True, help="Renew the server's own certificate under identity/ (30 days) and exit.")
@home_option
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
    from edgehold.server.identity.ca import CertificateAuthority
    from edgehold.server.wire.apart import serve_enrolment

    logs.setup("json" if as_json else log_format, "info")
    config = load(home)
    if equip:
        authority = CertificateAuthority(config.ca_folder(home))
        authority.equip("server", config.server.name, home / "identity", hosts=config.server.host_names)
        click.echo(json.dumps({"renewed": "identity"}) if as_json else f"{home / 'identity'} is renewed.")
        return

    def ready(addresses: dict[str, str]) -> None:
        click.echo(json.dumps({"ready": addresses}))
        sys.stdout.flush()

    asyncio.run(serve_enrolment(home, config, ready))


@main.command()
@click.option("--plan", type=click.Path(path_type=Path, dir_okay=False), help="Also check this plan.")
@home_option
@as_json_option
def check(plan: Path | None, home: Path, as_json: bool) -> None:
    """Look for everything that would keep the server from working: keys, permissions, disk, clock, ports, plan.

    Example: fl-server check --plan plan.toml
    """
    from edgehold.core.command import report
    from edgehold.server.desk.preflight import findings

    report(findings(home, plan), as_json)


for command in (*run_commands.COMMANDS, *export_commands.COMMANDS, *privacy_commands.COMMANDS, *people_commands.COMMANDS):
    main.add_command(command)
