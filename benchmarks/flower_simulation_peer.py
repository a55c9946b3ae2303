"""Flower's simulation engine, run by the python of its own environment: `python ... IN OUT ROUNDS ACTORS BEGAN`.

IN: what `benchmarks.engine` left (npz): records of every client, first model, learning rate. Each round every client takes one
step of gradient descent on all its records, and the server takes the mean. OUT: where the last model goes (npy). BEGAN: when
this process was started, seconds since 1970. Prints {"round": ms, median, "start": s until the first round ended}. Uses nothing
of ours.
"""

import json
import os
import sys
import time
from statistics import median
from typing import Any

import numpy as np

HELD: dict[str, Any] = {}


def held(source: str) -> dict[str, Any]:
    """Records and the model, loaded once in each process."""
    if not HELD:
        import torch  # type: ignore[import-not-found,unused-ignore]

        torch.set_num_threads(1)
        data = np.load(source)
        HELD.update({key: data[key] for key in data.files})
        net = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
        HELD["net"], HELD["tensors"] = net, {}
    return HELD


def stepped(source: str, number: int, flat: Any) -> Any:
    """The model, (4810,) float32, after one step on the records of one client."""
    import torch

    all_ = held(source)
    if number not in all_["tensors"]:
        all_["tensors"][number] = torch.from_numpy(all_[f"x{number}"]), torch.from_numpy(all_[f"y{number}"])
    inputs, targets = all_["tensors"][number]
    net = all_["net"]
    torch.nn.utils.vector_to_parameters(torch.from_numpy(flat.copy()), net.parameters())
    net.zero_grad()
    torch.nn.functional.cross_entropy(net(inputs), targets).backward()  # type: ignore[no-untyped-call,unused-ignore]
    with torch.no_grad():
        for parameter in net.parameters():
            parameter -= float(all_["rate"]) * parameter.grad
    return torch.nn.utils.parameters_to_vector(net.parameters()).detach().numpy()


def main(source: str, out: str, rounds: int, actors: int, began: float) -> None:
    """Simulate and print."""
    os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "RAY_DEDUP_LOGS": "0"}
    from flwr.client import NumPyClient  # type: ignore[import-not-found,unused-ignore]
    from flwr.clientapp import ClientApp  # type: ignore[import-not-found,unused-ignore]
    from flwr.common import ndarrays_to_parameters  # type: ignore[import-not-found,unused-ignore]
    from flwr.server import (  # type: ignore[import-not-found,unused-ignore]
        ServerApp,
        ServerAppComponents,
        ServerConfig,
    )
    from flwr.server.strategy import FedAvg  # type: ignore[import-not-found,unused-ignore]
    from flwr.simulation import run_simulation  # type: ignore[import-not-found,unused-ignore]

    clients = sum(name.startswith("x") for name in np.load(source).files)
    first, ends = np.load(source)["first"], list[float]()

    class Steps(NumPyClient):  # type: ignore[misc,unused-ignore]
        def __init__(self, number: int) -> None:
            self.number = number

        def fit(self, parameters: Any, config: Any) -> Any:
            return [stepped(source, self.number, parameters[0])], 1, {}

    def seen(number: int, parameters: Any, config: Any) -> Any:
        ends.append(time.time())
        np.save(out, parameters[0])
        return 0.0, {}

    def server(context: Any) -> Any:
        strategy = FedAvg(
            fraction_fit=1.0, fraction_evaluate=0.0, min_fit_clients=clients, min_available_clients=clients,
            initial_parameters=ndarrays_to_parameters([first]), evaluate_fn=seen,
        )  # fmt: skip
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=rounds))

    def client(context: Any) -> Any:
        return Steps(int(context.node_config["partition-id"])).to_client()

    run_simulation(
        server_app=ServerApp(server_fn=server), client_app=ClientApp(client_fn=client), num_supernodes=clients,
        backend_config={"init_args": {"num_cpus": actors}, "client_resources": {"num_cpus": 1.0}},
    )  # fmt: skip
    if len(ends) != rounds + 1:
        raise RuntimeError(f"{len(ends) - 1} of {rounds} rounds were played")
    walls = [after - before for before, after in zip(ends[1:], ends[2:], strict=False)]
    print(json.dumps({"round": 1000 * median(walls), "start": ends[1] - began}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
