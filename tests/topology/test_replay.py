"""`tickloom replay` and `compare` on real servers: the same rules give the same, other rules what the driver says."""

from collections import Counter
from pathlib import Path

import pytest

from deploy.local import Stack
from schemas import topics
from tests.topology.replaying import Base, tighter
from tests.topology.test_worker import market

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def base(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A simulated log and what a worker and a sink made of it."""
    return Base(stack, "replayed-market", tmp_path_factory.mktemp("base"), market(11, 6_000))


def test_unchanged_rules_give_no_difference_with_other_batches_partitions_and_workers(base: Base) -> None:
    settings = {"TICKLOOM_COMMIT_SECONDS": "0.37", "TICKLOOM_DELIVERY": "at_least_once"}
    code, output = base.replay("--run", "same", "--times", 2, "--workers", 2, **settings)
    assert code == 0, output
    code, found = base.compare("same")
    assert found["differences"] == 0, found["first"]
    assert code == 0
    totals = Counter()
    for each in found["topics"]:
        totals[each["topic"]] += each["equal"]
        assert each["live"] == each["replay"] == each["equal"]
    assert all(totals[topic.name] > 10 for topic in (topics.TICK, topics.REJECTED, topics.BEST, topics.CANDLE)), totals
