"""A testbed as files for Docker Compose: compose.yaml, and what is mounted into its containers.

Each device has a network of its own, on which there is nobody but the server: devices cannot reach each other, and taking one
off cuts nobody else. A device that may lie is two services on one volume, one under each of the profiles `clean` and `attack`:
the same identity, another client.toml. No container may write anywhere but on its volume and in memory, none has capabilities,
none runs as root.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgehold.attacks.multinode.config import RUNS, Testbed
from edgehold.attacks.testbed import device_config, open_policy, toml

PROMETHEUS = "prom/prometheus:v3.5.0"
GRAFANA = "grafana/grafana:12.1.0"
PORTS = {"listen": 8470, "enrol_listen": 8471, "renew_listen": 8472}
METRICS = 8473
WATCH = 250
"""Third number of the monitoring network; devices have 0, 1, 2, ..."""

_HEAD = """\
# A testbed of {honest} honest devices and {liars} that may lie, for Docker Compose v2. Profiles: clean or attack; monitoring.
# Rendered: deploy/testbed --backend compose --render --honest N --liars M writes it, and what it mounts, for other numbers.
"""

# What holds for every container, ours or not.
_CLOSED: Mapping[str, Any] = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}
_OURS: Mapping[str, Any] = {
    **_CLOSED, "user": "10001:10001", "init": True, "pids_limit": 256, "mem_limit": "1g", "restart": "on-failure",
    "stop_grace_period": "20s", "tmpfs": ["/tmp:size=64m,mode=1777"],
    "logging": {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}},
}  # fmt: skip
# Many containers share few cores, and sums repeat.
_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_AFTER_SERVER = {"server": {"condition": "service_healthy"}}

_DATASOURCES = """\
apiVersion: 1
datasources:
  - {{name: Prometheus, type: prometheus, access: proxy, url: "http://{watch}.2:9090", isDefault: true}}
"""

_DASHBOARDS = """\
apiVersion: 1
providers:
  - {name: edgehold, type: file, options: {path: /var/lib/grafana-dashboards}}
"""


def render(bed: Testbed, name: str, monitoring: str, base: str = "10.90") -> str:
    """compose.yaml as text; arguments as of `document`."""
    head = _HEAD.format(honest=bed.testbed.honest, liars=bed.testbed.liars)
    return head + "\n".join(_yaml(document(bed, name, monitoring, base), 0)) + "\n"


def document(bed: Testbed, name: str, monitoring: str, base: str = "10.90") -> dict[str, Any]:
    """compose.yaml. name: of the project; monitoring: the folder deploy/monitoring, as seen from the file; base: first two
    numbers of all addresses.
    """
    services = {"server": _server(bed, base)}
    for index, client in enumerate(bed.clients):
        services[client] = _device(bed, client, client, index, base)
        if client in bed.liars:
            services[client]["profiles"] = ["clean"]
            services[twin(client)] = {**_device(bed, twin(client), client, index, base), "profiles": ["attack"]}
    networks: dict[str, Any] = {link(c): _network(f"{base}.{index}") for index, c in enumerate(bed.clients)}
    return {
        "name": name,
        "services": services | {"prometheus": _prometheus(monitoring, base), "grafana": _grafana(monitoring)},
        "networks": networks | {"monitoring": _network(f"{base}.{WATCH}"), "outside": {}},
        "volumes": {volume: {} for volume in ("server", *bed.clients, "prometheus", "grafana")},
        "secrets": {bundle(client): {"file": f"./secrets/{bundle(client)}"} for client in bed.clients},
    }


def files(bed: Testbed, base: str = "10.90") -> Iterator[tuple[str, str]]:
    """(path below the folder of compose.yaml, contents) of everything that is mounted, but for the bundles, which the running
    server mints.
    """
    server: Mapping[str, Any] = {
        "federation": bed.testbed.name, **{key: f"0.0.0.0:{port}" for key, port in PORTS.items()},
        "metrics_listen": f"127.0.0.1:{METRICS}", "advertise_host": "server", "host_names": ["localhost", "server"],
    }  # fmt: skip
    tables: dict[str, Mapping[str, Any]] = {
        "server": server, "limits": {"certificate_life_s": bed.enrolment.certificate_life_s}
    }  # fmt: skip
    tables |= {f"tasks.{task}": {"task": entry, "options": options} for task, (entry, options) in bed.tasks(None).items()}
    yield "config/server/server.toml", toml(tables)
    for run in RUNS:
        yield f"config/server/plans/{run}.toml", bed.plan(run)
    for client in bed.clients:
        yield f"config/{client}/client.toml", device_config(bed.tasks(client))
        yield f"config/{client}/policy.toml", open_policy()
    for client in bed.liars:
        lying = device_config(bed.tasks(client), (bed.attack.entry, bed.attack.options))
        yield f"config/{twin(client)}/client.toml", lying
        yield f"config/{twin(client)}/policy.toml", open_policy()
    yield "config/grafana/datasources/prometheus.yml", _DATASOURCES.format(watch=f"{base}.{WATCH}")
    yield "config/grafana/dashboards/edgehold.yml", _DASHBOARDS


def write(bed: Testbed, folder: Path, name: str, monitoring: str, base: str = "10.90") -> Path:
    """compose.yaml and what it mounts, into a folder; returns the path of compose.yaml."""
    for path, text in files(bed, base):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    # Bundles open the federation: nobody but their owner gets into this folder, whatever the files' own modes.
    (folder / "secrets").mkdir(mode=0o700, exist_ok=True)
    compose = folder / "compose.yaml"
    compose.write_text(render(bed, name, monitoring, base), encoding="utf-8")
    return compose


def twin(client: str) -> str:
    """Service of a liar: the same device on the same volume, lying."""
    return f"lying-{client}"


def link(client: str) -> str:
    """A device's network."""
    return f"link-{client}"


def bundle(client: str) -> str:
    """A device's secret."""
    return f"{client}.bundle"


def address(bed: Testbed, client: str, base: str = "10.90") -> str:
    """A device's address on its network; the server's there ends in 2."""
    return f"{base}.{bed.clients.index(client)}.3"


def _server(bed: Testbed, base: str) -> dict[str, Any]:
    addresses = {link(client): {"ipv4_address": f"{base}.{index}.2"} for index, client in enumerate(bed.clients)}
    return {
        **_OURS,
        "image": f"${{EDGEHOLD_SERVER_IMAGE:-{bed.images.name(bed.images.server)}}}",
        "entrypoint": ["edgehold-entry", "server"],
        "environment": {**_THREADS, "EDGEHOLD_FEDERATION": bed.testbed.name, "EDGEHOLD_HOST": "server"},
        "healthcheck": _health("server", 5),
        "volumes": ["server:/var/lib/edgehold", "./config/server:/etc/edgehold:ro"],
        "networks": {**addresses, "monitoring": {"ipv4_address": f"{base}.{WATCH}.2"}},
    }


def _device(bed: Testbed, service: str, client: str, index: int, base: str) -> dict[str, Any]:
    return {
        **_OURS,
        "image": f"${{EDGEHOLD_DEVICE_IMAGE:-{bed.images.name(bed.images.devices)}}}",
        "entrypoint": ["edgehold-entry", "client"],
        "environment": {**_THREADS, "EDGEHOLD_BUNDLE": f"/run/secrets/{bundle(client)}"},
        "healthcheck": _health("client", 30),
        "depends_on": _AFTER_SERVER,
        "secrets": [bundle(client)],
        "volumes": [f"{client}:/var/lib/edgehold", f"./config/{service}:/etc/edgehold:ro"],
        "networks": {link(client): {"ipv4_address": f"{base}.{index}.3"}},
    }


def _health(side: str, interval_s: int) -> dict[str, Any]:
    times = {"interval": f"{interval_s}s", "timeout": "20s", "start_period": "60s", "retries": 5}
    return {"test": ["CMD", "edgehold-health", side], **times}


def _prometheus(monitoring: str, base: str) -> dict[str, Any]:
    """In the server's own network namespace, because the server shows its metrics on loopback alone; it answers on the
    monitoring network alone.
    """
    return {
        **_CLOSED,
        "image": f"${{EDGEHOLD_PROMETHEUS_IMAGE:-{PROMETHEUS}}}",
        "profiles": ["monitoring"],
        "user": "65534:65534",
        "network_mode": "service:server",
        "command": [
            "--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus",
            f"--web.listen-address={base}.{WATCH}.2:9090",
        ],
        "volumes": [f"{monitoring}:/etc/prometheus:ro", "prometheus:/prometheus"],
        "depends_on": _AFTER_SERVER,
    }  # fmt: skip


def _grafana(monitoring: str) -> dict[str, Any]:
    return {
        **_CLOSED,
        "image": f"${{EDGEHOLD_GRAFANA_IMAGE:-{GRAFANA}}}",
        "profiles": ["monitoring"],
        "user": "472:0",
        "tmpfs": ["/tmp:size=64m,mode=1777"],
        "environment": {"GF_ANALYTICS_REPORTING_ENABLED": "false", "GF_ANALYTICS_CHECK_FOR_UPDATES": "false"},
        "ports": ["127.0.0.1:${EDGEHOLD_GRAFANA_PORT:-3000}:3000"],
        "volumes": [
            "./config/grafana:/etc/grafana/provisioning:ro",
            f"{monitoring}/dashboard.json:/var/lib/grafana-dashboards/edgehold.json:ro",
            "grafana:/var/lib/grafana",
        ],
        "networks": ["monitoring", "outside"],
    }


def _network(numbers: str) -> dict[str, Any]:
    """No way out of it, and no way in but through the containers on it."""
    return {"internal": True, "ipam": {"config": [{"subnet": f"{numbers}.0/28"}]}}


def _yaml(value: Mapping[str, Any], depth: int) -> Iterator[str]:
    """Tables as indented lines; whatever is in them as JSON, which is YAML."""
    for key, item in value.items():
        nested = isinstance(item, Mapping) and (depth < 2 or any(isinstance(one, Mapping) for one in item.values())) and item
        if nested:
            yield f"{'  ' * depth}{key}:"
            yield from _yaml(item, depth + 1)
        else:
            yield f"{'  ' * depth}{key}: {json.dumps(item)}"
