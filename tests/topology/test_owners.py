"""The claims of workers, on real Kafka: of all that claim a partition each sees whoever was there before it."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from deploy.local import Stack
from tests.topology.processes import PARTITIONS, read
from topology import admin
from topology.owners import Owners

pytestmark = pytest.mark.integration


@pytest.fixture
def owners(stack: Stack, run: str) -> Owners:
    return Owners(stack.broker, admin.owners_topic(run))


def test_who_has_not_given_up_a_partition_is_told_to_who_claims_it(owners: Owners) -> None:
    assert owners.claim("first", {0, 1, 2}) == {}
    assert owners.claim("second", {0, 1}) == {"first": {0, 1}}
    owners.release("first", {0, 1})
    owners.release("second", {1})
    assert owners.claim("third", range(PARTITIONS)) == {"second": {0}, "first": {2}}
    assert owners.claim("third", {0}) == {"second": {0}}


def test_of_those_that_claim_at_once_the_later_sees_the_earlier(stack: Stack, run: str, owners: Owners) -> None:
    names = [f"worker-{number}" for number in range(8)]
    with ThreadPoolExecutor(len(names)) as pool:
        seen = dict(zip(names, pool.map(lambda name: set(owners.claim(name, {0})), names), strict=True))
    order = [message.key().decode() for message in read(stack.broker, admin.owners_topic(run))]
    assert sorted(order) == names
    assert seen == {name: set(order[:at]) for at, name in enumerate(order)}


def test_what_was_released_leaves_nothing_behind(stack: Stack, run: str, owners: Owners) -> None:
    """Compaction may remove both records of it, so that the topic stays as small as there are workers."""
    owners.claim("first", {0})
    owners.release("first", {0})
    records = read(stack.broker, admin.owners_topic(run))
    assert [(message.key(), message.value()) for message in records] == [(b"first", b"claimed"), (b"first", None)]
    config = next(report for report in admin.inspect(admin.connect(stack.broker), run) if "owners" in report.topic)
    assert config.found is not None
    assert config.found.config["cleanup.policy"] == "compact"
