"""The machine: what it is, how fast it is at this moment, and what a process uses of it. Needs Linux's /proc."""

import os
import platform
import re
import subprocess
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
HERTZ: Final = os.sysconf("SC_CLK_TCK")
TURNS: Final = 3_000_000
PACKAGES: Final = ("faust-streaming", "aiokafka", "confluent-kafka", "fastavro", "msgspec", "uvloop")


def facts() -> dict[str, Any]:
    """What was measured on, and when; ``others`` is how many cores were busy before anything of ours ran."""
    from deploy.local import KAFKA_VERSION

    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _field("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(_field("/proc/meminfo", "MemTotal").split()[0]) / (1 << 20)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "kafka": KAFKA_VERSION,
        "packages": {name: version(name) for name in PACKAGES},
        "compiled": compiled(),
        "commit": commit(),
        "others": round(_busy(1.0), 2),
        "speed": speed(),
    }


def compiled() -> bool:
    """Whether the core that workers run is machine code (setup.py) or plain Python."""
    import topology.task

    return not str(topology.task.__file__).endswith(".py")


def commit() -> str:
    """The commit of the tree, with a + where files of it have changed since; empty outside a repository."""
    head = _git("rev-parse", "--short", "HEAD")
    return head + "+" if head and _git("status", "--porcelain", "--untracked-files=no") else head


def speed() -> float:
    """Million turns/s of a plain Python loop: virtual machines differ twofold from one second to the next."""
    begin, total = time.perf_counter(), 0
    for number in range(TURNS):
        total += number
    return round(TURNS / (time.perf_counter() - begin) / 1e6, 1)


def cpu_seconds(pid: int, *, reaped: bool = False) -> float:
    """CPU time that a process has used; with ``reaped`` also that of its children that have ended."""
    return sum(map(int, _stat(pid)[11 : 15 if reaped else 13])) / HERTZ


def children(pid: int) -> list[int]:
    """The processes that a process has started and that have not been waited for."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_zombie(pid: int) -> bool:
    """Whether a process has ended and nobody has waited for it yet."""
    return _stat(pid)[0] == "Z"


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def memory_mb(pid: int) -> tuple[float, float]:
    """Resident memory of a process in MB: now, and its peak."""
    status = f"/proc/{pid}/status"
    return _megabytes(_field(status, "VmRSS")), _megabytes(_field(status, "VmHWM"))


def _megabytes(text: str) -> float:
    return round(int(text.split()[0]) * 1024 / 1e6, 1)


def _field(path: str, name: str) -> str:
    found = re.search(rf"^{name}\s*:\s*(.*)$", Path(path).read_text(), re.MULTILINE)
    return found.group(1) if found else "0 unknown"


def _busy(seconds: float) -> float:
    before = _jiffies()
    time.sleep(seconds)
    return (_jiffies() - before) / HERTZ / seconds


def _jiffies() -> int:
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return user + nice + system + irq + softirq + steal


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
