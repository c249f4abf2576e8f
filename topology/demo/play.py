"""The demo while it runs: feed, read back, count, show, and wait at the end until all is settled.

Threads around one lock. The feed sends each event when it is due and notes it in `Expected`; the reader takes every
record of the output topics into `Seen`; the counter asks the database how many rows there are; settling waits until
worker and sink have nothing left, and tells the reader where to stop. The main thread draws, and raises whatever
ended a thread or a process too early.
"""

import random
import signal
import subprocess
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from rich.console import Console
from rich.live import Live

from connectors.runtime.producer import RawProducer
from connectors.simulated import SECOND, Feed
from schemas import topics
from schemas.codec import Codec
from schemas.record import Clock, Quote
from schemas.registry import codec_for
from topology import admin
from topology.config import Settings
from topology.demo import rows
from topology.demo.expected import Expected
from topology.demo.seen import Seen
from topology.demo.view import Frame, line, picture
from topology.stages import calendar
from topology.storage import database

REFRESH_S: Final = 0.25
LINE_S: Final = 5  # between two lines where there is no terminal
SETTLE_LIMIT_S: Final = 60
COUNT_SHARE: Final = 20  # rows are counted again after this many times as long as it took
BEHIND_NS: Final = SECOND // 2
STOPS: Final = (signal.SIGINT, signal.SIGTERM)
OUTPUTS: Final = tuple(topic for topic in topics.TOPICS if topic is not topics.RAW)

Offsets = dict[tuple[str, int], int]  # by (topic, partition)


class DemoError(OSError):
    """A part of the demo failed: one line that says which, and where its log is."""


@dataclass
class Demo:
    """What is running, and what its threads share; hold the lock to change or to walk over expected and seen."""

    settings: Settings  # of this run, its servers filled in
    folder: Path
    console: Console
    seconds: float | None
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)  # asked to end, with a comparison
    over: threading.Event = field(default_factory=threading.Event)  # every thread ends, whatever is left
    expected: Expected = field(default_factory=Expected)
    seen: Seen = field(default_factory=Seen)
    rows: dict[str, int] = field(default_factory=dict)  # in the database, by table
    ends: Offsets = field(default_factory=dict)  # where the reader may stop, once that is known
    processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    behind_ns: int = 0  # the most by which the feed sent a tick too late
    web: str = ""  # where the worker's web views begin
    recipe: str = ""  # what gives the same feed again
    fed: bool = False
    agreed: bool = True  # until the comparison says otherwise

    def log(self, name: str) -> Path:
        """Where a process writes its log."""
        return self.folder / f"{name}.log"


def check_alive(demo: Demo) -> None:
    """Raise DemoError where worker or sink have ended, with their last words."""
    for name, process in demo.processes.items():
        if (code := process.poll()) is not None:
            log = demo.log(name)
            lines = [text.strip() for text in log.read_text(errors="replace").splitlines() if text.strip()]
            errors = [text for text in lines if "Error" in text]  # after which a worker still says much
            words = (errors or lines or ["without a word"])[-1]
            raise DemoError(f"the {name} ended with code {code}: {words} (all of it: {log})")


def play(demo: Demo) -> None:
    """Feed until it is over, and until all of it was read and stored. Raises what went wrong on the way."""
    handlers = {number: signal.signal(number, partial(_on_signal, demo)) for number in STOPS}
    with ThreadPoolExecutor(4) as pool:
        try:
            feeding = pool.submit(_feed, demo)
            reading = pool.submit(_read, demo)
            threads = [feeding, reading, pool.submit(_count, demo), pool.submit(_settle, demo, feeding)]
            _show(demo, threads, reading)
        finally:
            demo.over.set()
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _on_signal(demo: Demo, _number: int, _frame: object) -> None:
    """End with a comparison; when asked twice, without."""
    if demo.stop.is_set():
        raise KeyboardInterrupt
    demo.stop.set()


def _feed(demo: Demo) -> None:
    """Send every event when it is due."""
    producer = RawProducer(demo.settings.kafka, demo.settings.run, codec_for(demo.settings.schema_registry_url))
    start_ns = time.time_ns() + SECOND // 4
    feed = Feed(random.randrange(2**32), start_ns, start_ns + int(demo.seconds * SECOND) if demo.seconds else 0)
    demo.recipe = f"seed {feed.seed}, start {feed.start_ns}"
    for event in feed:
        wait_ns = event.due_ns - time.time_ns()
        if wait_ns > 0:
            time.sleep(wait_ns / SECOND)
        demo.behind_ns = max(demo.behind_ns, -wait_ns)
        if demo.over.is_set():
            producer.abandon()
            return
        if demo.stop.is_set():
            feed.finish()
        if -wait_ns > BEHIND_NS and isinstance(event.record, Quote) and event.record.ts_recv > event.due_ns:
            continue  # it counts as of its append, which would be too far from when it was due
        with demo.lock:
            demo.expected.note(event)
        if isinstance(event.record, Clock):  # which a worker writes in the live run only
            for partition in range(producer.partitions):
                producer.clock(partition, event.due_ns)
            producer.poll()
        else:
            producer.send(event.record)
    producer.flush()
    demo.fed = True


def _read(demo: Demo) -> None:
    """Read every output topic from its beginning to the ends that `_settle` names."""
    codec = codec_for(demo.settings.schema_registry_url)
    kinds = {topics.named(topic.name, demo.settings.run): topic for topic in OUTPUTS}
    said: list[KafkaError] = []
    consumer = Consumer(
        {
            **demo.settings.kafka,
            "group.id": topics.named("tickloom-demo", demo.settings.run),  # demanded; nothing is committed
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "error_cb": said.append,
            "log_level": 0,  # it would print a line for each of its attempts to connect
        }
    )
    found = consumer.list_topics(timeout=10).topics
    positions: Offsets = {(name, number): 0 for name in kinds for number in found[name].partitions}
    consumer.assign([TopicPartition(name, number, OFFSET_BEGINNING) for name, number in positions])
    try:
        while not demo.over.is_set() and not (demo.ends and positions == positions | demo.ends):
            first = consumer.poll(0.1)
            messages = [first, *consumer.consume(1000, timeout=0)] if first is not None else []
            if any(error.code() == KafkaError._ALL_BROKERS_DOWN for error in said):
                raise DemoError(f"Kafka at {demo.settings.broker} is gone")
            now_ns = time.time_ns()
            with demo.lock:
                for message in messages:
                    _take(demo.seen, codec, kinds, positions, message, now_ns)
    finally:
        consumer.close()


def _take(
    seen: Seen, codec: Codec, kinds: dict[str, topics.Topic], positions: Offsets, message: Any, now_ns: int
) -> None:
    at = (message.topic(), message.partition())
    if (error := message.error()) is not None:
        if error.code() != KafkaError._PARTITION_EOF:
            raise KafkaException(error)
        positions[at] = message.offset()
        return
    positions[at] = message.offset() + 1
    if kinds[at[0]] is topics.DEAD_LETTER:
        seen.dead_letters += 1
    else:
        seen.take(codec.decode(message.value()), now_ns)


def _count(demo: Demo) -> None:
    """Count the rows of the run, so often that it costs the database little."""
    with database.connect(demo.settings.database) as connection:
        pause_s = 0.0
        while not demo.over.wait(pause_s):
            began = time.monotonic()
            demo.rows = rows.count(connection, demo.settings.run)
            pause_s = max(1.0, COUNT_SHARE * (time.monotonic() - began))


def _settle(demo: Demo, feeding: "Future[None]") -> None:
    """Wait until the feed has ended and worker and sink have nothing left; then name the ends of the outputs."""
    feeding.result()
    client = admin.connect(demo.settings.kafka)
    limit = time.monotonic() + SETTLE_LIMIT_S
    while not demo.over.is_set() and any(group.total for group in admin.groups(client, demo.settings.run)):
        if time.monotonic() > limit:
            raise DemoError(
                f"worker and sink are still behind {SETTLE_LIMIT_S} s after the end of the feed; logs: {demo.folder}"
            )
        time.sleep(0.2)
    names = [topics.named(topic.name, demo.settings.run) for topic in OUTPUTS]
    found = admin.offsets(client, names, admin.LATEST)
    demo.ends = {(name, number): end for name, ends in found.items() for number, end in ends.items()}


def _show(demo: Demo, threads: "list[Future[None]]", reading: "Future[None]") -> None:
    """Draw until everything is read. Raises what ended a thread or a process before that."""
    began = next_line = time.monotonic()
    is_terminal = demo.console.is_terminal
    with Live(console=demo.console, screen=True, auto_refresh=False) if is_terminal else nullcontext() as live:
        while not reading.done():
            check_alive(demo)
            for thread in threads:
                if thread.done():
                    thread.result()
            frame = _frame(demo, time.monotonic() - began)
            if live is not None:
                with demo.lock:
                    drawn = picture(frame)
                live.update(drawn, refresh=True)
            elif time.monotonic() >= next_line:
                next_line += LINE_S
                with demo.lock:
                    demo.console.print(line(frame), highlight=False, soft_wrap=True)
            time.sleep(REFRESH_S)
    reading.result()


def _frame(demo: Demo, elapsed_s: float) -> Frame:
    return Frame(
        seconds=demo.seconds,
        elapsed_s=elapsed_s,
        now_ns=time.time_ns(),
        expected=demo.expected,
        seen=demo.seen,
        rows=demo.rows,
        notes=_notes(demo),
        web=demo.web,
        width=demo.console.width,
        height=demo.console.height,
    )


def _notes(demo: Demo) -> list[str]:
    notes = []
    is_open, _ = calendar.session("fx", time.time_ns())
    if not is_open:
        notes.append("FX and metals are closed at this hour; the simulated ones never are")
    if demo.fed:
        notes.append("the feed has ended; the rest is read and stored")
    elif demo.stop.is_set():
        notes.append("what was injected comes to its outcome (Ctrl-C again: stop at once)")
    return notes
