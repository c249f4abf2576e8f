"""A process under measurement: started from the tree's root, its lines kept with their times, ended for certain."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from bench.machine import ROOT, cpu_seconds, memory_mb
from topology.config import Settings

STOP_S: Final = 30.0
WORKER: Final = ("-m", "topology.cli", "worker")


class BenchError(Exception):
    """A measurement that could not be made; the text is one line that says why."""


class Process:
    """``python ARGUMENTS``. Ends with the ``with`` block, by SIGTERM."""

    def __init__(self, arguments: Sequence[str], log: Path, settings: Settings | None = None) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TICKLOOM_")}
        self.log = log
        self.lines: list[tuple[float, str]] = []
        self.started = time.time()
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=inherited | (settings.environment() if settings else {}) | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self.pid = self._process.pid
        self._reader = threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def check(self) -> None:
        """Raise BenchError where it has ended."""
        if self._process.poll() is not None:
            self._reader.join(STOP_S)
            last = " | ".join(text for _, text in self.lines[-3:])
            raise BenchError(f"it ended with exit code {self._process.returncode}: {last} (all of it: {self.log})")

    def first(self, pattern: str) -> float | None:
        """When it first wrote a line that matches; seconds since the epoch."""
        return next((at for at, text in self.lines if re.search(pattern, text)), None)

    def wait_for(self, pattern: str, seconds: float) -> float:
        """Wait for the first line that matches; say when it came. Raises BenchError."""
        limit = time.monotonic() + seconds
        while (at := self.first(pattern)) is None:
            self.check()
            if time.monotonic() > limit:
                raise BenchError(f"no line like {pattern!r} within {seconds:.0f} s (what came: {self.log})")
            time.sleep(0.005)
        return at

    def cpu_seconds(self) -> float:
        """CPU time used so far."""
        self.check()
        return cpu_seconds(self.pid)

    def memory_mb(self) -> tuple[float, float]:
        """Resident memory in MB, now and at its peak."""
        self.check()
        return memory_mb(self.pid)

    def stop(self) -> None:
        """Ask it to end, kill it when it takes too long."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._reader.join(STOP_S)

    def kill(self) -> None:
        """End it as a power cut would."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._process.wait(STOP_S)

    def _read(self, pipe: IO[str]) -> None:
        with self.log.open("a") as log:
            for line in pipe:
                self.lines.append((time.time(), line.rstrip()))
                log.write(line)
                log.flush()


def worker(settings: Settings, log: Path) -> Process:
    """Start a tickloom worker."""
    return Process(WORKER, log, settings)
