"""The servers of the suite: Kafka of one node or of three, PostgreSQL, also on a disk that can be filled."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from deploy import local
from tests.faults.cluster import Cluster
from tests.faults.single import Single

STOP_LIMIT_S = 20.0
SMALL_DISK = "4g"  # of memory, filled to the last byte: the full form writes its 500,000 ticks twice, and their log
BLOCK = 4096


class Servers:
    """Started when first needed, ended together."""

    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        self._directory = directory
        self._say = say
        self._cluster: Cluster | None = None
        self._single: Single | None = None
        self._postgres: list[Postgres] = []

    def __enter__(self) -> "Servers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._cluster is not None:
            self._cluster.close()
            shutil.rmtree(self._directory / "cluster")
        for postgres in self._postgres:
            postgres.close()
        if self._single is not None:
            self._single.close()

    def single(self) -> Single:
        """A Kafka of one node; the three have to make room."""
        if self._cluster is not None:
            self._cluster.close()
            self._cluster = None
        if self._single is None:
            self._single = Single(self._directory / "kafka", self._say)
        self._single.start()
        self._single.late(0.0)
        return self._single

    def cluster(self) -> Cluster:
        """A Kafka of three nodes; the single one has to make room."""
        if self._single is not None:
            self._single.stop()
        if self._cluster is None:
            shutil.rmtree(self._directory / "cluster", ignore_errors=True)
            self._cluster = Cluster(self._directory / "cluster", self._say)
        self._cluster.mend()
        return self._cluster

    def postgres(self, *, small: bool = False) -> "Postgres":
        """A PostgreSQL; ``small``: with a disk of its own that can be filled."""
        for each in self._postgres:
            if each.small == small:
                each.start()
                return each
        folder = self._directory / ("postgres-small" if small else "postgres")
        self._postgres.append(Postgres(folder, self._say, small=small))
        return self._postgres[-1]


class DiskError(Exception):
    """No disk of our own can be had here; the text says why."""


class Postgres:
    """A PostgreSQL that is stopped, killed, filled up and started again."""

    def __init__(self, directory: Path, say: Callable[[str], None], *, small: bool) -> None:
        """Start it. Raises DiskError."""
        self.small = small
        self._directory = directory
        self._say = say
        self._disk = directory / "postgres"
        if small:
            self._mount()
        self.start()

    def _mount(self) -> None:
        self._disk.mkdir(parents=True, exist_ok=True)
        if os.path.ismount(self._disk):
            return
        command = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK},mode=755", "tickloom-faults", str(self._disk)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DiskError(f"a small disk can't be mounted here: {done.stderr.strip()}")

    def start(self) -> None:
        """Start it where it does not run."""
        self.database = local.start(self._directory, kafka=False, say=self._say).database

    def _pid(self) -> int | None:
        found = local.status(self._directory)
        return found.postgres_pid if found else None

    def is_running(self) -> bool:
        """Whether its process is there."""
        return self._pid() is not None

    def stop(self) -> None:
        """A stop in order, which throws its clients out."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL; its backends are swept away at the next start."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        pid = self._pid()
        if pid is None:
            return
        os.kill(pid, number)
        limit = time.monotonic() + STOP_LIMIT_S
        while self._pid() is not None:
            if time.monotonic() > limit:
                raise RuntimeError("PostgreSQL does not end")
            time.sleep(0.02)

    def fill(self) -> int:
        """Leave no room on its disk; give the bytes that this took."""
        size = 0
        with (self._disk / "ballast").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:  # until there is no space left
                size += file.write(b"\0" * BLOCK)
        return size

    def make_room(self) -> None:
        """Undo that."""
        (self._disk / "ballast").unlink()

    def close(self) -> None:
        """Stop it and remove its data."""
        local.stop(self._directory)
        if self.small:
            subprocess.run(["umount", str(self._disk)], check=True)
        local.clean(self._directory)
