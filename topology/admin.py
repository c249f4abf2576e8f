"""The topics and consumer groups of a run: make them, check them, measure their lag, remove them.

The system relies on three things: all topics of a run have the same number of partitions, as
every output goes to the partition number of its input; compacted topics are compacted and nothing else, as
they hold state; and market.raw carries the broker's append time, which bounds what a source's clock claims.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Final, TypeVar

import msgspec
from confluent_kafka import (
    Consumer,
    ConsumerGroupState,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it does not say that it exports them
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from connectors.runtime.cluster import Cluster, address, client
from schemas.instrument import ConfigError
from schemas.topics import BEST, CANDLE, DEAD_LETTER, GAP, PARTITIONS, RAW, STATUS, TICK, TOPICS, named

EARLIEST: Final = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LATEST: Final = OffsetSpec.latest()  # type: ignore[no-untyped-call]
ALL: Final = IsolationLevel.READ_UNCOMMITTED
COMMITTED: Final = IsolationLevel.READ_COMMITTED
ANSWER_S: Final = 5.0  # a broker that is there answers within this
CHANGE_S: Final = 30.0  # making or removing topics may take the controller this long
DEAD_S: Final = 10.0  # a process that was killed is a member until its session has run out
LOOKED_INTO: Final = 10_000  # a rest that is no longer than this may be only markers of transactions

#: What a broker says for a moment after a start, after a topic was made, or when a group is used first.
PASSING: Final = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError._TIMED_OUT,
)
#: What the sink reads.
SUNK: Final = (TICK, BEST, CANDLE, GAP, STATUS, DEAD_LETTER)
#: For every topic: times in our records come from brokers and files, and must not decide what Kafka keeps.
APPEND_TIME: Final = {"message.timestamp.type": "LogAppendTime"}
#: market.raw of a replay is a copy: its records keep the time at which the original was appended, however old.
COPIED: Final = {"message.timestamp.type": "CreateTime", "retention.ms": "-1", "retention.bytes": "-1"}
#: What a replay made stays until it is dropped, for it is there to be compared.
KEPT: Final = {"retention.ms": "-1", "retention.bytes": "-1", "min.compaction.lag.ms": str(2**63 - 1)}
CLIENT: Final = "tickloom@"  # a worker calls itself so, and then by the address of its web views
REPLAY: Final = "replay-"  # the names of such runs begin with this
#: Kafka's own settings would let a topic grow to a gigabyte, or a week, before it is first compacted.
COMPACTION: Final = {
    "segment.bytes": str(64 << 20),
    "segment.ms": "600000",
    "min.cleanable.dirty.ratio": "0.2",
}
#: The state is read back whole at every start and reassignment, so it is kept shorter still.
CHANGELOG: Final = COMPACTION | {"segment.bytes": str(16 << 20), "segment.ms": "60000"}


T = TypeVar("T")


class BrokerError(Exception):
    """Kafka does not answer, or not as asked; the text is one line that says what to do."""


class Plan(msgspec.Struct, frozen=True):
    """A topic as it should be."""

    name: str
    key: str
    doc: str
    required: dict[str, str]  # settings that the system relies on: checked, and put right
    initial: dict[str, str]  # settings of a new topic that are the operator's from then on


class Found(msgspec.Struct, frozen=True):
    """A topic as it is."""

    partitions: int
    replication: int
    config: dict[str, str]
    leaderless: list[int]


class Report(msgspec.Struct, frozen=True):
    """What is wrong with a topic; each problem ends with the command that puts it right."""

    topic: str
    found: Found | None
    problems: list[str]


class Group(msgspec.Struct, frozen=True):
    """A consumer group: its members, and by topic and partition how many records it is behind."""

    name: str
    state: str  # Kafka's word: stable, empty, dead (no such group), …
    members: int
    lag: dict[str, dict[int, int]]
    clients: list[str] = []  # what the members call themselves

    @property
    def total(self) -> int:
        """The lag over all partitions."""
        return sum(sum(partitions.values()) for partitions in self.lag.values())

    @property
    def addresses(self) -> list[str]:
        """Where the web views of its workers are: host:port."""
        return [name.removeprefix(CLIENT) for name in self.clients if name.startswith(CLIENT)]


def app_id(run: str) -> str:
    """The Faust application of the workers, which is also their consumer group."""
    return named("tickloom", run)


def sink_id(run: str) -> str:
    """The Faust application of the sink, which is also its consumer group."""
    return named("tickloom-sink", run)


def state_topic(run: str) -> str:
    """The changelog of the workers' table `symbols`."""
    return f"{app_id(run)}-symbols-changelog"


def owners_topic(run: str) -> str:
    """The claims of the workers (``owners.py``)."""
    return f"{app_id(run)}-owners"


def create_command(run: str) -> str:
    """What to type so that the topics of the run are as they should be."""
    return f"TICKLOOM_RUN={run} tickloom topics create" if run else "tickloom topics create"


def plans(run: str) -> list[Plan]:
    """Every topic of a run: those of the topic table, the changelog of the state, and the claims of the workers."""
    stamped, kept = (COPIED, KEPT) if run.startswith(REPLAY) else (APPEND_TIME, {})
    rows = [
        Plan(
            name=named(topic.name, run),
            key=topic.key,
            doc=topic.doc,
            required={"cleanup.policy": topic.cleanup} | (stamped if topic is RAW else {}),
            initial=APPEND_TIME | (COMPACTION if topic.cleanup == "compact" else {}) | kept,
        )
        for topic in TOPICS
    ]
    doc = "the state of every symbol, from which a worker recovers"
    rows.append(Plan(state_topic(run), "symbol", doc, {"cleanup.policy": "compact"}, APPEND_TIME | CHANGELOG))
    doc = "which worker may write what a partition gives"
    rows.append(Plan(owners_topic(run), "worker", doc, {"cleanup.policy": "compact"}, APPEND_TIME | COMPACTION))
    return rows


class Client(AdminClient):
    """Kafka's admin client, which remembers how it reaches the cluster, for consumers that ask what it can't."""

    def __init__(self, cluster: Cluster, more: dict[str, Any]) -> None:
        super().__init__(client(cluster) | more)
        self.cluster = cluster


def connect(cluster: Cluster) -> Client:
    """Make a client that has reached the broker. Raises BrokerError within ANSWER_S where it is away."""
    said: list[KafkaError] = []
    # It would print a line for each of its attempts; we say one, below.
    admin = Client(cluster, {"error_cb": said.append, "log_level": 0})
    limit = time.monotonic() + ANSWER_S
    while True:
        try:
            admin.list_topics(timeout=1)
            return admin
        except KafkaException as error:
            admin.poll(0)  # delivers to error_cb why
            if any(each.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL) for each in said):
                raise BrokerError(_shut(cluster, said)) from error
            refused = any(each.code() == KafkaError._ALL_BROKERS_DOWN for each in said)
            if time.monotonic() > (limit - ANSWER_S / 2 if refused else limit):
                raise BrokerError(_away(address(cluster), said or [error.args[0]])) from error


def _away(broker: str, said: list[KafkaError]) -> str:
    texts = [each.str() for each in said if each.code() != KafkaError._ALL_BROKERS_DOWN]
    reason = texts[0].split("bootstrap: ")[-1].split(" (after")[0] if texts else "no connection"
    return (
        f"no Kafka answers at {broker} ({reason}): start it (`make up` for the local one), "
        "or set TICKLOOM_BROKER to where it is"
    )


def _shut(cluster: Cluster, said: list[KafkaError]) -> str:
    """Kafka is there, but not for us."""
    found = next(each for each in said if each.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL))
    reason = found.str().split("/bootstrap: ")[-1].split(" (after")[0]
    user = client(cluster).get("sasl.username")
    who = f"user {user!r}: TICKLOOM_KAFKA_USERNAME, _PASSWORD and _SASL_MECHANISM" if user else "us: TICKLOOM_KAFKA_…"
    return f"Kafka at {address(cluster)} does not let in {who} must be as the cluster has them ({reason})"


def check_topics(cluster: Cluster, run: str) -> list[str]:
    """Say what is wrong with the topics of a run, one line each with the command that fixes it.

    Empty: nothing is wrong. Raises BrokerError.
    """
    return [f"{report.topic}: {line}" for report in inspect(connect(cluster), run) for line in report.problems]


def inspect(admin: AdminClient, run: str) -> list[Report]:
    """Compare every topic of a run with its plan."""
    rows = plans(run)
    found = _find(admin, [plan.name for plan in rows])
    partitions = _partitions(found, run)
    uneven = [name for name, topic in found.items() if topic.partitions != partitions]
    used = {name for name, ends in offsets(admin, uneven, LATEST).items() if any(ends.values())}
    return [_compare(plan, found.get(plan.name), partitions, run, plan.name in used) for plan in rows]


def create_topics(
    cluster: Cluster,
    run: str,
    *,
    partitions: int | None = None,
    replication: int | None = None,
    recreate: Sequence[str] = (),
) -> list[str]:
    """Make what is missing and put right what can be without losing a record; return what was done.

    ``recreate`` names topics to delete with all their records and make anew. Without market.raw its state means
    nothing, and without the state what the workers have committed. Raises ConfigError, BrokerError.
    """
    admin = connect(cluster)
    rows = {plan.name: plan for plan in plans(run)}
    names = _full_names(recreate, run, set(rows))
    if named(RAW.name, run) in names and state_topic(run) not in names:
        names.append(state_topic(run))
    if named(RAW.name, run) in names:
        _check_sink_is_through(admin, run, names)
    done = _forget(admin, app_id(run)) if state_topic(run) in names else []
    done += [_delete(admin, name) for name in names]
    found = _find(admin, list(rows))
    count = partitions or _partitions(found, run)
    raw = found.get(named(RAW.name, run))
    if raw and raw.partitions != count:
        raise ConfigError(
            f"{named(RAW.name, run)} has {raw.partitions} partitions, and every topic of a run has as many: "
            f"leave out --partitions {count}, or choose another TICKLOOM_RUN"
        )
    copies = _replication(admin, replication)
    missing = [plan for name, plan in rows.items() if name not in found]
    done += _make(admin, missing, count, copies)
    offsets(admin, [plan.name for plan in missing], LATEST)  # answered once they can be written to
    for name, topic in found.items():
        done += _put_right(admin, rows[name], topic, count, run)
    return done


def _check_sink_is_through(admin: Client, run: str, recreated: Sequence[str]) -> None:
    """A sink takes what it has not read yet for newer than all that comes of a market.raw that begins anew."""
    sink = groups(admin, run)[1]
    ranked = {named(topic.name, run) for topic in (BEST, CANDLE, GAP, STATUS)} - set(recreated)
    left = sum(sum(partitions.values()) for topic, partitions in sink.lag.items() if topic in ranked)
    if left and sink.state != "dead":
        raise ConfigError(
            f"the sink has still {left:,} records to take of what the old {named(RAW.name, run)} gave, and would take "
            "them for newer than what comes: let it finish (`tickloom status`), or recreate all topics"
        )


def groups(admin: Client, run: str) -> list[Group]:
    """The groups of the workers and of the sink with their lag."""
    outputs = [named(topic.name, run) for topic in SUNK]
    result = []
    for name, topics in ((app_id(run), [named(RAW.name, run)]), (sink_id(run), outputs)):
        description = _describe(admin, name)
        state = ConsumerGroupState(description.state).name.lower() if description else "dead"
        members = len(description.members) if description else 0
        clients = sorted(member.client_id for member in description.members) if description else []
        result.append(Group(name, state, members, _lag(admin, name, topics), clients))
    return result


def offsets(
    admin: AdminClient, topics: Iterable[str], spec: OffsetSpec, isolation: IsolationLevel = ALL
) -> dict[str, dict[int, int]]:
    """The earliest or latest offset of every partition of the topics that exist: of all records, or the committed."""
    known = _metadata(admin).topics
    wanted = [TopicPartition(name, number) for name in topics if name in known for number in known[name].partitions]
    return _patiently(lambda: _offsets(admin, wanted, spec, isolation)) if wanted else {}


def _offsets(
    admin: AdminClient, wanted: list[TopicPartition], spec: OffsetSpec, isolation: IsolationLevel
) -> dict[str, dict[int, int]]:
    result: dict[str, dict[int, int]] = {}
    asked = dict.fromkeys(wanted, spec)
    for at, future in admin.list_offsets(asked, isolation_level=isolation, request_timeout=ANSWER_S).items():
        result.setdefault(at.topic, {})[at.partition] = future.result().offset
    return result


def delete_run(cluster: Cluster, run: str) -> list[str]:
    """Remove the topics and consumer groups of a named run, never of the live one; return what was removed.

    Raises ConfigError for the live run and where its processes still run, BrokerError.
    """
    if not run:
        raise ConfigError("the live run is not removed: name one (TICKLOOM_RUN)")
    admin = connect(cluster)
    names = [app_id(run), sink_id(run)]
    present = {group.group_id for group in admin.list_consumer_groups().result().valid}
    busy = [name for name in names if (group := _describe(admin, name)) and group.members]
    if busy:
        raise ConfigError(f"{busy[0]} still has members: stop the workers and the sink of run {run} first")
    ours = {plan.name for plan in plans(run)}
    own = tuple(f"{name}-" for name in names)  # what Faust makes for itself
    topics = [name for name in _metadata(admin).topics if name in ours or name.startswith(own)]
    done = [_delete(admin, name) for name in sorted(topics)]
    for name in sorted(present.intersection(names)):
        _done(admin.delete_consumer_groups([name])[name])
        done.append(f"removed group {name}")
    return done


def _forget(admin: AdminClient, group: str) -> list[str]:
    """Remove what a group has committed. Raises ConfigError where it has members, and not only ones that have died."""
    limit = time.monotonic() + DEAD_S
    while (description := _describe(admin, group)) and description.members:
        if time.monotonic() > limit:
            raise ConfigError(f"{group} still has members: stop the workers first")
        time.sleep(0.2)
    try:
        _done(admin.delete_consumer_groups([group])[group])
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return []
        raise
    return [f"removed group {group}"]


def _metadata(admin: AdminClient) -> Any:
    return admin.list_topics(timeout=ANSWER_S)


def _done(future: "Future[Any]") -> Any:
    return future.result(timeout=CHANGE_S)


def _partitions(found: dict[str, Found], run: str) -> int:
    raw = found.get(named(RAW.name, run))
    return raw.partitions if raw else PARTITIONS


def _find(admin: AdminClient, names: list[str]) -> dict[str, Found]:
    known = {name: topic for name, topic in _metadata(admin).topics.items() if name in names}
    if not known:
        return {}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in known]
    answers = _patiently(
        lambda: {
            resource.name: _done(future)
            for resource, future in admin.describe_configs(resources, request_timeout=ANSWER_S).items()
        }
    )
    configs = {name: {entry.name: entry.value for entry in answer.values()} for name, answer in answers.items()}
    return {
        name: Found(
            partitions=len(topic.partitions),
            replication=min(len(each.replicas) for each in topic.partitions.values()),
            config=configs[name],
            leaderless=sorted(each.id for each in topic.partitions.values() if each.leader < 0),
        )
        for name, topic in known.items()
    }


def _compare(plan: Plan, found: Found | None, partitions: int, run: str, used: bool) -> Report:
    fix = create_command(run)
    if found is None:
        return Report(plan.name, None, [f"missing; fix: {fix}"])
    problems = []
    if found.partitions != partitions:
        anew = f" --recreate {plan.name}" if used or found.partitions > partitions else ""
        problems.append(f"{found.partitions} partitions, must be {partitions} as of all; fix: {fix}{anew}")
    for setting, value in plan.required.items():
        if (actual := found.config.get(setting)) != value:
            problems.append(f"{setting} is {actual}, must be {value}; fix: {fix}")
    in_sync = int(found.config.get("min.insync.replicas", "1"))
    if in_sync > found.replication:
        problems.append(
            f"min.insync.replicas is {in_sync} with {found.replication} replicas, so nothing can be written; fix: {fix}"
        )
    if found.leaderless:
        numbers = ", ".join(map(str, found.leaderless))
        problems.append(f"no leader for partition {numbers}; fix: start the brokers that hold it")
    return Report(plan.name, found, problems)


def _full_names(names: Sequence[str], run: str, known: set[str]) -> list[str]:
    full = [name if name in known else named(name, run) for name in names]
    for name in full:
        if name not in known:
            raise ConfigError(f"{name} is no topic of this run; those are {', '.join(sorted(known))}")
    return full


def _replication(admin: AdminClient, wanted: int | None) -> int:
    brokers = len(_metadata(admin).brokers)
    if wanted and wanted > brokers:
        raise ConfigError(f"--replication-factor {wanted} is more than the cluster's {brokers} brokers")
    return wanted or min(3, brokers)


def _make(admin: AdminClient, missing: list[Plan], partitions: int, replication: int) -> list[str]:
    if not missing:
        return []
    in_sync = {"min.insync.replicas": str(max(1, replication - 1))}
    new = [
        NewTopic(plan.name, partitions, replication, config=plan.initial | plan.required | in_sync) for plan in missing
    ]
    done = []
    for name, future in admin.create_topics(new, operation_timeout=CHANGE_S).items():
        try:
            _done(future)
            done.append(f"created {name}: {partitions} partitions, {replication} replicas")
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # somebody was faster
                raise BrokerError(f"cannot create {name}: {error.args[0].str()}") from error
    _await_listed(admin, {plan.name for plan in missing}, there=True)
    return done


def _put_right(admin: AdminClient, plan: Plan, found: Found, partitions: int, run: str) -> list[str]:
    """Change settings that are wrong; add partitions while there is no record whose key they would move."""
    done = []
    wrong = {key: value for key, value in plan.required.items() if found.config.get(key) != value}
    if int(found.config.get("min.insync.replicas", "1")) > found.replication:
        wrong["min.insync.replicas"] = str(max(1, found.replication - 1))
    if wrong:
        entries = [ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET) for key, value in wrong.items()]
        resource = ConfigResource(ResourceType.TOPIC, plan.name, incremental_configs=entries)
        for future in admin.incremental_alter_configs([resource]).values():
            _done(future)
        done += [f"set {plan.name}: {key}={value}" for key, value in wrong.items()]
    if found.partitions < partitions:
        ends = offsets(admin, [plan.name], LATEST)[plan.name]
        if any(ends.values()):
            done.append(
                f"left {plan.name} at {found.partitions} partitions, as its records would be in wrong ones; "
                f"to delete them and make it anew: {create_command(run)} --recreate {plan.name}"
            )
        else:
            for future in admin.create_partitions([NewPartitions(plan.name, partitions)]).values():
                _done(future)
            done.append(f"grew {plan.name} from {found.partitions} to {partitions} partitions")
    return done


def _delete(admin: AdminClient, name: str) -> str:
    """Delete a topic and wait until the name is free again."""
    try:
        _done(admin.delete_topics([name], operation_timeout=CHANGE_S)[name])
    except KafkaException as error:
        if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise BrokerError(f"cannot delete {name}: {error.args[0].str()}") from error
    _await_listed(admin, {name}, there=False)
    return f"deleted {name}"


def _await_listed(admin: AdminClient, names: set[str], *, there: bool) -> None:
    """Wait until the broker lists all of the topics, or none: the controller decides, and it learns that later.

    Raises BrokerError.
    """
    limit = time.monotonic() + CHANGE_S
    while names & _metadata(admin).topics.keys() != (names if there else set()):
        if time.monotonic() > limit:
            wrong = "not there after they were made" if there else "still there after they were deleted"
            raise BrokerError(f"{', '.join(sorted(names))}: {wrong}, for {CHANGE_S:.0f} s; try again")
        time.sleep(0.05)


def _describe(admin: AdminClient, group: str) -> Any:
    """The group as Kafka describes it; None where there is none."""
    try:
        return _patiently(lambda: _done(admin.describe_consumer_groups([group], request_timeout=ANSWER_S)[group]))
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return None
        raise


def _patiently(ask: Callable[[], T]) -> T:
    """Ask again while the broker says what passes."""
    limit = time.monotonic() + CHANGE_S
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in PASSING or time.monotonic() > limit:
                raise
            time.sleep(0.1)


def committed(admin: Client, group: str, partitions: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
    """The offsets that a group has committed; without those of partitions where it has committed nothing.

    A consumer asks: the admin client's own request crashes the process while a group has no coordinator
    (librdkafka 2.16.1, rd_kafka_cgrp_op on a null group).
    """
    wanted = [TopicPartition(topic, number) for topic, number in partitions]
    if not wanted:
        return {}
    consumer = Consumer({**client(admin.cluster), "group.id": group})
    try:
        found = _patiently(lambda: consumer.committed(wanted, timeout=CHANGE_S))
    finally:
        consumer.close()
    return {(at.topic, at.partition): at.offset for at in found if at.offset >= 0}


def _lag(admin: Client, group: str, topics: list[str]) -> dict[str, dict[int, int]]:
    """Records between what the group has committed and the end; without a commit, all there are.

    A short rest is looked into: transactions end with markers, which take offsets. A group that runs commits past them
    (`Acks.skip` in transport.py), so that no other tool sees a lag that never ends; but one that was stopped before
    they came, or while a transaction was undone, can't, and has nothing left to read all the same.
    """
    starts = offsets(admin, topics, EARLIEST)
    ends = offsets(admin, topics, LATEST)
    done = committed(admin, group, [(topic, number) for topic, partitions in ends.items() for number in partitions])
    since = {
        (topic, number): max(done.get((topic, number), 0), starts[topic][number])
        for topic, partitions in ends.items()
        for number in partitions
    }
    lag = {
        topic: {number: max(0, end - since[topic, number]) for number, end in partitions.items()}
        for topic, partitions in ends.items()
    }
    short = {place: offset for place, offset in since.items() if 0 < lag[place[0]][place[1]] <= LOOKED_INTO}
    for topic, number in without_records(admin, {at: (offset, ends[at[0]][at[1]]) for at, offset in short.items()}):
        lag[topic][number] = 0
    return lag


def without_records(admin: Client, spans: dict[tuple[str, int], tuple[int, int]]) -> list[tuple[str, int]]:
    """Of the partitions those with nothing but markers of transactions from an offset on, up to another."""
    if not spans:
        return []
    settings: dict[str, Any] = {
        **client(admin.cluster),
        "group.id": "tickloom-lag",  # demanded by the client; nothing is committed under it
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
        "auto.offset.reset": "earliest",
        "queued.max.messages.kbytes": 1024,
        "log_level": 0,
    }
    consumer = Consumer(settings)
    left, found = set(spans), []
    limit = time.monotonic() + ANSWER_S
    try:
        consumer.assign([TopicPartition(*place, since) for place, (since, _) in spans.items()])
        while left and time.monotonic() < limit:
            for message in consumer.consume(100, timeout=0.1):
                place = (message.topic() or "", message.partition() or 0)
                error = message.error()
                if error is not None and error.code() != KafkaError._PARTITION_EOF:
                    continue
                # of an end it is the offset that comes next: not yet the last where a transaction is open
                if place in left and (message.offset() or 0) >= spans[place][1]:
                    found.append(place)
                left.discard(place)
    finally:
        consumer.close()
    return found
