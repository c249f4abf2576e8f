"""The topics of a run on a real Kafka: made, checked, put right, measured, removed."""

import time
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it does not say that it exports them
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from deploy.local import Stack
from schemas.instrument import ConfigError
from topology import admin

pytestmark = pytest.mark.integration


@pytest.fixture
def run(stack: Stack, run_name: str) -> Iterator[str]:
    yield run_name
    admin.delete_run(stack.broker, run_name)


def make(stack: Stack, *topics: NewTopic) -> None:
    client = admin.connect(stack.broker)  # kept, as its futures end with it
    for future in client.create_topics(list(topics)).values():
        future.result(30)
    while not {topic.topic for topic in topics} <= client.list_topics().topics.keys():
        time.sleep(0.05)  # polling the broker, which hears of it from the controller


def set_up(stack: Stack, topic: str, **config: str) -> None:
    entries = [
        ConfigEntry(key.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
        for key, value in config.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    client = admin.connect(stack.broker)
    for future in client.incremental_alter_configs([resource]).values():
        future.result(30)


def produce(stack: Stack, topic: str, partition: int, count: int) -> None:
    producer = Producer({"bootstrap.servers": stack.broker})
    for number in range(count):
        producer.produce(topic, str(number).encode(), partition=partition)
    assert producer.flush(30) == 0


def partitions(stack: Stack, topic: str) -> int:
    return len(admin.connect(stack.broker).list_topics().topics[topic].partitions)


def test_a_new_run_has_every_topic_and_nothing_to_complain_of(stack: Stack, run: str) -> None:
    assert all("missing" in line for line in admin.check_topics(stack.broker, run))
    done = admin.create_topics(stack.broker, run, partitions=3)
    assert len(done) == len(admin.plans(run)) == 10
    assert admin.check_topics(stack.broker, run) == []
    reports = {report.topic: report for report in admin.inspect(admin.connect(stack.broker), run)}
    assert {report.found.partitions for report in reports.values() if report.found} == {3}
    changelog = reports[f"{run}.tickloom-symbols-changelog"].found
    raw = reports[f"{run}.market.raw"].found
    assert changelog
    assert changelog.config["cleanup.policy"] == "compact"
    assert raw
    assert raw.config["message.timestamp.type"] == "LogAppendTime"


def test_creating_twice_does_nothing_the_second_time(stack: Stack, run: str) -> None:
    admin.create_topics(stack.broker, run, partitions=2)
    assert admin.create_topics(stack.broker, run) == []


def test_the_other_topics_follow_the_partitions_of_market_raw(stack: Stack, run: str) -> None:
    raw = NewTopic(f"{run}.market.raw", 5, 1, config={"message.timestamp.type": "LogAppendTime"})
    make(stack, raw)
    admin.create_topics(stack.broker, run)
    assert partitions(stack, f"{run}.market.data.best") == 5
    with pytest.raises(ConfigError, match=r"market\.raw has 5 partitions"):
        admin.create_topics(stack.broker, run, partitions=4)


def test_wrong_settings_are_named_with_their_fix_and_put_right(stack: Stack, run: str) -> None:
    admin.create_topics(stack.broker, run, partitions=1)
    set_up(stack, f"{run}.market.data.best", cleanup_policy="delete", min_insync_replicas="2")
    set_up(stack, f"{run}.market.raw", message_timestamp_type="CreateTime")
    lines = admin.check_topics(stack.broker, run)
    assert len(lines) == 3
    assert all(line.endswith(f"fix: TICKLOOM_RUN={run} tickloom topics create") for line in lines)
    assert any("cleanup.policy is delete, must be compact" in line for line in lines)
    assert any("nothing can be written" in line for line in lines)
    assert any("message.timestamp.type is CreateTime" in line for line in lines)
    assert len(admin.create_topics(stack.broker, run)) == 3
    assert admin.check_topics(stack.broker, run) == []


def test_retention_is_the_operators(stack: Stack, run: str) -> None:
    admin.create_topics(stack.broker, run, partitions=1)
    set_up(stack, f"{run}.market.raw", retention_ms="1000000")
    assert admin.check_topics(stack.broker, run) == []


def test_an_empty_topic_grows_to_the_common_count(stack: Stack, run: str) -> None:
    make(stack, NewTopic(f"{run}.market.data.tick", 1, 1))
    admin.create_topics(stack.broker, run, partitions=2)
    assert partitions(stack, f"{run}.market.data.tick") == 2
    assert admin.check_topics(stack.broker, run) == []


def test_a_topic_with_records_is_not_repartitioned_unless_asked(stack: Stack, run: str) -> None:
    tick = f"{run}.market.data.tick"
    make(stack, NewTopic(tick, 1, 1))
    produce(stack, tick, 0, 1)
    done = admin.create_topics(stack.broker, run, partitions=2)
    assert any(f"--recreate {tick}" in line for line in done)
    (line,) = admin.check_topics(stack.broker, run)
    assert line.startswith(f"{tick}: 1 partitions, must be 2")
    assert line.endswith(f"tickloom topics create --recreate {tick}")
    admin.create_topics(stack.broker, run, recreate=["market.data.tick"])
    assert admin.check_topics(stack.broker, run) == []


def test_a_topic_with_too_many_partitions_can_only_be_made_anew(stack: Stack, run: str) -> None:
    make(stack, NewTopic(f"{run}.market.data.gap", 3, 1, config={"cleanup.policy": "compact"}))
    admin.create_topics(stack.broker, run, partitions=2)
    (line,) = admin.check_topics(stack.broker, run)
    assert "--recreate" in line


def test_only_topics_of_the_run_are_recreated(stack: Stack, run: str) -> None:
    with pytest.raises(ConfigError, match="no topic of this run"):
        admin.create_topics(stack.broker, run, recreate=["customers"])


def test_more_replicas_than_brokers_are_refused(stack: Stack, run: str) -> None:
    with pytest.raises(ConfigError, match="more than the cluster's 1 brokers"):
        admin.create_topics(stack.broker, run, replication=2)


def test_lag_is_what_the_group_has_not_committed(stack: Stack, run: str) -> None:
    admin.create_topics(stack.broker, run, partitions=2)
    raw = f"{run}.market.raw"
    produce(stack, raw, 0, 10)
    produce(stack, raw, 1, 4)
    consumer = Consumer({"bootstrap.servers": stack.broker, "group.id": admin.app_id(run)})
    consumer.commit(offsets=[TopicPartition(raw, 0, 7)], asynchronous=False)
    consumer.close()
    worker, sink = admin.groups(admin.connect(stack.broker), run)
    assert worker.lag == {raw: {0: 3, 1: 4}}
    assert (worker.total, worker.members) == (7, 0)
    assert (sink.total, sink.state) == (0, "dead")
    assert set(sink.lag) == {f"{run}.{topic.name}" for topic in admin.SUNK}


def test_what_is_only_markers_and_undone_records_is_no_lag(stack: Stack, run: str) -> None:
    admin.create_topics(stack.broker, run, partitions=1)
    raw = f"{run}.market.raw"
    producer = Producer({"bootstrap.servers": stack.broker, "transactional.id": run})
    producer.init_transactions()
    for end in (producer.commit_transaction, producer.abort_transaction):
        producer.begin_transaction()
        producer.produce(raw, b"1", partition=0)
        producer.flush()
        end()

    def commit(offset: int) -> None:
        consumer = Consumer({"bootstrap.servers": stack.broker, "group.id": admin.app_id(run)})
        consumer.commit(offsets=[TopicPartition(raw, 0, offset)], asynchronous=False)
        consumer.close()

    def wait_for_markers(end: int) -> None:
        """Kafka writes them after its answer, and tells nobody when."""
        limit = time.monotonic() + 10
        while admin.offsets(client, [raw], admin.LATEST, admin.COMMITTED) != {raw: {0: end}}:
            assert time.monotonic() < limit
            time.sleep(0.02)

    client = admin.connect(stack.broker)
    wait_for_markers(4)
    commit(1)  # and then the group was stopped
    assert admin.groups(client, run)[0].total == 0
    produce(stack, raw, 0, 1)
    assert admin.groups(client, run)[0].total > 0
    producer.begin_transaction()
    producer.produce(raw, b"1", partition=0)
    producer.flush()
    assert admin.offsets(client, [raw], admin.LATEST) == {raw: {0: 6}}
    assert admin.offsets(client, [raw], admin.LATEST, admin.COMMITTED) == {raw: {0: 5}}
    commit(5)
    assert admin.groups(client, run)[0].total == 1  # it may be committed
    producer.abort_transaction()
    wait_for_markers(7)
    assert admin.groups(client, run)[0].total == 0


def test_the_input_is_not_made_anew_while_the_sink_has_results_of_the_old_one_to_take(stack: Stack, run: str) -> None:
    """Ranked by offsets of the input they would stand above all that comes."""
    admin.create_topics(stack.broker, run, partitions=1)
    best = f"{run}.market.data.best"
    producer = Producer({"bootstrap.servers": stack.broker})
    for _ in range(3):
        producer.produce(best, b"price", b"EURUSD")
    producer.flush()
    consumer = Consumer({"bootstrap.servers": stack.broker, "group.id": admin.sink_id(run)})
    consumer.commit(offsets=[TopicPartition(best, 0, 1)], asynchronous=False)
    with pytest.raises(ConfigError, match="still 2 records to take"):
        admin.create_topics(stack.broker, run, recreate=["market.raw"])
    consumer.commit(offsets=[TopicPartition(best, 0, 3)], asynchronous=False)
    consumer.close()
    assert any("market.raw" in line for line in admin.create_topics(stack.broker, run, recreate=["market.raw"]))


def test_a_named_run_is_removed_and_only_that(stack: Stack, run: str) -> None:
    admin.create_topics(stack.broker, run, partitions=1)
    admin.create_topics(stack.broker, f"{run}2", partitions=1)
    make(stack, NewTopic(f"{run}.customers", 1, 1), NewTopic(f"{run}.tickloom-__assignor-__leader", 1, 1))
    consumer = Consumer({"bootstrap.servers": stack.broker, "group.id": admin.app_id(run)})
    consumer.commit(offsets=[TopicPartition(f"{run}.market.raw", 0, 0)], asynchronous=False)
    consumer.close()
    done = admin.delete_run(stack.broker, run)
    assert f"removed group {admin.app_id(run)}" in done
    client = admin.connect(stack.broker)
    assert [name for name in client.list_topics().topics if name.startswith(f"{run}.")] == [f"{run}.customers"]
    assert admin.check_topics(stack.broker, f"{run}2") == []
    admin.delete_run(stack.broker, f"{run}2")
    client.delete_topics([f"{run}.customers"])[f"{run}.customers"].result(30)


def test_a_run_whose_worker_lives_is_not_removed(stack: Stack, run: str) -> None:
    admin.create_topics(stack.broker, run, partitions=1)
    consumer = Consumer({"bootstrap.servers": stack.broker, "group.id": admin.app_id(run)})
    consumer.subscribe([f"{run}.market.raw"])
    try:
        while not consumer.assignment():
            consumer.poll(0.1)
        with pytest.raises(ConfigError, match="still has members"):
            admin.delete_run(stack.broker, run)
    finally:
        consumer.close()
    assert admin.check_topics(stack.broker, run) == []


def test_the_live_run_is_never_removed(stack: Stack) -> None:
    with pytest.raises(ConfigError, match="live run"):
        admin.delete_run(stack.broker, "")


def test_a_broker_that_is_away_is_one_line_that_says_what_to_do() -> None:
    with pytest.raises(admin.BrokerError, match=r"no Kafka answers at 127.0.0.1:1 \(.*refused\).*`make up`") as error:
        admin.check_topics("127.0.0.1:1", "")
    assert "\n" not in str(error.value)
