"""`fl-server init`: a home folder with a configuration, a certificate authority and the server's identity."""

from pathlib import Path

from edgehold.core import keys
from edgehold.core.errors import ConfigError
from edgehold.proto.strict import name as legal_name
from edgehold.server.identity.ca import CertificateAuthority
from edgehold.server.wire.apart import SERVER_KEY

TEMPLATE = """\
# Configuration of one fl-server. Unknown keys are refused with a suggestion.

[server]
federation = "{federation}"
listen = "{host}:{port}"            # rounds; mutual TLS
enrol_listen = "{host}:{enrol}"      # first certificates, against one-time tokens
renew_listen = "{host}:{renew}"      # fresh certificates, against the one a client has
metrics_listen = "127.0.0.1:{metrics}"    # Prometheus, loopback only; "" for none
status_page = false              # true: http://127.0.0.1:{metrics}/ shows runs and clients to every user of this machine
advertise_host = "{host}"           # what enrolment bundles tell devices to call
host_names = ["localhost", "{host}"]
enrolment = "here"               # "apart": `fl-server enrolment` holds the enrolment key, this server never reads it

[store]
keep_models = 3                  # committed rounds per run whose model stays on disk
keys_folder = "/dev/shm"         # must be memory-backed: round keys have to vanish with the power
min_free_share = 0.15            # of the disk; below it uploads are told to wait

[limits]
max_payload_bytes = 1073741824

# The server's own copy of a task makes initial weights and scores the global model on data of yours.
# [tasks.digits]
# task = "edgehold.client.data.digits:make_task"
# options = {{ device_index = -1, devices = 8 }}
"""


def initialise(home: Path, federation: str, host: str, port: int) -> None:
    """Make a home; `ConfigError` when there is one already. port: the first of four."""
    legal_name(federation, "federation")
    if (home / "server.toml").exists():
        raise ConfigError(f"{home}: already a server home; use another --home, or edit {home / 'server.toml'}")
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.chmod(0o700)
    ports = {key: port + i if port else 0 for i, key in enumerate(("port", "enrol", "renew", "metrics"))}
    authority = CertificateAuthority.create(home / "ca", federation)
    authority.equip("server", "server", home / "identity", hosts=(host,))
    signing_key = keys.load_version(home / "identity", ["signing.key"], [])["signing.key"]
    public = keys.public_bytes(keys.signing_key(signing_key, "signing.key"))
    (home / "ca" / SERVER_KEY).write_text(public.hex(), encoding="ascii")
    authority.equip("operator", "operator", home / "operator")
    (home / "server.toml").write_text(TEMPLATE.format(federation=federation, host=host, **ports), encoding="utf-8")
