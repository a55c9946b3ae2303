"""A fleet of real processes, watched: every metric that alerts and dashboard name is there, and the page says what happened."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.support import wire
from tests.support.http import ask
from tests.support.waiting import eventually_async
from tests.support.wire import Device, call, honest_update, update

from edgehold.attacks.testbed import Federation, eventually
from edgehold.proto.v1.control_pb2 import DeclineRequest

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
VALUES, DEVICES = 100, 8
ENTRY = ("tests.support.scored_task:make_task", {"values": VALUES})
HOSTILE = "<script>alert(1)</script>&\"'"
PLAN = """
[run]
name = "{name}"
rounds = {rounds}
task = "{task}"
[cohort]
size = {size}
quorum = 8
over_select = 1.0
join_deadline_s = 60.0
round_deadline_s = 60.0
[weights]
by = "equal"
[evaluation]
every = 1
"""
MASKED = (
    PLAN.format(name="masked", rounds=1, task="kept", size=8)
    + '[method]\nname = "fedavg"\n[privacy]\nmasked = true\n[masks]\nclip = 1.0\ngroup_least = 8\ngroup_most = 15\n'
)
PRIVATE = PLAN.format(name="private", rounds=2, task="kept", size=8) + (
    '[method]\nname = "dp_fedavg"\nnoise_multiplier = 2.0\nquantile = 0.0\n'
)
OPEN = PLAN.format(name="open", rounds=2, task="open", size=10) + '[method]\nname = "fedavg"\n'

PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")


@dataclass
class Watched:
    """What was seen of the fleet. during: status and metrics while a client was missing; page, status, metrics: at the end."""

    address: str
    during: dict[str, Any]
    during_page: str
    during_metrics: str
    page: str
    status: dict[str, Any]
    metrics: str
    queried: dict[str, Any]


def get(bed: Federation, path: str) -> str:
    answer = ask(bed.addresses["metrics"], path)
    assert answer.status == 200, answer
    return answer.body.decode()


async def misbehave(bed: Federation, watching: Callable[[], Awaitable[None]]) -> None:
    """Round 1: mallory sends no numbers, ghost vanishes and is looked for. Round 2: both decline, one with a hostile reason."""
    async with wire.operator(bed.home) as stub:
        hands = [
            Device(await wire.enrolled(stub, bed.home, name, bed.folder / name / "identity", ("open",)))
            for name in ("mallory", "ghost")
        ]
        async with hands[0] as mallory, hands[1] as ghost:
            await mallory.connect()
            await ghost.connect()
            run = await wire.submit(stub, OPEN)
            await mallory.task(run)
            await ghost.task(run)
            answer = await mallory.upload(update(np.full(VALUES, np.nan, "<f4")))
            assert answer.code == "not_finite"
            ghost._stream.cancel()
            await watching()
            await ghost.connect()
            await ghost.task(run)
            assert (await ghost.upload(honest_update(VALUES))).receipt.sequence
            for one in (mallory, ghost):
                task = await one.task(run, 2)
                decline = DeclineRequest(id=task.id, code="policy_refused", reason=HOSTILE)
                await call(one.channel, "ControlService/Decline", decline.SerializeToString())
            info = await wire.finished(stub, run)
            assert info.state == "finished", info


def expressions() -> list[str]:
    """Every PromQL expression of alerts and dashboard; the dashboard's variable stands for any server."""
    alerts = (MONITORING / "alerts.yml").read_text(encoding="utf-8")
    found = [" ".join(text.split()) for text in re.findall(r"expr: (?:>-\n)?(.*?)\n\s+(?:for|labels):", alerts, re.DOTALL)]
    dashboard = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    drawn = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(found) == alerts.count("- alert:")
    return found + [text.replace("$instance", ".+") for text in drawn]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    tables: dict[str, dict[str, Any]] = {"server": {"status_page": True}, "budgets.kept": {"max_epsilon": 50.0}}
    with Federation(tmp_path_factory.mktemp("watched"), {"kept": ENTRY, "open": ENTRY}, tables) as bed:
        bed.start_server({"PYTHONPATH": str(ROOT)})
        for at in range(DEVICES):
            bed.add_client(f"dev-{at}", {"kept": ENTRY, "open": ENTRY})
            bed.start_client(f"dev-{at}", {"PYTHONPATH": str(ROOT)})
        with prometheus(bed.addresses["metrics"], bed.folder / "prometheus") as server:
            bed.wait_connected(DEVICES)
            for plan in (MASKED, PRIVATE):
                info = bed.run(plan)
                assert info.state == "finished", info
            seen: list[str] = []

            async def watching() -> None:
                def missing() -> bool:
                    found = json.loads(get(bed, "/status.json"))
                    return bool(found["clients"]["missing"]) and found["open_rounds"][0]["admitted"] == DEVICES

                await eventually_async(lambda: asyncio.to_thread(missing), what="a missing client")
                seen.extend([await asyncio.to_thread(get, bed, path) for path in ("/status.json", "/", "/metrics")])

            asyncio.run(misbehave(bed, watching))
            if server:
                eventually(lambda: server.query("edgehold_rounds_committed_total == 5"), what="a scrape of the last round")
            queried = {text: server.query(text) for text in expressions()} if server else {}
            yield Watched(
                bed.addresses["metrics"], json.loads(seen[0]), seen[1], seen[2], get(bed, "/"),
                json.loads(get(bed, "/status.json")), get(bed, "/metrics"), queried,
            )  # fmt: skip


# ---- what Prometheus reads


def series(text: str) -> list[tuple[str, dict[str, str]]]:
    """Name and labels of every sample of a scrape."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [
        (line.split("{")[0].split(" ")[0], dict(re.findall(r'(\w+)="([^"]*)"', line.partition("{")[2].rpartition("}")[0])))
        for line in lines
    ]


def selectors() -> list[tuple[str, dict[str, str]]]:
    """Every metric that alerts and dashboard name, with the labels they ask for by value."""
    found = []
    for text in expressions():
        for name, _, body in re.findall(r"\b((?:edgehold|process)_\w+)(\{([^}]*)\})?", text):
            asked = dict(re.findall(r'(\w+)="([^"]*)"', body))
            found.append((name, {label: one for label, one in asked.items() if label not in ("job", "instance")}))
    return found


@pytest.mark.slow
def test_every_metric_that_alerts_and_dashboard_name_is_in_the_scrape(watched: Watched) -> None:
    there = series(watched.metrics)
    asked = selectors()
    assert len({name for name, _ in asked}) > 25
    for name, labels in asked:
        assert any(name == one and labels.items() <= found.items() for one, found in there), (name, labels)


@pytest.mark.slow
def test_every_label_that_is_drawn_or_grouped_by_is_there(watched: Watched) -> None:
    dashboard = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    there = series(watched.metrics)
    drawn = 0
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                (name,) = re.findall(r"edgehold_\w+", target["expr"])
                assert any(name == one and label in found for one, found in there), (name, label)
                drawn += 1
    assert drawn >= 6


@pytest.mark.slow
def test_what_happened_is_counted(watched: Watched) -> None:
    values = {}
    for line in watched.metrics.splitlines():
        if not line.startswith("#"):
            name, _, number = line.rpartition(" ")
            values[name] = float(number)
    expected = {
        "rounds_committed_total": 5, "rounds_abandoned_total": 0,
        'admission_rejections_total{reason="not_finite"}': 1, 'refusals_total{code="not_finite"}': 1,
        'declines_total{code="policy_refused"}': 2, 'mask_groups_total{outcome="summed"}': 1,
        'mask_groups_total{outcome="void"}': 0, 'mask_dropouts_total{stage="upload"}': 0, 'runs{state="finished"}': 3,
        'runs{state="running"}': 0, 'clients{state="active"}': 10, "clients_enrolled": 10, "open_rounds": 0,
        "clients_missing": 0, "round_duration_seconds_count": 5, "clients_selected_total": 44, "clients_admitted_total": 41,
    }  # fmt: skip
    assert {name: values[f"edgehold_{name}"] for name in expected} == expected
    assert 0.9 < values["edgehold_certificate_life_left_ratio"] < 1
    assert 0 < values["edgehold_disk_free_ratio"] < 1
    assert 0.001 < values['edgehold_ledger_spent_ratio{task="kept"}'] < 1
    # 41 admitted updates, one NaN, each of 400 bytes and a header.
    assert 42 * 400 < values["edgehold_payload_received_bytes_total"] < 42 * 500
    assert values["edgehold_journal_sync_seconds_count"] > 20
    assert values["process_resident_memory_bytes"] > 1e7


@pytest.mark.slow
def test_no_client_and_no_run_is_a_label(watched: Watched) -> None:
    labels = {one for _, found in series(watched.metrics) for one in found.items()}
    words = {value for _, value in labels}
    assert not [
        word for word in words if word.startswith(("dev-", "mallory", "ghost")) or word in ("masked", "private", "open")
    ]


@pytest.mark.slow
def test_the_missing_are_shown_while_they_are_missing(watched: Watched) -> None:
    assert "\nedgehold_clients_missing 1.0\n" in watched.during_metrics
    assert "\nedgehold_open_rounds 1.0\n" in watched.during_metrics
    assert "\nedgehold_open_round_deadline_seconds 60.0\n" in watched.during_metrics
    (one,) = watched.during["open_rounds"]
    assert (one["missing"], one["rejected"], one["selected"]) == (["ghost"], 1, 10)
    assert "Missing: <bdi>ghost</bdi>" in watched.during_page


# ---- what people read


@pytest.mark.slow
def test_the_page_tells_the_run_and_escapes_what_devices_say(watched: Watched) -> None:
    for text in ("masked", "private", "open", "mallory", "ghost", "dev-7", "not_finite", "policy_refused", "<polyline"):
        assert text in watched.page, text
    assert "script" not in watched.page + watched.during_page
    status = watched.status
    assert [run["run"] for run in status["runs"]] == ["open", "private", "masked"]
    assert status["counts"]["declines"] == {"policy_refused": 2}
    (budget,) = status["budgets"]
    assert 0 < budget["epsilon"] < budget["max_epsilon"] == 50.0
    assert status["clients"]["listed"][0]["client"] == "mallory"  # whoever was rejected stands first
    refused = [one for one in status["refused"] if one["code"] == "not_finite"]
    assert [one["caller"] for one in refused] == ["mallory"]
    shown = status["shown"]
    assert shown["score"] == "accuracy"
    assert [number for number, _ in shown["curve"]] == [1, 2]


@pytest.mark.slow
def test_no_page_unless_it_is_asked_for(tmp_path: Path) -> None:
    with Federation(tmp_path / "bed") as bed:
        bed.start_server()
        assert ask(bed.addresses["metrics"], "/").status == 404
        assert ask(bed.addresses["metrics"], "/status.json").status == 404
        assert ask(bed.addresses["metrics"], "/metrics").status == 200
        assert ask(bed.addresses["metrics"], "/metrics", host="evil.example").status == 421


# ---- Prometheus itself, where there is one


class Prometheus:
    """A Prometheus that scrapes twice a second."""

    def __init__(self, target: str, folder: Path) -> None:
        assert PROMETHEUS
        folder.mkdir()
        text = (MONITORING / "prometheus.yml").read_text(encoding="utf-8")
        text = text.replace("127.0.0.1:8473", target).replace("15s", "500ms")
        text = text.replace("alerts.yml", str(MONITORING / "alerts.yml"))
        (folder / "prometheus.yml").write_text(text, encoding="utf-8")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [PROMETHEUS, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
                 f"--web.listen-address={self.address}"], stdout=log, stderr=log,
            )  # fmt: skip

    def query(self, text: str) -> Any:
        """The answer's data; `AssertionError` with Prometheus's words when it does not understand."""
        answer = ask(self.address, f"/api/v1/query?query={urllib.parse.quote(text)}", more="Connection: close\r\n")
        said = json.loads(answer.body)
        assert said["status"] == "success", said
        return said["data"]["result"]

    def ready(self) -> bool:
        """Whether it has scraped twice."""
        try:
            found = self.query('count_over_time(up{job="edgehold"}[1m]) > 1')
        except (OSError, IndexError, ValueError):
            return False
        return bool(found)

    def __enter__(self) -> "Prometheus":
        eventually(self.ready, what="Prometheus has scraped")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(20)


class Nothing:
    """Where there is no Prometheus."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def prometheus(target: str, folder: Path) -> Prometheus | Nothing:
    return Prometheus(target, folder) if PROMETHEUS else Nothing()


@pytest.mark.slow
@pytest.mark.skipif(PROMETHEUS is None, reason="no Prometheus on this machine")
def test_prometheus_answers_every_expression(watched: Watched) -> None:
    alerts = (MONITORING / "alerts.yml").read_text(encoding="utf-8").count("- alert:")
    asked = expressions()
    assert len(asked) == len(watched.queried) + len(asked) - len(set(asked))
    for text in asked[alerts:]:
        assert watched.queried[text], f"nothing to draw for {text}"


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool on this machine")
def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    assert PROMTOOL
    for words in (
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
    ):
        done = subprocess.run([PROMTOOL, *words], cwd=MONITORING, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(PROMTOOL is None, reason="no promtool on this machine")
def test_promtool_finds_nothing_to_say_about_our_metrics(watched: Watched) -> None:
    assert PROMTOOL
    done = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=watched.metrics, capture_output=True, text=True, timeout=60, check=False
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if "edgehold_" in line]
    assert not said


def test_every_alert_says_what_it_is_and_what_to_do() -> None:
    text = (MONITORING / "alerts.yml").read_text(encoding="utf-8")
    blocks = re.split(r"^      - alert: ", text, flags=re.MULTILINE)[1:]
    assert len(blocks) >= 9
    tests = (MONITORING / "alerts_test.yml").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    for block in blocks:
        name = block.split("\n")[0]
        assert re.search(r"^          severity: (warning|critical)$", block, re.MULTILINE), name
        assert re.search(r"^          summary: .{10,}$", block, re.MULTILINE), name
        assert len(block.partition("description: >-\n")[2]) > 150, name
        assert f'alertname="{name}"' in tests, f"{name} has no test"
        assert f"`{name}`" in page, f"docs/monitoring.md does not explain {name}"
