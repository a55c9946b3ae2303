"""`fl-server check`: everything that can be wrong before the first round, each with what to do about it."""

import shutil
import socket
import time
from pathlib import Path
from typing import Any

from cryptography import x509

from edgehold.core import kernels, keys
from edgehold.core.command import Finding, examine
from edgehold.core.errors import ConfigError, FlError
from edgehold.core.masks.combine import promise
from edgehold.core.plan import Plan, parse_plan
from edgehold.core.vectors import Vector
from edgehold.defenses import registry
from edgehold.server.config import ServerConfig, TaskEntry, keys_folder, load
from edgehold.server.desk.operator import SOCKET
from edgehold.server.identity.ca import CertificateAuthority, trusted_pem
from edgehold.server.rounds.evaluator import load_task
from edgehold.server.rounds.summing import sizes_of
from edgehold.server.store.spool import RoundKeys
from edgehold.server.store.transcript import must_be_open


def findings(home: Path, plan: Path | None) -> list[Finding]:
    """All findings about one home, and about a plan when one is named."""
    try:
        config = load(home)
    except FlError as error:
        return [Finding("config", False, error.message, f"mend it, or make a home with `fl-server init --home {home}`")]
    found = [
        Finding("config", True, str(home / "server.toml")),
        examine("folder", lambda: _folder(home), f"chmod 700 {home}"),
        examine("keys", lambda: _keys(home, config), "run as the user that owns the home, and keep key files at mode 600"),
        examine("clock", lambda: _clock(home, config), "set the clock (`timedatectl`)"),
        examine("disk", lambda: _disk(home, config), "free some space, or lower store.min_free_share"),
        examine("round keys", lambda: _round_keys(home, config), "set store.keys_folder to a folder on a tmpfs"),
        Finding("kernels", True, _kernels()),
    ]
    if config.record:
        found.append(
            Finding("record", True, f"updates of {', '.join(sorted(config.record))} are kept in the clear (server.toml)")
        )
    if (home / SOCKET).exists():
        found.append(Finding("ports", True, "a server is running on this home"))
    else:
        found += [
            examine(f"port {key}", lambda address=address: _port(address), f"free it, or change server.{key}")  # type: ignore[misc]
            for key, address in (
                ("listen", config.server.listen), ("enrol_listen", config.server.enrol_listen),
                ("renew_listen", config.server.renew_listen), ("metrics_listen", config.server.metrics_listen),
            ) if address
        ]  # fmt: skip
    if plan is not None:
        found.append(examine("plan", lambda: _plan(plan, config), f"mend {plan}"))
    return found


def _kernels() -> str:
    found = kernels.loaded()
    return f"compiled for {found.name}" if found else "not compiled; NumPy does their work, several times slower"


def _folder(home: Path) -> str:
    mode = home.stat().st_mode & 0o777
    if mode & 0o077:
        raise ConfigError(f"{home}: mode {mode:o}; others could reach the admin socket and the keys")
    return f"{home}: for its owner alone"


def _keys(home: Path, config: ServerConfig) -> str:
    keys.load_version(home / "identity", ["signing.key"], [])
    roots = x509.load_pem_x509_certificates(trusted_pem(config.ca_folder(home)))
    if config.server.enrolment == "apart":
        return f"federation {config.server.federation}, {len(roots)} trusted root(s); the enrolment key is elsewhere"
    authority = CertificateAuthority(config.ca_folder(home))
    if authority.federation != config.server.federation:
        raise ConfigError(f"server.federation = {config.server.federation!r}, but the authority's is {authority.federation!r}")
    return f"federation {authority.federation}, {len(roots)} trusted root(s); key files private"


def _clock(home: Path, config: ServerConfig) -> str:
    now = time.time()
    for root in x509.load_pem_x509_certificates(trusted_pem(config.ca_folder(home))):
        if not root.not_valid_before_utc.timestamp() <= now <= root.not_valid_after_utc.timestamp():
            raise ConfigError(f"it is {time.strftime('%Y-%m-%d', time.gmtime(now))}: a trusted root is not valid then")
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(now))


def _disk(home: Path, config: ServerConfig) -> str:
    usage = shutil.disk_usage(home)
    share = usage.free / usage.total
    if share < config.store.min_free_share:
        raise ConfigError(f"{share:.0%} free; below {config.store.min_free_share:.0%} uploads are told to wait")
    return f"{share:.0%} ({usage.free >> 30} GiB) free"


def _round_keys(home: Path, config: ServerConfig) -> str:
    folder = keys_folder(config, home)
    RoundKeys(folder)
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    under = [(len(place), kind) for place, kind in mounts if folder.resolve().is_relative_to(place)]
    kind = max(under)[1]
    if kind not in ("tmpfs", "ramfs"):
        raise ConfigError(f"{folder} lies on {kind}, which survives a power loss")
    return f"{folder} ({kind})"


def _port(address: str) -> str:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host.strip("[]"), int(port)))
    return f"{address} is free"


def _plan(path: Path, config: ServerConfig) -> str:
    plan, settings = parse_plan(path.read_text(encoding="utf-8"), registry.method, str(path))
    if plan.run.name in config.record:
        must_be_open(plan)
    if plan.model.file is not None and not (path.parent / plan.model.file).exists():
        raise ConfigError(f"model.file = {plan.model.file!r}: no such file beside the plan", field="model.file")
    if plan.model.file is None and plan.run.task not in config.tasks:
        raise ConfigError(
            f"no model.file, and server.toml has no [tasks.{plan.run.task}] to make initial weights", field="model"
        )
    if plan.model.file is None:
        _begin(plan, settings, config.tasks[plan.run.task])
    said = f"{plan.run.name}: {plan.run.rounds} rounds of {plan.method['name']}, {plan.cohort.size} clients"
    if plan.privacy.masked:
        said += f"; masked, {promise(plan.cohort.size, plan.masks.group_least, plan.masks.group_most)}"
    return said


def _begin(plan: Plan, settings: Any, entry: TaskEntry) -> None:
    """Make the first weights and the server half's first state, as a run would: what the method cannot work with shows here."""
    name, seed = str(plan.method["name"]), plan.run.seed
    task = load_task(entry.task, entry.options)
    weights = registry.first_weights(name, settings, task, seed)
    registry.server_side(name, settings, task.schema, seed).start(Vector.of(weights))
    sizes_of(plan, settings, task.schema)
