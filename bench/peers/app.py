"""The worker of the peers' work: `python -m bench.peers.app exactly_once|at_least_once`.

Everything that moves data is tickloom's own: the transport, the lanes, the table, the producers. The environment is
what the peers' bench.py gives to every peer: PEER_BROKER, PEER_RUN, PEER_INPUT, PEER_COUNT, PEER_STATE.
"""

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # it does not export it

from bench.peers.work import OUTPUTS, Work
from topology.agents import Tasks
from topology.app import BYTES, App, drive, new_producer, run
from topology.delivery import COMMIT_SECONDS
from topology.owners import Owners
from topology.table import StateTable
from topology.transport import SETTINGS

PARTITIONS: Final = 4


class Counted(Tasks[Work]):
    """Says when the first and the last of so many records were taken up, and ends the worker then."""

    left = 0

    async def process(self, event: Any, records: list[Any]) -> None:
        """Count a run of records."""
        if self.left == 0:
            self.left = int(os.environ["PEER_COUNT"])
            say("FIRST")
        self.left -= len(records)
        await super().process(event, records)
        if self.left == 0:
            say("LAST")
            os.kill(os.getpid(), signal.SIGTERM)


def say(what: str) -> None:
    """Tell the peers' runner the time in ms."""
    os.write(1, f"{what} {time.time_ns() // 1_000_000}\n".encode())


def build(broker: str, name: str, source: str, folder: str, delivery: str) -> App:
    """Make the application."""
    app = App(f"peer-app-{name}", broker=f"tickloom://{broker}", datadir=folder, web_enabled=False, **SETTINGS)
    changelog = app.topic(f"peer-app-{name}-state-changelog", internal=True, **BYTES)
    table = StateTable(app, name="state", key_type=bytes, value_type=bytes, changelog_topic=changelog)
    app.tables.add(table)
    tasks = Counted(
        app,
        table,
        source,
        [f"peer-{output}-{name}" for output in OUTPUTS],
        task=Work,
        producer=partial(new_producer, {"bootstrap_servers": broker}),
        owners=Owners(broker, f"peer-app-{name}-owners"),
        delivery=delivery,
        commit_seconds=COMMIT_SECONDS[delivery],
    )
    drive(app, app.topic(source, **BYTES), tasks)

    async def start() -> None:
        await tasks.start()

    app.task(start)
    return app


def make_topics(broker: str, name: str) -> None:
    """Make those of the state and of the owners; the peers' runner makes those of the outputs."""
    names = [f"peer-app-{name}-state-changelog", f"peer-app-{name}-owners"]
    topics = [NewTopic(each, PARTITIONS, 1, config={"cleanup.policy": "compact"}) for each in names]
    client = AdminClient({"bootstrap.servers": broker})  # has to live until they are made
    for made in client.create_topics(topics).values():
        made.result()


if __name__ == "__main__":
    broker, name, folder = os.environ["PEER_BROKER"], os.environ["PEER_RUN"], os.environ["PEER_STATE"]
    Path(folder).mkdir(parents=True, exist_ok=True)
    make_topics(broker, name)
    run(build(broker, name, os.environ["PEER_INPUT"], folder, sys.argv[1]))
