"""Which Kafka, as the clients of librdkafka are told it."""

from collections.abc import Mapping
from typing import Any

#: Addresses with commas between, or a client's settings with them: security, for one.
Cluster = str | Mapping[str, Any]


def client(cluster: Cluster) -> dict[str, Any]:
    """The settings with which a client reaches a cluster."""
    return {"bootstrap.servers": cluster} if isinstance(cluster, str) else dict(cluster)


def address(cluster: Cluster) -> str:
    """Where it is, as it may be shown."""
    return str(client(cluster)["bootstrap.servers"])
