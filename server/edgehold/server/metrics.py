"""What Prometheus sees: counts by reason, sizes of what stands open, and the facts of the newest round. No client is ever a
label, and no run: labels are error codes, states, steps, and the tasks that server.toml gives a budget.

Names are as Prometheus has them: base units at the end, `_total` for what only grows. `docs/monitoring.md` lists them.
"""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgehold.core.about import VERSION
from edgehold.core.contract import Facts
from edgehold.core.errors import ERRORS, REJECTIONS
from edgehold.core.facts import FACTS, TOTALS

ROUND_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
SYNC_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class NewestFacts(Collector):
    """A gauge for each fact that some round has had; a fact nobody has measured yet is left out rather than 0."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def describe(self) -> Iterator[Metric]:
        """Every gauge there can be."""
        for fact in FACTS.values():
            yield GaugeMetricFamily(f"edgehold_round_{fact.metric}", f"{fact.help} (newest committed round that has it)")

    def collect(self) -> Iterator[Metric]:
        """Those there are."""
        for name, family in zip(FACTS, self.describe(), strict=True):
            if name in self.values:
                family.add_sample(family.name, {}, self.values[name])
                yield family


class Metrics:
    """All metrics of one server, in the registry it is given. What others count is set here right away; what merely stands open
    is set before each scrape, by `edgehold.server.rounds.gauges`. totals: counters over facts, by name.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"edgehold_{name}", help, labels, registry=registry)

        def gauge(name: str, help: str, *labels: str) -> Gauge:
            return Gauge(f"edgehold_{name}", help, labels, registry=registry)

        def histogram(name: str, help: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"edgehold_{name}", help, registry=registry, buckets=buckets)

        self.rounds_committed = counter("rounds_committed", "Rounds committed")
        self.rounds_abandoned = counter("rounds_abandoned", "Attempts abandoned")
        self.refusals = counter("refusals", "Calls refused, by error code", "code")
        self.rejections = counter("admission_rejections", "Uploads turned away for good, by error code", "reason")
        self.declines = counter("declines", "Tasks declined by devices, by error code", "code")
        self.received = counter("payload_received_bytes", "Payload bytes received from clients in rounds that are over")
        self.sent = counter("payload_sent_bytes", "Payload bytes sent to clients in rounds that are over")
        self.round_seconds = histogram("round_duration_seconds", "Time from opening a round to its commit", ROUND_BUCKETS)
        self.journal_sync = histogram(
            "journal_sync_seconds", "Time of a commit of the journal: the write and its fsync", SYNC_BUCKETS
        )
        self.clients_connected = gauge("clients_connected", "Clients with an open control stream")
        self.clients = gauge("clients", "Clients on the roster, by state", "state")
        self.clients_enrolled = gauge("clients_enrolled", "Active clients that have enrolled and connected once")
        self.clients_missing = gauge(
            "clients_missing", "Clients selected by a round that still collects, without an update and not connected"
        )
        self.certificate_life_left = gauge(
            "certificate_life_left_ratio", "Smallest share of its certificate's life that an active client has left"
        )
        self.certificates_expired = gauge("certificates_expired", "Active clients whose newest certificate has expired")
        self.runs = gauge("runs", "Runs, by state", "state")
        self.current_round = gauge("current_round", "Round that the newest running run is at; 0 when none runs")
        self.planned_rounds = gauge("planned_rounds", "Rounds that the newest running run is to have; 0 when none runs")
        self.open_rounds = gauge("open_rounds", "Rounds that are neither committed nor abandoned")
        self.open_round_age = gauge(
            "open_round_age_seconds", "Age of the round whose deadline is nearest, or longest past; 0 when none is open"
        )
        self.open_round_deadline = gauge(
            "open_round_deadline_seconds", "Age at which that round has collected what it can; 0 when none is open"
        )
        self.open_uploads = gauge("open_uploads", "Uploads begun and neither admitted nor given up")
        self.ledger_spent = gauge(
            "ledger_spent_ratio", "Epsilon in the server's own ledger as a share of the budget in server.toml", "task"
        )
        self.disk_free = gauge("disk_free_ratio", "Free share of the file system that uploads are spooled to")
        gauge("build_info", "1, for the version of the server", "version").labels(VERSION).set(1)
        ProcessCollector(registry=registry)
        self._facts = NewestFacts()
        registry.register(self._facts)
        self.totals: dict[str, Counter] = {}
        self._totals: dict[str, Counter] = {}
        for name, total in TOTALS.items():
            if total.name not in self.totals:
                self.totals[total.name] = counter(total.name, total.help, *(total.label[:1] if total.label else ()))
            family = self.totals[total.name]
            self._totals[name] = family.labels(total.label[1]) if total.label else family
        for code, error in ERRORS.items():
            # From 0 on: the first of a kind must be an increase, not a series that begins at 1.
            self.refusals.labels(code)
            self.declines.labels(code)
            if issubclass(error, REJECTIONS):
                self.rejections.labels(code)

    def round_committed(self, facts: Facts) -> None:
        """A round was committed."""
        self.rounds_committed.inc()
        self.round_seconds.observe(facts.get("round_seconds", 0.0))
        for name, total in self._totals.items():
            total.inc(facts.get(name, 0.0))
        self.scored(facts)

    def scored(self, facts: Facts) -> None:
        """Facts of the newest round, some of them late."""
        self._facts.values |= {name: value for name, value in facts.items() if name in FACTS}

    def moved(self, up: int, down: int) -> None:
        """A round is over, in which so many payload bytes were received and sent."""
        self.received.inc(up)
        self.sent.inc(down)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics as Prometheus reads them, and their media type. accept: the scraper's Accept header."""
        encode, kind = choose_encoder(accept)
        return encode(self.registry), kind

    def refusals_by_code(self) -> dict[str, int]:
        """Refusals so far, by error code."""
        return by_label(self.refusals)


def by_label(counter: Counter) -> dict[str, int]:
    """What a counter with one label has counted, without what it has not seen."""
    return {
        next(iter(sample.labels.values())): int(sample.value)
        for metric in counter.collect()
        for sample in metric.samples
        if sample.name.endswith("_total") and sample.value
    }
