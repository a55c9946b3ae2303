"""What the commands share: the home they work on."""

from pathlib import Path

import click

HOME_VARIABLE = "EDGEHOLD_SERVER_HOME"

home_option = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    envvar=HOME_VARIABLE,
    default=Path("fl-server"),
    show_default=True,
    help=f"Folder of this server [env: {HOME_VARIABLE}].",
)
