"""`deploy/chaos`: cut, delay and heal the links of a testbed that is up."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from edgehold.attacks.demo.folders import HOMES
from edgehold.attacks.multinode import containers, ground
from edgehold.attacks.multinode.backend import SKIP, NotPossible
from edgehold.attacks.multinode.config import Link
from edgehold.attacks.multinode.shaper import tell
from edgehold.core.command import Commands
from edgehold.core.config import suggest
from edgehold.core.errors import ConfigError

_bed = click.option(
    "--bed", type=click.Path(path_type=Path, file_okay=False), default=Path("testbed-output"), show_default=True,
    help="The folder that deploy/testbed was told as --out.",
)  # fmt: skip


class Ground:
    """A testbed that is up, as it was noted."""

    def __init__(self, out: Path) -> None:
        homes = out / HOMES
        self._noted = ground.find(next((found.parent for found in homes.glob(f"seed-*/{ground.FILE}")), homes))

    def cut(self, client: str) -> None:
        """Take a device off the network."""
        self._known(client)
        if self._noted["backend"] == "compose":
            containers.disconnect(self._noted["project"], self._container(client), client)
        else:
            self._tell(op="cut", node=client)

    def heal(self, client: str) -> None:
        """And put it back."""
        self._known(client)
        if self._noted["backend"] == "compose":
            address = f"{self._noted['base']}.{self._noted['clients'].index(client)}.3"
            containers.connect(self._noted["project"], self._container(client), client, address)
        else:
            self._tell(op="heal", node=client)

    def delay(self, client: str, link: Link) -> None:
        """What its link is like from now on, each way."""
        self._known(client)
        self._tell(op="set", node=client, link=msgspec.to_builtins(link))

    def show(self) -> Any:
        """Every device's link, and how many packets it has seen and lost."""
        return self._tell(op="show")

    def _tell(self, **order: Any) -> Any:
        if not self._noted["control"]:
            raise NotPossible("this testbed's links are not shaped: that needs root and iptables on the containers' machine")
        try:
            return tell(Path(self._noted["control"]), order)
        except (OSError, ValueError) as error:
            raise ConfigError(f"the links do not obey: {error}") from None

    def _known(self, client: str) -> None:
        if client not in self._noted["clients"]:
            raise ConfigError(f"no device {client!r} here{suggest(client, self._noted['clients'])}")

    def _container(self, client: str) -> str:
        return containers.container_of(self._noted["project"], client)


def _act(out: Path, act: Callable[[Ground], None]) -> None:
    try:
        act(Ground(out))
    except NotPossible as error:
        click.echo(f"chaos: not possible here: {error.message}", err=True)
        sys.exit(SKIP)
    except RuntimeError as error:
        raise ConfigError(str(error)) from None


@click.group(cls=Commands)
def main() -> None:
    """Break the links of a testbed that is up (deploy/testbed --backend netns or compose), and mend them."""


@main.command()
@click.argument("client")
@click.option("--for", "seconds", type=click.FloatRange(0, min_open=True), help="Heal it after so many seconds.")
@_bed
def cut(client: str, seconds: float | None, bed: Path) -> None:
    """Take a device off the network.

    Example: deploy/chaos cut dev-3 --for 30
    """

    def act(found: Ground) -> None:
        found.cut(client)
        click.echo(f"{client} is off the network")
        if seconds is not None:
            try:
                time.sleep(seconds)
            finally:
                found.heal(client)
                click.echo(f"{client} is back")

    _act(bed, act)


@main.command()
@click.argument("client")
@_bed
def heal(client: str, bed: Path) -> None:
    """Put a device back on the network.

    Example: deploy/chaos heal dev-3
    """
    _act(bed, lambda found: found.heal(client))
    click.echo(f"{client} is back")


@main.command()
@click.argument("client")
@click.option("--ms", default=0.0, help="Of each packet, one way.", type=click.FloatRange(0))
@click.option("--jitter-ms", default=0.0, help="Uniform, added or taken off.", type=click.FloatRange(0))
@click.option("--loss", default=0.0, help="Percent of packets.", type=click.FloatRange(0, 50))
@click.option("--rate-mbit", default=0.0, help="0 for no limit.", type=click.FloatRange(0))
@_bed
def delay(client: str, ms: float, jitter_ms: float, loss: float, rate_mbit: float, bed: Path) -> None:
    """Give a device another link, the same each way; without options, a perfect one.

    Example: deploy/chaos delay dev-3 --ms 200 --loss 5
    """
    link = Link(delay_ms=ms, jitter_ms=jitter_ms, loss_percent=loss, rate_mbit=rate_mbit)
    _act(bed, lambda found: found.delay(client, link))
    click.echo(f"{client}: {json.dumps(msgspec.to_builtins(link))}")


@main.command()
@_bed
def show(bed: Path) -> None:
    """Every device's link, as JSON: what it is like, whether it is cut, packets seen and lost.

    Example: deploy/chaos show
    """
    _act(bed, lambda found: click.echo(json.dumps(found.show(), indent=2)))


if __name__ == "__main__":
    main(prog_name="chaos")
