"""A directory for state that can't be used: one clear line from a real process, whatever is the matter."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.local import Stack
from tests.market import quote
from tests.topology.processes import Process, produce, wait_for_no_lag

pytestmark = pytest.mark.integration


@pytest.fixture
def filesystem(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a tiny filesystem with these options; the test is skipped where that is not allowed."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        directory = tmp_path / "mounted"
        directory.mkdir()
        program = shutil.which("mount")
        command = [program or "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
        if program is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a filesystem can't be mounted here")
        mounted.append(directory)
        return directory

    yield mount
    for directory in mounted:
        subprocess.run(["umount", str(directory)], check=True)


def last_words(environment: dict[str, str], tmp_path: Path, command: str, data: Path) -> str:
    """What a process says that can't start."""
    process = Process(environment | {"TICKLOOM_DATA": str(data)}, command, log=tmp_path / "log")
    try:
        limit = time.monotonic() + 60
        while process.is_running():
            assert time.monotonic() < limit, process.tail()
            time.sleep(0.05)  # polling the end of a process
    finally:
        process.kill()
    log = process.log.read_text()
    assert "Traceback" not in log
    return log.strip().splitlines()[-1]


@pytest.mark.parametrize("command", ["worker", "sink"])
def test_a_file_where_the_directory_should_be(
    run: str, environment: dict[str, str], tmp_path: Path, command: str
) -> None:
    (tmp_path / "file").write_text("")
    said = last_words(environment, tmp_path, command, tmp_path / "file")
    assert said.startswith("Error: ")
    assert str(tmp_path / "file") in said
    assert "TICKLOOM_DATA must be directories that can be written" in said


@pytest.mark.parametrize("command", ["worker", "sink"])
def test_no_room_is_left(
    run: str, environment: dict[str, str], tmp_path: Path, filesystem: Callable[[str], Path], command: str
) -> None:
    said = last_words(environment, tmp_path, command, filesystem("size=4k,nr_inodes=1"))
    assert said.startswith("Error: [Errno 28] No space left on device")
    assert "make room, or set TICKLOOM_STATE and TICKLOOM_DATA to directories elsewhere" in said


@pytest.mark.parametrize("command", ["worker", "sink"])
def test_a_filesystem_that_can_only_be_read(
    run: str, environment: dict[str, str], tmp_path: Path, filesystem: Callable[[str], Path], command: str
) -> None:
    said = last_words(environment, tmp_path, command, filesystem("size=4k,ro"))
    assert said.startswith("Error: [Errno 30] Read-only file system")
    assert "must be directories that can be written" in said


def test_a_disk_that_is_full_stops_no_worker(
    run: str, stack: Stack, environment: dict[str, str], tmp_path: Path, filesystem: Callable[[str], Path]
) -> None:
    """Its state is in Kafka and in memory: what it would have written down only makes a restart quicker."""
    data = filesystem("size=4k,nr_inodes=100")
    (data / run).mkdir()
    (data / "fill").write_bytes(b"x" * 4096)
    worker = Process(environment | {"TICKLOOM_DATA": str(data)}, "worker", log=tmp_path / "log")
    try:
        produce(stack.broker, run, [quote()])
        wait_for_no_lag(stack.broker, run, [worker])
        assert worker.stop() == 0
    finally:
        worker.kill()
