"""Every number we report, defined once: the same name is a metric, a log field and a report cell."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fact:
    """name: snake case with its unit at the end; unit: for people; help: one sentence."""

    name: str
    unit: str
    help: str


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
    Fact("mask_groups", "groups", "Groups of devices whose updates were summed under masks"),
    Fact("mask_groups_void", "groups", "Groups whose sum broke the method's law and was left out"),
    Fact("mask_groups_lost", "groups", "Groups that lost too many members, or too many good shares, to be summed"),
    Fact("mask_survivors", "devices", "Devices whose updates are in the sums that the round was folded from"),
    Fact("bytes_up", "bytes", "Payload bytes received from clients in the round"),
    Fact("bytes_down", "bytes", "Payload bytes sent to clients in the round"),
    Fact("round_seconds", "s", "Time from opening the round to its commit"),
    Fact("aggregate_seconds", "s", "Time the server spent on folding the updates"),
)

FACTS: dict[str, Fact] = {fact.name: fact for fact in _ALL}
