"""What Prometheus is shown: conventional names, few labels, gauges that mean what they say, and a page that lists them all."""

import asyncio
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from edgehold.core.errors import ERRORS, REJECTIONS
from edgehold.core.facts import FACTS, TOTALS
from edgehold.core.privacy.events import Gaussian
from edgehold.core.privacy.ledger import Limit
from edgehold.server.identity.roster import Member
from edgehold.server.metrics import Metrics
from edgehold.server.rounds.accounts import Accounts
from edgehold.server.rounds.board import Board, OpenRound
from edgehold.server.rounds.gauges import Gauges
from edgehold.server.rounds.tally import Tally
from edgehold.server.store.journal import Journal
from edgehold.server.store.records import RoundRow

PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"
LABELS = {"code", "reason", "state", "outcome", "stage", "step", "task", "version"}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


def families(metrics: Metrics) -> Iterator[tuple[Metric, tuple[str, ...]]]:
    """Every family of ours there can be, with its labels."""
    registry = metrics.registry
    for collector in set(registry._collector_to_names):
        for family in getattr(collector, "describe", collector.collect)():
            if family.name.startswith("edgehold_"):
                yield family, tuple(getattr(collector, "_labelnames", ()))


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(f"edgehold_{name}", labels)


def test_names_are_as_prometheus_has_them(metrics: Metrics) -> None:
    """Its naming rules: snake case, base units spelt out and last, `_total` for counters and for nothing else."""
    for family, _ in families(metrics):
        words = family.name.split("_")
        assert re.fullmatch(r"edgehold(_[a-z][a-z0-9]*)+", family.name), family.name
        assert family.documentation
        assert not family.documentation.endswith(".")
        if family.name != "edgehold_build_info":
            assert not {"total", "info", "count", "sum", "bucket"} & set(words), family.name
        assert not {"s", "ms", "seconds", "bytes", "ratio", "percent", "share", "mb", "kb", "db"} & set(words[:-1]), family.name
        assert not {"s", "ms", "percent", "share", "mb", "kb", "db"} & set(words), family.name
        if words[-1] in ("seconds", "bytes", "ratio") and family.type == "gauge":
            continue
    shown = metrics.exposition("")[0].decode()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", shown, re.MULTILINE))
    assert {name for name, kind in kinds.items() if kind == "counter"} == {name for name in kinds if name.endswith("_total")}


def test_every_unit_is_in_the_name(metrics: Metrics) -> None:
    suffix = {"bytes": "_bytes", "s": "_seconds", "share": "_ratio", "degrees": "_degrees", "dB": "_decibels"}
    for fact in FACTS.values():
        assert f"_{fact.metric}".endswith(suffix.get(fact.unit, "")), fact
    named = {name: FACTS[name].metric for name in ("bytes_up", "round_seconds", "accuracy", "nmsd_db", "mask_keys_cpu_seconds")}
    assert named == {
        "bytes_up": "up_bytes", "round_seconds": "seconds", "accuracy": "accuracy_ratio", "nmsd_db": "nmsd_decibels",
        "mask_keys_cpu_seconds": "mask_keys_cpu_seconds",
    }  # fmt: skip
    assert len({fact.metric for fact in FACTS.values()}) == len(FACTS)


def test_labels_are_of_few_kinds(metrics: Metrics) -> None:
    found = {label for _, labels in families(metrics) for label in labels}
    assert found <= LABELS
    assert not {"client", "run", "round", "peer"} & found


def test_a_fact_is_shown_once_some_round_has_it(metrics: Metrics) -> None:
    def shown() -> set[str]:
        return {family.name for family in metrics.registry.collect() if family.name.startswith("edgehold_round_")}

    before = shown()
    metrics.round_committed({"bytes_up": 3.0, "no such fact": 1.0})
    metrics.scored({"accuracy": 0.5})
    assert shown() - before == {"edgehold_round_up_bytes", "edgehold_round_accuracy_ratio"}
    metrics.round_committed({"bytes_up": 4.0})
    # Scores may be rarer than rounds: the last one stays.
    assert (value(metrics, "round_up_bytes"), value(metrics, "round_accuracy_ratio")) == (4.0, 0.5)
    # Every fact there is can be shown: none is forgotten, none collides with another metric.
    metrics.scored(dict.fromkeys(FACTS, 1.0))
    assert shown() - before == {f"edgehold_round_{fact.metric}" for fact in FACTS.values()}


def test_facts_that_add_up_are_counters_too(metrics: Metrics) -> None:
    assert set(TOTALS) <= set(FACTS)
    assert value(metrics, "mask_groups_total", outcome="void") == 0.0
    for _ in range(2):
        metrics.round_committed({name: float(at) for at, name in enumerate(TOTALS, 1)})
    for at, total in enumerate(TOTALS.values(), 1):
        labels = dict([total.label]) if total.label else {}
        assert value(metrics, f"{total.name}_total", **labels) == 2.0 * at
    assert value(metrics, "rounds_committed_total") == 2.0


def test_rejections_begin_at_zero_for_every_reason_there_is(metrics: Metrics) -> None:
    reasons = {code for code, error in ERRORS.items() if issubclass(error, REJECTIONS)}
    assert {"not_finite", "stale", "bad_signature", "corrupted"} <= reasons
    assert not {"busy", "peer_gone", "journal"} & reasons
    for code in reasons:
        assert value(metrics, "admission_rejections_total", reason=code) == 0.0


def test_every_commit_of_the_journal_is_timed(tmp_path: Path, metrics: Metrics) -> None:
    journal = Journal(tmp_path, metrics.journal_sync.observe)
    before = time.perf_counter()
    for _ in range(3):
        asyncio.run(journal.write(lambda db: db.execute("UPDATE meta SET value=value")))
    took = time.perf_counter() - before
    journal.close()
    assert value(metrics, "journal_sync_seconds_count") == 3.0
    assert 0 < (value(metrics, "journal_sync_seconds_sum") or 0) < took


# What stands open.


@dataclass
class Parts:
    """A floor with only what gauges look at."""

    metrics: Metrics
    spool: Path
    accounts: Accounts
    roster: list[Member] = field(default_factory=list)
    board: Board = field(default_factory=Board)
    connected: set[str] = field(default_factory=set)
    states: dict[str, int] = field(default_factory=dict)
    progress: tuple[int, int] = (0, 0)

    def measure(self, life_s: float = 100.0, now: float = 1000.0) -> None:
        floor = SimpleNamespace(
            metrics=self.metrics, spool=self.spool, roster=self.roster, board=self.board, accounts=self.accounts,
            admission=SimpleNamespace(under_way=2), sessions=SimpleNamespace(connected=frozenset(self.connected)),
        )  # fmt: skip
        from collections import Counter

        runs = SimpleNamespace(states=lambda: Counter(self.states), progress=lambda: self.progress)
        asyncio.run(Gauges(cast(Any, floor), cast(Any, runs), life_s, lambda: now).measure())

    def value(self, name: str, **labels: str) -> float | None:
        return value(self.metrics, name, **labels)


@pytest.fixture
def parts(tmp_path: Path, metrics: Metrics) -> Parts:
    return Parts(metrics, tmp_path, Accounts(tmp_path / "ledger.db", {}))


def member(name: str, state: str = "active", expires: float = 0.0) -> Member:
    return Member(name, cast(Any, state), b"", b"k" if expires else b"", 0.0, (), expires, 0, 0)


def opened(selected: set[str], since_s: float, deadline_s: float, number: int = 1) -> OpenRound:
    tally = Tally(frozenset(selected), len(selected), 1)
    none = cast(Any, None)
    found = OpenRound("r", number, 1, b"", b"", "t", none, none, none, tally, b"", Path(), {}, deadline_s=deadline_s)
    found.since_s = time.monotonic() - since_s
    return found


def test_an_idle_server(parts: Parts) -> None:
    parts.measure()
    zero = ("clients_enrolled", "clients_missing", "open_rounds", "open_round_age_seconds", "open_round_deadline_seconds",
            "current_round", "planned_rounds", "certificates_expired")  # fmt: skip
    assert {parts.value(name) for name in zero} == {0.0}
    assert parts.value("certificate_life_left_ratio") == 1.0
    assert parts.value("open_uploads") == 2.0
    assert parts.value("runs", state="failed") == 0.0
    assert 0.0 < (parts.value("disk_free_ratio") or 0.0) < 1.0


def test_the_shortest_certificate_counts_of_those_who_may_take_part(parts: Parts) -> None:
    # Life is 100 s and it is second 1000: 0.6 left, 0.25 left, none yet; the one that has run out is suspended.
    parts.roster = [member("a", expires=1060), member("b", expires=1025), member("c"), member("d", "suspended", expires=1)]
    parts.measure()
    assert parts.value("certificate_life_left_ratio") == pytest.approx(0.25)
    assert (parts.value("certificates_expired"), parts.value("clients_enrolled")) == (0.0, 2.0)
    assert (parts.value("clients", state="active"), parts.value("clients", state="suspended")) == (3.0, 1.0)
    parts.measure(now=1030)
    assert (parts.value("certificate_life_left_ratio"), parts.value("certificates_expired")) == (0.0, 1.0)


def test_the_round_that_is_longest_past_its_deadline_is_the_one_shown(parts: Parts) -> None:
    # The second is younger and over; the first is old, with time left.
    for one in (opened({"a"}, 50.0, 600.0), opened({"a"}, 30.0, 10.0, 2)):
        parts.board.begin(one)
    parts.measure()
    assert parts.value("open_rounds") == 2.0
    assert parts.value("open_round_deadline_seconds") == 10.0
    assert parts.value("open_round_age_seconds") == pytest.approx(30.0, abs=5.0)


def test_the_missing_are_selected_without_update_and_gone(parts: Parts) -> None:
    first, second = opened({"a", "b", "c", "d"}, 1.0, 9.0), opened({"d", "e"}, 1.0, 9.0, 2)
    for one in (first, second):
        parts.board.begin(one)
        parts.board.post(one)
    first.tally.admit("a")
    first.tally.lose("c", "declined")
    parts.connected = {"b", "c"}
    parts.measure()
    # a has sent its update and may go; b and c are here; d is gone for both rounds, once; e is gone.
    assert parts.value("clients_missing") == 2.0
    parts.board.take_down(first)
    parts.board.forget(second)
    parts.measure()
    assert (parts.value("clients_missing"), parts.value("open_rounds")) == (0.0, 1.0)


def test_runs_and_progress(parts: Parts) -> None:
    parts.states, parts.progress = {"running": 1, "failed": 2}, (3, 10)
    parts.measure()
    assert [parts.value("runs", state=state) for state in ("running", "failed", "finished")] == [1.0, 2.0, 0.0]
    assert (parts.value("current_round"), parts.value("planned_rounds")) == (3.0, 10.0)


def test_the_ledger_is_shown_as_a_share_of_each_budget(tmp_path: Path, metrics: Metrics) -> None:
    def fresh() -> Parts:
        budgets = {"wards": Limit(10.0, 1e-5), "other": Limit(2.0, 1e-5)}
        return Parts(metrics, tmp_path, Accounts(tmp_path / "ledger.db", budgets))

    parts = fresh()
    parts.measure()
    assert parts.value("ledger_spent_ratio", task="wards") == 0.0
    assert not (tmp_path / "ledger.db").exists()
    method = cast(Any, SimpleNamespace(central=True, name="dp_fedavg"))
    row = RoundRow("r", 1, 1, "closing", b"n", (), b"", None, None, None, {})
    # mu = 1 at delta 1e-5 is epsilon 4.377.
    parts.accounts.charge(method, "wards", row, ["a"], (Gaussian(sensitivity=1.0, sigma=1.0, unit="user"),))
    parts.measure()
    assert parts.value("ledger_spent_ratio", task="wards") == pytest.approx(0.4377, abs=0.001)
    assert parts.value("ledger_spent_ratio", task="other") == 0.0
    parts.accounts.close()
    # Known at once after a restart, before anything is charged.
    again = fresh()
    again.measure()
    assert parts.value("ledger_spent_ratio", task="wards") == pytest.approx(0.4377, abs=0.001)
    again.accounts.close()


def test_a_ledger_that_cannot_be_read_does_not_hide_the_rest(tmp_path: Path, metrics: Metrics) -> None:
    (tmp_path / "ledger.db").write_bytes(b"no ledger at all" * 100)
    parts = Parts(metrics, tmp_path, Accounts(tmp_path / "ledger.db", {"wards": Limit(1.0, 1e-5)}))
    parts.measure()
    assert parts.value("ledger_spent_ratio", task="wards") is None
    assert parts.value("open_uploads") == 2.0


# The page that lists them.


def rows(metrics: Metrics) -> list[str]:
    """The table of the page, from the registry."""
    found = []
    for family, labels in sorted(families(metrics), key=lambda one: one[0].name):
        if family.name.startswith("edgehold_round_") and family.name != "edgehold_round_duration_seconds":
            continue
        name = family.name + ("_total" if family.type == "counter" else "")
        found.append(f"| `{name}` | {family.type} | {', '.join(f'`{one}`' for one in labels)} | {family.documentation} |")
    return found


def fact_rows() -> list[str]:
    """The table of facts of the page."""
    return [f"| `edgehold_round_{fact.metric}` | `{name}` | {fact.help} |" for name, fact in sorted(FACTS.items())]


def test_the_page_lists_every_metric_as_it_is(metrics: Metrics) -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.match(r"\| `edgehold_(?!round_(?!duration))", line)] == rows(metrics)
    assert [line for line in lines if re.match(r"\| `edgehold_round_(?!duration)", line)] == fact_rows()
