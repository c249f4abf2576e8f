"""What the tests of the shell share: a run with its topics, and real processes in it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local import Stack
from tests.topology.processes import PARTITIONS, Process
from topology import admin


@pytest.fixture
def run(stack: Stack, run_name: str) -> str:
    """A run with its topics."""
    admin.create_topics(stack.broker, run_name, partitions=PARTITIONS)
    return run_name


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts processes that end with the test, each with a data directory of its own if none is given."""
    started: list[Process] = []

    def one(*arguments: str, **settings: str) -> Process:
        name = f"{len(started)}-{arguments[0]}"
        data = {"TICKLOOM_DATA": str(tmp_path / name)}
        started.append(Process(environment | data | settings, *arguments, log=tmp_path / f"{name}.log"))
        return started[-1]

    yield one
    for process in started:
        process.kill()
