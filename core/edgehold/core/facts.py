"""Every number we report, defined once: the same name is a metric, a log field and a report cell."""

from dataclasses import dataclass

_SUFFIX = {"bytes": "bytes", "s": "seconds", "share": "ratio", "degrees": "degrees", "dB": "decibels"}
"""Unit -> how names of metrics say it, at their end. What is counted in things has the things in its name already."""
_WRITTEN = {"bytes": "bytes", "s": "seconds", "dB": "db"}
"""Unit -> the word of a fact's own name that says it."""


@dataclass(frozen=True, slots=True)
class Fact:
    """name: snake case with its unit at the end; unit: for people; help: one sentence."""

    name: str
    unit: str
    help: str

    @property
    def metric(self) -> str:
        """The name as Prometheus has it: unit in full and last, without the word "round" that goes before it anyhow."""
        words = self.name.removeprefix("round_").split("_")
        if self.unit not in _SUFFIX:
            return "_".join(words)
        return "_".join([*(word for word in words if word != _WRITTEN.get(self.unit)), _SUFFIX[self.unit]])


@dataclass(frozen=True, slots=True)
class Total:
    """A counter to which the fact of every committed round is added. name: without `_total`; label: its one label and the value
    that this fact has there, where several facts share a counter.
    """

    name: str
    help: str
    label: tuple[str, str] | None = None


_ALL = (
    Fact("accuracy", "share", "Share of the operator's held-out test records classified correctly by the global model"),
    Fact("loss", "", "Loss of the global model on the operator's held-out test records"),
    Fact("auc", "share", "Probability that an attack among the operator's test records scores above a normal record"),
    Fact("false_positive_rate", "share", "Share of the operator's normal test records that raise an alarm"),
    Fact("precision", "share", "Share of the alarms on the operator's test records that are attacks"),
    Fact("recall", "share", "Share of the attacks among the operator's test records that raise an alarm"),
    Fact("f1", "share", "F1 of the alarms on the operator's test records, attacks being the positive class"),
    Fact("all_alarm_f1", "share", "F1 on the operator's test records of whoever cries alarm at every one"),
    Fact("clients_selected", "clients", "Clients that were given the round's task"),
    Fact("clients_admitted", "clients", "Clients whose update was admitted before the round closed"),
    Fact("clients_declined", "clients", "Clients that declined or failed the round's task"),
    Fact("clients_rejected", "clients", "Clients whose update broke the method's law and was refused"),
    Fact("clients_batched", "clients", "Virtual clients whose training was computed together with others'"),
    Fact("updates_clipped", "updates", "Admitted updates whose norm was above the plan's clip and was cut to it"),
    Fact("update_norm_median", "", "Median Euclidean norm of the admitted updates"),
    Fact("clip_norm", "", "Norm to which the server cut the round's updates, where that adapts"),
    Fact("step_norm", "", "Euclidean norm of the change of the global model"),
    Fact("edges_swapped", "share", "Share of the model's edges that the round put in place of others"),
    Fact("edges_contested", "share", "Share of the edges that the plan's number of liars could take in or out of the model"),
    Fact("signs_turned", "share", "Share of the weights left whose voted sign differs from the round before"),
    Fact("signs_contested", "share", "Share of the weights left whose sign the plan's number of liars could turn"),
    Fact("updates_misplaced", "updates", "Admitted updates that answered another phase of the method, and were left out"),
    Fact("columns_constant", "columns", "Columns without any variation over all devices, which get width 1"),
    Fact("consensus_gap", "", "Root of the mean squared distance of the round's bases from the one they agreed on"),
    Fact("subspace_turn", "degrees", "Largest principal angle between the subspace and the one of the round before"),
    Fact("alarm_threshold", "", "Score above which a record is an alarm"),
    Fact("epsilon_worst", "", "Largest epsilon, at the plan's delta, that an admitted client has spent in this run"),
    Fact("epsilon_median", "", "Median over the run's admitted clients of the epsilon spent in it, at the plan's delta"),
    Fact("mae", "", "Mean absolute error of the global model on the operator's test records, in the unit of what is predicted"),
    Fact("nmsd_db", "dB", "Squared distance of the global model to a known solution over the square of the solution"),
    Fact(
        "heads_left_out",
        "heads",
        "Heads of the round that the next one does not list: too long a column, another round or listing",
    ),
    Fact("own_accuracy", "share", "Share of a device's own test records that its personal model classifies correctly"),
    Fact("labels_contradicted", "share", "Share of a device's training labels that its own trained head contradicts"),
    Fact("channel_noise_up", "", "Standard deviation of the link's noise on every number that a device sends"),
    Fact("channel_noise_down", "", "Standard deviation of the link's noise on every number that a device receives"),
    Fact("penalty", "", "Weight rho of the squared distance between a device's solution and the consensus"),
    Fact("devices_in_mean", "devices", "Devices whose last update is part of the mean that the server broadcasts"),
    Fact("mask_groups", "groups", "Groups of the round whose masked sum was unmasked and lawful"),
    Fact("mask_groups_void", "groups", "Groups of the round whose sum broke the method's law and was thrown away"),
    Fact("mask_groups_lost", "groups", "Groups of the round of which too few were left: their sums stayed masked"),
    Fact("mask_groups_recovered", "groups", "Unmasked groups whose sum had to do without some of their members"),
    Fact("mask_survivors", "clients", "Clients whose updates are in the round's lawful sums"),
    Fact("mask_gone_before_keys", "clients", "Clients that were asked and sent no keys in time"),
    Fact("mask_gone_before_shares", "clients", "Clients that sent keys and then no sealed shares in time"),
    Fact("mask_gone_before_upload", "clients", "Clients that sent shares and then no masked vector in time"),
    Fact("mask_gone_before_reveal", "clients", "Clients that sent a masked vector and did not reveal before it was unmasked"),
    Fact(
        "mask_liars_withstood", "share", "Share of liars below which most groups are free of them; 0 with fewer than 5 groups"
    ),
    Fact("mask_keys_bytes", "bytes", "Bytes of keys and rosters of the round, both ways"),
    Fact("mask_shares_bytes", "bytes", "Bytes of sealed shares of the round, both ways"),
    Fact("mask_reveals_bytes", "bytes", "Bytes of survivor sets and revealed shares of the round, both ways"),
    Fact("mask_keys_cpu_seconds", "s", "Processor time the server spent on keys and groups"),
    Fact("mask_shares_cpu_seconds", "s", "Processor time the server spent on sealed shares"),
    Fact("mask_reveals_cpu_seconds", "s", "Processor time the server spent on survivor sets and revealed shares"),
    Fact("mask_sums_cpu_seconds", "s", "Processor time the server spent on unmasking and testing sums"),
    Fact("bytes_up", "bytes", "Payload bytes received from clients in the round"),
    Fact("bytes_down", "bytes", "Payload bytes sent to clients in the round"),
    Fact("round_seconds", "s", "Time from opening the round to its commit"),
    Fact("aggregate_seconds", "s", "Time the server spent on folding the updates"),
)

FACTS: dict[str, Fact] = {fact.name: fact for fact in _ALL}

_GROUPS = "Groups of masked sums of committed rounds, by what became of them"
_MESSAGES = "Bytes of the steps of masked sums of committed rounds, both ways; masked vectors are payload"
_DROPPED = "Clients that dropped out of masked sums of committed rounds, by the message they did not send"

TOTALS: dict[str, Total] = {
    "clients_selected": Total("clients_selected", "Clients that were given a task, over committed rounds"),
    "clients_admitted": Total("clients_admitted", "Clients whose update was admitted, over committed rounds"),
    "updates_clipped": Total("updates_clipped", "Admitted updates that were cut to the plan's clip, over committed rounds"),
    "mask_groups": Total("mask_groups", _GROUPS, ("outcome", "summed")),
    "mask_groups_void": Total("mask_groups", _GROUPS, ("outcome", "void")),
    "mask_groups_lost": Total("mask_groups", _GROUPS, ("outcome", "lost")),
    "mask_keys_bytes": Total("mask_message_bytes", _MESSAGES, ("step", "keys")),
    "mask_shares_bytes": Total("mask_message_bytes", _MESSAGES, ("step", "shares")),
    "mask_reveals_bytes": Total("mask_message_bytes", _MESSAGES, ("step", "reveals")),
    "mask_gone_before_keys": Total("mask_dropouts", _DROPPED, ("stage", "keys")),
    "mask_gone_before_shares": Total("mask_dropouts", _DROPPED, ("stage", "shares")),
    "mask_gone_before_upload": Total("mask_dropouts", _DROPPED, ("stage", "upload")),
    "mask_gone_before_reveal": Total("mask_dropouts", _DROPPED, ("stage", "reveal")),
}
"""Facts that add up over rounds, by name."""
