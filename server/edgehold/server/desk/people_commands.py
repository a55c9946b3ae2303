"""`fl-server clients|token|revoke|roots`: who belongs to the federation. Heavy imports stand inside the commands."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgehold.core.command import as_json_option
from edgehold.core.errors import ConfigError
from edgehold.server.desk.options import home_option

if TYPE_CHECKING:
    from edgehold.server.identity.ca import CertificateAuthority


@click.command()
@home_option
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


@click.command()
@click.argument("client")
@click.option("--life-h", default=1.0, show_default=True, help="Hours the token is good for; 24 at most.")
@click.option("--task", "tasks", multiple=True, help="Task the client may be given; repeat it. Default: any.")
@click.option(
    "--only", "part", type=click.Choice(["roster", "token"]),
    help="Where server and enrolment key belong to different users: each runs its half.",
)  # fmt: skip
@home_option
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


@click.command()
@click.argument("client")
@click.option("--suspend", is_flag=True, help="For now only; `--reactivate` undoes it.")
@click.option("--reactivate", is_flag=True, help="Let a suspended client back in.")
@home_option
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


@click.group(invoke_without_command=True)
@home_option
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
@home_option
@as_json_option
def add_root(home: Path, as_json: bool) -> None:
    """Make and trust a second root, which does not sign yet.

    Example: fl-server roots add
    """
    _authority(home).add_root()
    _show_roots(home, as_json)


@roots.command("use")
@click.argument("fingerprint")
@home_option
@as_json_option
def use_root(fingerprint: str, home: Path, as_json: bool) -> None:
    """From now on sign with this trusted root.

    Example: fl-server roots use 3f9a...
    """
    _authority(home).use_root(_hex(fingerprint))
    _show_roots(home, as_json)


@roots.command("remove")
@click.argument("fingerprint")
@home_option
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


COMMANDS = (clients, token, revoke, roots)
