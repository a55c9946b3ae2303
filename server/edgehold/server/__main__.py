"""`python -m edgehold.server` is `fl-server`."""

from edgehold.server.app import main

main(prog_name="fl-server")
