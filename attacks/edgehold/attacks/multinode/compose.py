"""A testbed as files for Docker Compose: compose.yaml, and what is mounted into its containers.

Each device has a network of its own, on which there is nobody but the server: devices cannot reach each other, and taking one
off cuts nobody else. A device that may lie is two services on one volume, one under each of the profiles `clean` and `attack`:
the same identity, another client.toml. No container may write anywhere but on its volume and in memory, none has capabilities,
none runs as root.
"""

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

name: {name}

# What holds for every container of ours.
x-hardened: &hardened
  read_only: true
  user: "10001:10001"
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  init: true
  pids_limit: 256
  mem_limit: 1g
  restart: on-failure
  stop_grace_period: 20s
  tmpfs: ["/tmp:size=64m,mode=1777"]
  logging: {{driver: json-file, options: {{max-size: 10m, max-file: "3"}}}}

# Many containers share few cores, and sums repeat.
x-threads: &threads {{OMP_NUM_THREADS: "1", OPENBLAS_NUM_THREADS: "1"}}

x-device: &device
  <<: *hardened
  image: ${{EDGEHOLD_DEVICE_IMAGE:-{device}}}
  entrypoint: ["edgehold-entry", "client"]
  healthcheck: {{test: ["CMD", "edgehold-health", "client"], interval: 30s, timeout: 20s, start_period: 60s, retries: 3}}
  depends_on: {{server: {{condition: service_healthy}}}}

services:
  server:
    <<: *hardened
    image: ${{EDGEHOLD_SERVER_IMAGE:-{server}}}
    entrypoint: ["edgehold-entry", "server"]
    environment: {{<<: *threads, EDGEHOLD_FEDERATION: {federation}, EDGEHOLD_HOST: server}}
    healthcheck: {{test: ["CMD", "edgehold-health", "server"], interval: 5s, timeout: 20s, start_period: 60s, retries: 5}}
    volumes:
      - server:/var/lib/edgehold
      - ./config/server:/etc/edgehold:ro
    networks:
"""

_MONITORING = """\
  # In the server's own network namespace, because the server shows its metrics on loopback alone; answers on the monitoring
  # network alone.
  prometheus:
    image: ${{EDGEHOLD_PROMETHEUS_IMAGE:-{prometheus}}}
    profiles: [monitoring]
    network_mode: service:server
    read_only: true
    user: "65534:65534"
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    command:
      - --config.file=/etc/prometheus/prometheus.yml
      - --storage.tsdb.path=/prometheus
      - --web.listen-address={watch}.2:9090
    volumes:
      - {monitoring}:/etc/prometheus:ro
      - prometheus:/prometheus
    depends_on: {{server: {{condition: service_healthy}}}}
  grafana:
    image: ${{EDGEHOLD_GRAFANA_IMAGE:-{grafana}}}
    profiles: [monitoring]
    read_only: true
    user: "472:0"
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    tmpfs: ["/tmp:size=64m,mode=1777"]
    environment: {{GF_ANALYTICS_REPORTING_ENABLED: "false", GF_ANALYTICS_CHECK_FOR_UPDATES: "false"}}
    ports: ["127.0.0.1:${{EDGEHOLD_GRAFANA_PORT:-3000}}:3000"]
    volumes:
      - ./config/grafana:/etc/grafana/provisioning:ro
      - {monitoring}/dashboard.json:/var/lib/grafana-dashboards/edgehold.json:ro
      - grafana:/var/lib/grafana
    networks: [monitoring, outside]
"""

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
    """compose.yaml. name: of the project; monitoring: the folder deploy/monitoring, as seen from the file; base: first two
    numbers of all addresses.
    """
    names = {"server": bed.images.name(bed.images.server), "device": bed.images.name(bed.images.devices)}
    watch = f"{base}.{WATCH}"
    head = _HEAD.format(
        honest=bed.testbed.honest, liars=bed.testbed.liars, name=name, federation=bed.testbed.name, **names
    )  # fmt: skip
    services = [head, *(f"      {link(c)}: {{ipv4_address: {base}.{i}.2}}\n" for i, c in enumerate(bed.clients))]
    services.append(f"      monitoring: {{ipv4_address: {watch}.2}}\n")
    for index, client in enumerate(bed.clients):
        services.append(_device(client, client, index, base, "clean" if client in bed.liars else ""))
    services += [_device(twin(client), client, bed.clients.index(client), base, "attack") for client in bed.liars]
    services.append(_MONITORING.format(prometheus=PROMETHEUS, grafana=GRAFANA, watch=watch, monitoring=monitoring))
    return "\n".join(["".join(services), *_rest(bed, base)])


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


def _device(service: str, client: str, index: int, base: str, profile: str) -> str:
    return "".join(
        [
            f"  {service}:\n    <<: *device\n",
            f"    profiles: [{profile}]\n" if profile else "",
            f"    environment: {{<<: *threads, EDGEHOLD_BUNDLE: /run/secrets/{bundle(client)}}}\n",
            f"    secrets: [{bundle(client)}]\n",
            f'    volumes: ["{client}:/var/lib/edgehold", "./config/{service}:/etc/edgehold:ro"]\n',
            f"    networks: {{{link(client)}: {{ipv4_address: {base}.{index}.3}}}}\n",
        ]
    )


def _rest(bed: Testbed, base: str) -> Iterator[str]:
    yield "networks:"
    for index, client in enumerate(bed.clients):
        yield f"  {link(client)}: {{internal: true, ipam: {{config: [{{subnet: {base}.{index}.0/28}}]}}}}"
    yield f"  monitoring: {{internal: true, ipam: {{config: [{{subnet: {base}.{WATCH}.0/28}}]}}}}"
    yield "  outside: {}"
    yield ""
    yield "volumes:"
    yield from (f"  {name}: {{}}" for name in ("server", *bed.clients, "prometheus", "grafana"))
    yield ""
    yield "secrets:"
    yield from (f"  {bundle(client)}: {{file: ./secrets/{bundle(client)}}}" for client in bed.clients)
    yield ""
