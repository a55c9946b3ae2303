"""Playing the runs on a backend: what each gave, and its model on the host, read back before it counts."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgehold.attacks.demo.outcome import Failed, Outcome
from edgehold.attacks.demo.progress import Screen
from edgehold.attacks.multinode.backend import Backend
from edgehold.attacks.multinode.config import Testbed
from edgehold.attacks.multinode.partitions import Partitions
from edgehold.client import model_file


@dataclass(frozen=True, slots=True)
class Played:
    """One run. rounds: facts of each; digest: SHA-256 of the model's weights; cuts: who was off the network, in which round."""

    outcome: Outcome
    rounds: Sequence[Mapping[str, float]]
    digest: str
    cuts: Sequence[Mapping[str, object]]

    def as_dict(self) -> dict[str, Any]:
        """As it stands in the report."""
        return {
            **self.outcome.as_dict(),
            "accuracies": self.outcome.accuracies,
            "round_seconds": [round(facts["round_seconds"], 3) for facts in self.rounds],
            "clients_admitted": [int(facts["clients_admitted"]) for facts in self.rounds],
            "model": self.outcome.model.name,
            "weights_sha256": self.digest,
            "cuts": list(self.cuts),
        }


def play(bed: Testbed, backend: Backend, runs: Sequence[str], models: Path, show: Screen) -> list[Played]:
    """These runs, in the order of `RUNS`, on a backend that is up; liars turn before the first run that has them."""
    found, lying = list[Played](), False
    for run in runs:
        scenario = bed.scenario(run)
        if scenario.lied and not lying and bed.liars:
            backend.turn()
            lying = True
            show.say(f"{' and '.join(bed.liars)} have restarted as liars, under the identities they had")
        found.append(_one(bed, backend, run, models, show))
    return found


def _one(bed: Testbed, backend: Backend, run: str, models: Path, show: Screen) -> Played:
    scenario, rounds = bed.scenario(run), bed.testbed.rounds
    facts_of: dict[int, Mapping[str, float]] = {}
    told, cuts = show.run(scenario, rounds), Partitions(bed, backend)

    def on_round(number: int, facts: Mapping[str, float]) -> None:
        cuts.begin(number + 1, rounds)
        # A round is told twice, first without its score: count it once.
        if "accuracy" in facts and number not in facts_of:
            facts_of[number] = facts
            told(number, dict(facts))

    cuts.begin(1, rounds)
    try:
        ended = backend.run(run, bed.plan(run), on_round)
    finally:
        cuts.end()
    if ended.state != "finished" or len(facts_of) != rounds:
        raise Failed(
            f"run {run}: {ended.state}, {len(facts_of)} of {rounds} rounds committed and scored. {ended.error}".strip()
        )
    path = models / f"{run}.safetensors"
    backend.fetch(run, path)
    _, weights, _ = model_file.read(path)  # a file that cannot be loaded is no result
    ordered = [facts_of[number] for number in sorted(facts_of)]
    outcome = Outcome(
        scenario, bed.testbed.seed, [facts["accuracy"] for facts in ordered], ended.seconds,
        int(sum(facts["bytes_up"] for facts in ordered)), path,
    )  # fmt: skip
    return Played(outcome, ordered, hashlib.sha256(weights.tobytes()).hexdigest(), cuts.as_list())
