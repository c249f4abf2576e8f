"""Several worker processes under one command: `tickloom worker --processes 4`.

Python computes on one core a process, and partitions are what workers share, so this is how one machine is filled. Each
process is a worker like any other, a member of the group with files and a web port of its own.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import click

from topology.config import Settings

LOOK_EVERY_S: Final = 0.2
STOP_S: Final = 30.0


def run_workers(settings: Settings, count: int) -> int:
    """Run so many workers until SIGTERM or Ctrl-C; give the exit code.

    Where one of them ends by itself the others are stopped and the code is 1: what restarts a worker restarts them all.
    """
    children = [_start(settings, number) for number in range(count)]
    with _stop_asked() as asked:
        try:
            while not asked and all(child.poll() is None for child in children):
                time.sleep(LOOK_EVERY_S)
            ended = [child for child in children if child.poll() is not None and not asked]
            for child in ended:
                click.echo(f"tickloom: worker process {child.pid} ended with code {child.returncode}", err=True)
        finally:
            codes = _end(children)
    return int(bool(ended or any(codes)))


def _start(settings: Settings, number: int) -> "subprocess.Popen[bytes]":
    """With the web port that was asked for, and those after it; or the usual one for the first that comes."""
    own = {
        "TICKLOOM_DATA": str(settings.data_dir / f"worker-{number + 1}"),
        "TICKLOOM_WEB_PORT": str(settings.web_port and settings.web_port + number),
    }
    return subprocess.Popen(
        [sys.executable, "-c", f"from topology.running import child; child({os.getpid()})", "worker"],
        env={**os.environ, **settings.environment(), **own},
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for this process, which stops them
    )


@contextmanager
def _stop_asked() -> Iterator[list[int]]:
    """Collect the signals that ask to stop."""
    asked: list[int] = []
    signals = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda number, _frame: asked.append(number)) for number in signals]
    try:
        yield asked
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _end(children: "list[subprocess.Popen[bytes]]") -> list[int]:
    """Stop all, in the end by force; give the exit codes of those that were asked."""
    running = [child for child in children if child.poll() is None]
    for child in running:
        child.terminate()
    limit = time.monotonic() + STOP_S
    for child in running:
        try:
            child.wait(max(0.0, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    return [child.returncode for child in running]
