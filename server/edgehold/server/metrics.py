"""What Prometheus sees: counts by reason and the facts of the newest round. No client is ever a label."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from edgehold.core.contract import Facts
from edgehold.core.facts import FACTS


class Metrics:
    """All metrics of one server, in the registry it is given."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.rounds_committed = Counter("edgehold_rounds_committed", "Rounds committed", registry=registry)
        self.rounds_abandoned = Counter("edgehold_rounds_abandoned", "Attempts abandoned", registry=registry)
        self.refusals = Counter("edgehold_refusals", "Calls refused, by error code", ["code"], registry=registry)
        self.declines = Counter("edgehold_declines", "Tasks declined by devices, by error code", ["code"], registry=registry)
        self.clients_connected = Gauge("edgehold_clients_connected", "Clients with an open control stream", registry=registry)
        self.round_seconds = Histogram(
            "edgehold_round_duration_seconds", "Time from opening a round to its commit", registry=registry,
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
        )  # fmt: skip
        self._facts = {
            name: Gauge(f"edgehold_round_{name}", f"{fact.help} (newest committed round)", registry=registry)
            for name, fact in FACTS.items()
        }

    def round_committed(self, facts: Facts) -> None:
        """A round was committed."""
        self.rounds_committed.inc()
        self.round_seconds.observe(facts.get("round_seconds", 0.0))
        self.scored(facts)

    def scored(self, facts: Facts) -> None:
        """Facts of the newest round, some of them late."""
        for name, value in facts.items():
            if name in self._facts:
                self._facts[name].set(value)

    def refusals_by_code(self) -> dict[str, int]:
        """Refusals so far, by error code."""
        return {
            sample.labels["code"]: int(sample.value)
            for metric in self.refusals.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        }
