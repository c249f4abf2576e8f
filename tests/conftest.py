"""What tests share: one real Kafka and one real PostgreSQL, started on demand and kept for the whole run."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from deploy import local
from deploy.local import Stack

# Whatever is exported for a cluster of one's own: tests make and remove topics and tables, in their own servers.
for name in [name for name in os.environ if name.startswith("TICKLOOM_") and name != "TICKLOOM_PURE"]:
    del os.environ[name]

RECORDED = Path(__file__).resolve().parents[2] / "shared" / "data"

# How long an example takes says something about the machine, nothing about us.
settings.register_profile("tickloom", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tickloom")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the long files, which are the last by name: two go side by side, and none should be left to one."""
    items.sort(key=lambda item: str(item.path), reverse=True)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A Kafka and a PostgreSQL of this run's own, stopped at its end."""
    directory = tmp_path_factory.mktemp("stack")
    try:
        yield local.start(directory)
    finally:  # also where only one of them has started
        local.clean(directory)


@pytest.fixture
def run_name() -> str:
    """A run (namespace) that no other test uses."""
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def recorded() -> Path:
    """The folder of recorded market data; the test is skipped where it is absent."""
    if not RECORDED.is_dir():
        pytest.skip(f"the recorded market data is not at {RECORDED}")
    return RECORDED


@pytest.fixture
def environment(stack: Stack, run_name: str, tmp_path: Path) -> dict[str, str]:
    """The environment of a tickloom process in a run of its own."""
    return {
        **os.environ,
        "TICKLOOM_BROKER": stack.broker,
        "TICKLOOM_DATABASE": stack.database,
        "TICKLOOM_RUN": run_name,
        "TICKLOOM_DATA": str(tmp_path / "data"),
    }
