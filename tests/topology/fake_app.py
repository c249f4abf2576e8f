"""A Faust application that is not there: partitions, addresses and states as a test wants them."""

from types import SimpleNamespace
from typing import Any

from faust.types import TP

from schemas.instrument import Instrument, load
from topology.stages.partition import Partition
from topology.table import States
from topology.web.routing import Router
from topology.web.views import Views


class FakeTables(dict[str, Any]):
    """The tables, recovered."""

    def __init__(self, recovery: Any) -> None:
        super().__init__()
        self.actives_ready = True
        self.recovery = recovery


class FakeApp:
    """As much of Faust's application as the router looks at: partitions 0 and 1 are here, 2 and 3 elsewhere."""

    def __init__(self, elsewhere: dict[str, list[int]]) -> None:
        self.should_stop = False
        self.rebalancing = False
        self.rebalancing_count = 0
        self.recovery = SimpleNamespace(
            in_recovery=False, active_stats=dict, standby_tps=set(), standby_offsets={}, standby_highwaters={}
        )
        self.tables = FakeTables(self.recovery)
        self.conf = SimpleNamespace(canonical_url="http://127.0.0.1:6066")
        known = {"http://127.0.0.1:6066": [0, 1], **elsewhere}
        distribution = {address: {"market.raw": numbers} for address, numbers in known.items()}
        self.router = SimpleNamespace(external_topics_metadata=lambda: distribution)
        client = SimpleNamespace(partitions_for_topic=lambda _topic: {0, 1, 2, 3})
        self.consumer = SimpleNamespace(
            assignment=lambda: {TP("market.raw", 0), TP("market.raw", 1), TP("state", 2)},
            _thread=SimpleNamespace(_consumer=client),
        )
        self.http_client: Any = None


def router_of(app: FakeApp) -> Router:
    """A router of a worker without any lane yet."""
    lanes: Any = SimpleNamespace(lanes={})
    return Router(app, lanes, "market.raw", load())


def views_of(partition: Partition, instruments: dict[str, Instrument]) -> Views:
    """The views of the only worker, with one partition of four that has data."""
    app: Any = FakeApp({})
    app.consumer.assignment = lambda: {TP("market.raw", number) for number in range(4)}
    app.consumer_generation_id = 1
    app.tables["symbols"] = SimpleNamespace(data=SimpleNamespace(states=lambda _number: States()))
    lane = SimpleNamespace(task=SimpleNamespace(partition=partition, is_behind=False))
    tasks: Any = SimpleNamespace(lanes={partition.number: lane})
    return Views(app, tasks, "", instruments)
