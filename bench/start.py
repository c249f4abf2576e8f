"""How long a person waits: `tickloom --help`, and a worker from its start until it is ready, with empty state."""

import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.process import BenchError, worker
from bench.rig import Rig
from topology.config import Settings

RUNS: Final = 5
RUN: Final = "bench-start"
LIMIT_S: Final = 60.0
COMMAND: Final = (str(Path(sys.executable).with_name("tickloom")), "--help")


def measure(rig: Rig, *, runs: int = RUNS) -> dict[str, Any]:
    """Start both so many times. A first, uncounted start lets a new Kafka make its own topics."""
    rig.make(RUN)
    settings = rig.settings(RUN, 100)
    _ready_s(rig, settings)
    row: dict[str, Any] = {
        "help_s": [_help_s() for _ in range(runs)],
        "ready_s": [_ready_s(rig, settings) for _ in range(runs)],
    }
    rig.say(f"  help {row['help_s']} s, worker ready {row['ready_s']} s")
    return row


def median(section: dict[str, Any], what: str) -> float:
    """``help_s`` or ``ready_s``."""
    return round(float(statistics.median(section[what])), 3)


def _help_s() -> float:
    begun = time.monotonic()
    subprocess.run(COMMAND, stdout=subprocess.DEVNULL, check=True)
    return round(time.monotonic() - begun, 3)


def _ready_s(rig: Rig, settings: Settings) -> float:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with worker(msgspec.structs.replace(settings, web_port=port), rig.log(RUN)) as process:
        while not _is_ready(port):
            process.check()
            if time.time() - process.started > LIMIT_S:
                raise BenchError(f"a worker without state was not ready after {LIMIT_S:.0f} s")
            time.sleep(0.02)
        return round(time.time() - process.started, 2)


def _is_ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def markdown(section: dict[str, Any], table: Callable[[str, Iterable[Iterable[object]]], str]) -> str:
    """The table."""
    titles = {"help_s": "`tickloom --help`", "ready_s": "a worker, from its start to ready, empty state"}
    rows = [
        (title, median(section, what), ", ".join(map(str, sorted(section[what])))) for what, title in titles.items()
    ]
    return f"### Start\n\n{table('what | s, median | each time', rows)}"
