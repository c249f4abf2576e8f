"""The topic market.dead_letter of a run: read it, send letters back, delete them.

Rule: nothing is remembered outside Kafka. A record that is sent back and the receipt of its letter are written in one
transaction, by a producer that fences whoever did the same before and was not finished; the topic is read after that,
to its very end. So a letter goes back once, whoever is killed in between, or asks twice, or at the same time.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from connectors.runtime.log import LogReader
from schemas import topics
from schemas.flags import BAD_ROW
from schemas.topics import DEAD_LETTER, RAW, named
from topology import admin
from topology.admin import BrokerError
from topology.config import Settings
from topology.dead_letters import letter as form
from topology.dead_letters.letter import Letter

MILLISECOND: Final = 1_000_000
TOGETHER: Final = 500  # letters of one transaction
TOGETHER_BYTES: Final = 4 << 20
ANSWER_S: Final = 30.0

Place = tuple[int, int]
Wanted = Callable[[Letter], bool]


class Box(NamedTuple):
    """Everything that stands in the topic."""

    letters: list[Letter]  # by partition, in order
    receipts: dict[Place, int]  # of the letter at a place: the offset of its receipt in the same partition
    deliveries: list[Place]  # receipts that are for the sink
    ends: dict[int, int]  # by partition: the offset after the last record

    @property
    def open(self) -> list[Letter]:
        """Those that were not sent back."""
        return [each for each in self.letters if each.place not in self.receipts]


class Sent(NamedTuple):
    """What came of sending back."""

    letters: list[Letter]
    before: int  # of those that were asked for: sent back by an earlier command
    refused: list[tuple[Letter, str]]  # and why


class Cut(NamedTuple):
    """What can be deleted of a partition: all before ``end``."""

    number: int
    end: int
    letters: int
    left: int  # that were asked for and stand behind one that was not, or that the sink has still to take


def read(settings: Settings) -> Box:
    """Read the whole topic. Raises BrokerError, KafkaException."""
    with LogReader(settings.kafka) as log:
        starts, ends = _bounds(settings)
        box = Box([], {}, [], ends)
        for message in log.read(named(DEAD_LETTER.name, settings.run), starts, ends):
            headers: Any = message.headers() or []
            place = message.partition() or 0, message.offset() or 0
            retried = form.retried(headers)
            if retried is None:
                written = message.timestamp()[1] * MILLISECOND
                box.letters.append(form.read(place, written, message.key(), message.value(), headers))
                continue
            box.receipts[place[0], retried] = place[1]
            if form.redelivered(headers)[0] != named(RAW.name, settings.run):
                box.deliveries.append(place)
    box.letters.sort(key=lambda each: each.place)
    return box


def open_reasons(settings: Settings, seconds: float) -> tuple[dict[str, int], bool]:
    """How many letters are open, by reason; and whether the topic was read to its end within ``seconds``.

    Raises BrokerError, KafkaException.
    """
    found: dict[Place, str] = {}
    starts, ends = _bounds(settings)
    is_whole = False
    with LogReader(settings.kafka) as log, suppress(TimeoutError):
        for message in log.read(named(DEAD_LETTER.name, settings.run), starts, ends, seconds):
            headers: Any = message.headers() or []
            number, retried = message.partition() or 0, form.retried(headers)
            if retried is not None:
                found.pop((number, retried), None)
                continue
            reason = next((value for name, value in headers if name == "reason"), None) or b"none"
            found[number, message.offset() or 0] = reason.decode(errors="replace")
        is_whole = True
    return dict(Counter(found.values()).most_common()), is_whole


def _bounds(settings: Settings) -> tuple[dict[int, int], dict[int, int]]:
    topic = named(DEAD_LETTER.name, settings.run)
    client = admin.connect(settings.kafka)
    starts = admin.offsets(client, [topic], admin.EARLIEST).get(topic)
    # Of all records: up to what is committed, a receipt could be hidden behind another's open transaction.
    ends = admin.offsets(client, [topic], admin.LATEST).get(topic)
    if starts is None or ends is None:
        raise BrokerError(f"{topic} does not exist at {settings.broker}: {admin.create_command(settings.run)}")
    return starts, ends


def retry(settings: Settings, wanted: Wanted, *, limit: int, dry_run: bool = False) -> Sent:
    """Send the open letters that are wanted back to where they came from, each once.

    ``limit``: how often a record may be sent back in all. Raises BrokerError, KafkaException.
    """
    producer = None if dry_run else _producer(settings)
    box = read(settings)
    back = {named(topic.name, settings.run) for topic in (RAW, *admin.SUNK) if topic is not DEAD_LETTER}
    asked = [each for each in box.letters if wanted(each)]
    sent, refused = [], []
    for each in asked:
        if each.place in box.receipts:
            continue
        if reason := _why_not(each, back, limit, len(box.ends)):
            refused.append((each, reason))
        else:
            sent.append(each)
    if producer is not None:
        for together in _parts(sent):
            _send(producer, settings.run, together)
    return Sent(sent, len(asked) - len(sent) - len(refused), refused)


def _why_not(letter: Letter, back: set[str], limit: int, partitions: int) -> str:
    if letter.reason == BAD_ROW:
        return "a row of a file: put the file right and import it again"
    if letter.topic not in back:
        return f"came from {letter.topic or 'nowhere'}, which is no topic of this run that is read"
    if letter.cut:
        return f"{letter.cut:,} bytes of it were cut off, as it was too large"
    if letter.retries >= limit:
        return f"was sent back {letter.retries} times already"
    if not 0 <= letter.partition < partitions:
        return f"{letter.topic} has no partition {letter.partition} any more"
    if not letter.topic.endswith(RAW.name) and topics.OFFSET_HEADER not in dict(letter.headers) and letter.value:
        return "written by an older version, which did not keep its headers"
    return ""


def _producer(settings: Settings) -> Producer:
    producer = Producer(
        {
            **settings.kafka,
            "transactional.id": f"{admin.app_id(settings.run)}-dead-letter",  # beginning as those of the workers do
            "transaction.timeout.ms": 10_000,  # killed in the middle of one, workers wait behind it for so long
            "compression.type": "lz4",
            "message.max.bytes": 2 << 20,  # the broker's limit counts
            "log_level": 0,
        }
    )
    producer.init_transactions(ANSWER_S)
    return producer


def _parts(letters: Sequence[Letter]) -> Iterator[list[Letter]]:
    part: list[Letter] = []
    size = 0
    for each in letters:
        part.append(each)
        size += len(each.key or b"") + len(each.value or b"")
        if len(part) == TOGETHER or size >= TOGETHER_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _send(producer: Producer, run: str, letters: Sequence[Letter]) -> None:
    """Write records and receipts, all of them or none."""
    raw, box = named(RAW.name, run), named(DEAD_LETTER.name, run)
    try:
        producer.begin_transaction()
        for each in letters:
            headers: Any = form.receipt(each)
            if each.topic == raw:
                back: Any = form.sent_back(each)
                producer.produce(raw, each.value, each.key, each.partition, headers=back)
                producer.produce(box, None, each.key, each.place[0], headers=headers)
            else:
                producer.produce(box, each.value, each.key, each.place[0], headers=headers)
        producer.commit_transaction(ANSWER_S)
    except KafkaException as error:
        with suppress(KafkaException):
            producer.abort_transaction(ANSWER_S)  # or readers of what is committed wait until it times out
        if error.args[0].code() in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH):
            raise BrokerError("another `tickloom dead-letter retry` has begun: this one sends nothing more") from error
        raise BrokerError(
            f"Kafka did not take {len(letters)} letters ({error.args[0].str()}): none of those was sent back; "
            "the same command tries again"
        ) from error


def purgeable(settings: Settings, wanted: Wanted) -> list[Cut]:
    """Find what can be deleted: Kafka deletes from the beginning of a partition only.

    So the wanted letters go that have no other open letter before them, and with them all that were sent back; but
    nothing that the sink has still to take.
    """
    box = read(settings)
    topic = named(DEAD_LETTER.name, settings.run)
    client = admin.connect(settings.kafka)
    taken = admin.committed(client, admin.sink_id(settings.run), [(topic, number) for number in box.ends])
    cuts = []
    for number, end in sorted(box.ends.items()):
        letters = [each for each in box.letters if each.place[0] == number]
        kept = [each.place[1] for each in letters if each.place not in box.receipts and not wanted(each)]
        kept += [at for part, at in box.deliveries if part == number and at >= taken.get((topic, number), 0)]
        stored = taken.get((topic, number), 0 if taken else end)  # where there is no sink nothing waits for it
        stop = min([stored, *kept])
        gone = sum(each.place[1] < stop for each in letters)
        left = sum(each.place[1] >= stop and wanted(each) for each in letters)
        cuts.append(Cut(number, stop, gone, left))
    return cuts


def purge(settings: Settings, cuts: Sequence[Cut]) -> None:
    """Delete for good. Raises BrokerError, KafkaException."""
    topic = named(DEAD_LETTER.name, settings.run)
    client = admin.connect(settings.kafka)
    asked = [TopicPartition(topic, each.number, each.end) for each in cuts if each.letters]
    for future in client.delete_records(asked).values() if asked else ():
        future.result(ANSWER_S)
