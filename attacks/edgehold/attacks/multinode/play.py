"""Playing the runs on a backend: what each gave, and its model on the host, read back before it counts."""

import hashlib
import json
import shutil
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
from edgehold.core import handover


@dataclass(frozen=True, slots=True)
class Played:
    """One run. rounds: facts of each; digest: SHA-256 of the model's weights; cuts: who was off the network, in which round;
    exported: the model as devices run it, and which device has it in force.
    """

    outcome: Outcome
    rounds: Sequence[Mapping[str, float]]
    digest: str
    cuts: Sequence[Mapping[str, object]]
    exported: Mapping[str, object]

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
            "exported": dict(self.exported),
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
    exported = _handed(bed, backend, run, models / run)
    return Played(outcome, ordered, hashlib.sha256(weights.tobytes()).hexdigest(), cuts.as_list(), exported)


def _handed(bed: Testbed, backend: Backend, run: str, folder: Path) -> Mapping[str, object]:
    """The last step: the model leaves the server as an ONNX graph, and the first device proves it and puts it in force."""
    if folder.exists():  # left by an earlier testbed, as the other results are that this one writes over
        shutil.rmtree(folder)
    backend.export(run, folder)
    device = bed.clients[0]
    taken = backend.deploy(folder, device)
    manifest = (folder / handover.MANIFEST).read_bytes()
    if hashlib.sha256(manifest).hexdigest() != taken:
        raise Failed(f"run {run}: {device} has another model in force than {folder}")
    said = json.loads((folder / handover.PARITY).read_bytes())
    return {
        "folder": folder.name, "manifest_sha256": taken, "deployed_on": device, "records": said["records"],
        "max_abs": said["max_abs"], "same_decision": said["same_decision"],
    }  # fmt: skip
