"""DP-FedAvg on the device: FedAvg's half. What protects is added at the server, which must be trusted with single updates."""

from edgehold.defenses.baselines.fedavg.client import FedAvgClient, client_side

__all__ = ["FedAvgClient", "client_side"]
