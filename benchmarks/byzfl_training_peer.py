"""ByzFL's clients and server, run by the python of their environment: `python byzfl_training_peer.py IN OUT ROUNDS BEGAN`.

IN: what `benchmarks.engine` left (npz): records of every client, first model, learning rate. Each round every client takes the
gradient on all its records in one batch, and the server a step with their mean. OUT: where the last model goes (npy). BEGAN:
when this process was started, seconds since 1970. Prints {"round": ms, median, "start": s until the first round ended}. Uses
nothing of ours.
"""

import json
import sys
import time
from statistics import median
from typing import Any

import numpy as np
from rules_peer import load  # type: ignore[import-not-found,unused-ignore]


def main(source: str, out: str, rounds: int, began: float) -> None:
    """Train and print."""
    byzfl = load()
    import torch  # type: ignore[import-not-found,unused-ignore]
    from byzfl.fed_framework import models  # type: ignore[import-not-found,unused-ignore]

    torch.set_num_threads(1)

    def perceptron() -> Any:
        return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))

    models.perceptron = perceptron  # models are found there by their names
    data = np.load(source)
    clients = sum(name.startswith("x") for name in data.files)
    how = {
        "model_name": "perceptron", "device": "cpu", "learning_rate": float(data["rate"]), "weight_decay": 0.0,
        "milestones": [], "learning_rate_decay": 1.0, "optimizer_name": "SGD",
    }  # fmt: skip

    def records(number: int) -> Any:
        inputs, targets = (torch.from_numpy(data[f"{part}{number}"]) for part in "xy")
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, targets), batch_size=len(inputs))

    nodes = [
        byzfl.Client(
            how | {"loss_name": "CrossEntropyLoss", "LabelFlipping": False, "nb_labels": 10, "momentum": 0.0}
            | {"training_dataloader": records(number), "store_per_client_metrics": False}
        )
        for number in range(clients)
    ]  # fmt: skip
    aggregator = {"name": "Average", "parameters": {}}
    server = byzfl.Server(how | {"test_loader": records(0), "aggregator_info": aggregator, "pre_agg_list": []})
    server.set_parameters(torch.from_numpy(data["first"]))
    ends = []
    for _ in range(rounds):
        now = server.get_dict_parameters()
        for node in nodes:
            node.set_model_state(now)
            node.compute_gradients()
        server.update_model_with_gradients([node.get_flat_gradients_with_momentum() for node in nodes])
        ends.append(time.time())
    np.save(out, server.get_flat_parameters().detach().numpy())
    walls = [after - before for before, after in zip(ends, ends[1:], strict=False)]
    print(json.dumps({"round": 1000 * median(walls), "start": ends[0] - began}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
