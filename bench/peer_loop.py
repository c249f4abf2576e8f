"""Peer: what one writes by hand with confluent-kafka. It decodes with fastavro, encodes again, and produces.

`python -m bench.peer_loop BROKER TOPIC OUTPUT GROUP RECORDS`. No stage, no state; nothing survives a crash but the
offsets, which the client commits every 5 s on its own.
"""

import os
import signal
import sys

from confluent_kafka import Consumer, Producer

from bench.avro import recode


def run(broker: str, topic: str, output: str, group: str, records: int) -> None:
    """Copy so many records and commit; then wait to be stopped, so that what was used can be read."""
    consumer = Consumer({"bootstrap.servers": broker, "group.id": group, "auto.offset.reset": "earliest"})
    producer = Producer(
        {
            "bootstrap.servers": broker,
            "linger.ms": 5,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    consumer.subscribe([topic])
    count = 0
    while count < records:
        messages = consumer.consume(1000, 0.1)
        if messages and not count:
            os.write(1, b"FIRST\n")
        for message in messages:
            value = recode(message.value() or b"")
            while value is not None:
                try:
                    producer.produce(output, value, message.key())
                    break
                except BufferError:
                    producer.poll(0.01)
        count += len(messages)
        producer.poll(0)
    producer.flush()
    consumer.commit(asynchronous=False)
    consumer.close()
    signal.pause()


if __name__ == "__main__":
    broker, topic, output, group, records = sys.argv[1:]
    run(broker, topic, output, group, int(records))
