"""Peer: stock Faust, as its documentation teaches it. One agent, one table write and one output an event.

`python -m bench.peer_faust BROKER TOPIC OUTPUT GROUP PARTITIONS [LOGLEVEL]`. Its defaults everywhere, but for the
event loop, which is uvloop as in tickloom's worker, and raw bytes as keys and values, so that no JSON is made.
"""

import os
import sys
import tempfile

import faust
import mode.loop

from bench.avro import recode

mode.loop.use("uvloop")


def build(broker: str, topic: str, output: str, group: str, partitions: int, folder: str) -> faust.App:
    """Make the application; its id is the consumer group."""
    app = faust.App(
        group,
        broker=f"kafka://{broker}",
        store="memory://",
        datadir=folder,
        topic_partitions=partitions,
        key_serializer="raw",
        value_serializer="raw",
    )
    source = app.topic(topic, key_type=bytes, value_type=bytes)
    copies = app.topic(output, key_type=bytes, value_type=bytes)
    last = app.Table("last", key_type=bytes, value_type=bytes)
    begun = False

    @app.agent(source, name="quotes")
    async def quotes(stream: faust.StreamT[bytes]) -> None:
        nonlocal begun
        async for event in stream.events():
            if not begun:
                begun = True
                os.write(1, b"FIRST\n")  # not print: Faust sends that to its log
            value = recode(event.value)
            if value is not None:
                last[event.key] = value
                await copies.send(key=event.key, value=value)

    return app


if __name__ == "__main__":
    broker, topic, output, group, partitions, *level = sys.argv[1:]
    sys.argv = ["faust", "worker", "--without-web", *(["--loglevel", *level] if level else [])]
    with tempfile.TemporaryDirectory(prefix="tickloom-bench-faust-") as folder:  # else it makes one where it runs
        build(broker, topic, output, group, int(partitions), folder).main()
