"""tickloom beside Kafka Streams, a bare loop and stock Faust on the peers' own work, input and checks.

Their folder is copied, for its programs are built there: the Java one by Maven, a venv for the Python ones. Each turn
is one of their bench.py (``turn.py``), which counts and checks alike for all. The turns are interleaved.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from bench.machine import ROOT
from bench.process import BenchError
from bench.rig import Rig

PEERS: Final = ROOT.parent / "shared" / "peers"
WHOLE: Final = (
    "tickloom-eos",
    "streams-rocksdb-eos",
    "streams-rocksdb-eos-tuned",
    "tickloom-alo",
    "streams-rocksdb-alo",
    "confluent",
)
PREFIX: Final = ("faust",)  # takes minutes even for the first 200,000 records, so it runs once
PREFIX_RECORDS: Final = 200_000
LIVE: Final = ("tickloom-eos", "streams-rocksdb-eos-tuned", "tickloom-alo", "streams-rocksdb-alo-tuned")
RATE: Final = 5_000
LIMIT_S: Final = 900  # of one step


def missing(peers: Path) -> str:
    """Why the peers can't be measured here; empty: they can."""
    if not (peers / "bench.py").exists():
        return f"the peers are not measured: {peers} is not there (--peers names their folder)"
    absent = [program for program in ("java", "mvn") if shutil.which(program) is None]
    return f"the peers are not measured: {' and '.join(absent)} not found" if absent else ""


def measure(rig: Rig, peers: Path, *, runs: int, quick: bool = False) -> dict[str, Any]:
    """Make all the turns; ``quick``: each takes the prefix alone. Raises BenchError."""
    place = Place(rig, peers)
    rig.say("loading 2,200,000 records ...")
    place.turn("load")
    rows = []
    for number in range(1, runs + 1):
        for name in WHOLE + (PREFIX if number == 1 and not quick else ()):
            row = place.turn("run", name, "0", str(PREFIX_RECORDS if quick else 0))
            rows.append(row)
            rig.say(
                f"  {number}/{runs}  {name:<26} {row['rate']:>9,} records/s  2nd half {row['rate_second_half']:>9,}  "
                f"{row['cpu_s_per_million']:>6} CPU s per million  {'; '.join(row['wrong']) or 'outputs right'}"
            )
    live = []
    for number in range(1, 2 if quick else runs + 1):
        for name in LIVE:
            row = place.turn("live", name, str(RATE), "0")
            live.append(row)
            rig.say(
                f"  {number}  {name:<26} p50 {row['p50_ms']:>6} ms  p99 {row['p99_ms']:>6} ms  cores {row['cpu_cores']}"
            )
    return {"runs": rows, "live": live}


class Place:
    """A copy of the peers' folder in which everything of theirs is built."""

    def __init__(self, rig: Rig, peers: Path) -> None:
        folder = rig.directory / "peers"
        self._copy = folder / "programs"
        self._log = rig.log("peers")
        self._python = folder / "venv" / "bin" / "python"
        data = folder / "data"
        worker = ["env", "-C", str(ROOT), f"PYTHONPATH={ROOT}", sys.executable, "-m", "bench.peers.app"]
        self._environment = os.environ | {
            "PEER_BROKER": rig.broker,
            "PEER_BROKER_PID": str(rig.kafka_pid),
            "PEER_DIR": str(data),
            "TICKLOOM": shlex.join(worker),
        }
        rig.say("compiling our worker of the peers' work ...")
        self._run(sys.executable, "bench/peers/setup.py", "--quiet", "build_ext", "--inplace", inside=ROOT)
        if not self._copy.exists():
            shutil.copytree(peers, self._copy, ignore=shutil.ignore_patterns("target", "__pycache__"))
            self._run("chmod", "-R", "u+w", ".")
        if not (self._copy / "java" / "target" / "lib").exists():
            rig.say("building the peers (Maven, pip) ...")
            self._run("mvn", "-q", "-B", "-f", "java", "package")
        if not self._python.exists():
            self._run(sys.executable, "-m", "venv", str(folder / "venv"))
            self._run(str(self._python), "-m", "pip", "install", "--quiet", "-r", "requirements.txt")
        if not (data / "oracle.json").exists():
            rig.say("making their input and what is right for it: two minutes ...")
            self._run(str(self._python), "data.py")

    def turn(self, what: str, *arguments: str) -> dict[str, Any]:
        """Make one step of their bench; its result."""
        lines = self._run(str(self._python), str(Path(__file__).with_name("turn.py")), what, *arguments)
        if what == "load":
            return {}
        result: dict[str, Any] = json.loads(lines[-1][lines[-1].index("{") :])  # behind what Faust does to a terminal
        return result

    def _run(self, *command: str, inside: Path | None = None) -> list[str]:
        """Run a step to its end; the lines that it wrote. Raises BenchError."""
        with self._log.open("a") as log:
            try:
                done = subprocess.run(
                    command, cwd=inside or self._copy, env=self._environment, stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE, stderr=log, text=True, timeout=LIMIT_S, check=False,
                )  # fmt: skip
            except subprocess.TimeoutExpired as error:
                raise BenchError(f"{shlex.join(command)} took over {LIMIT_S} s (see {self._log})") from error
            log.write(done.stdout)
        if done.returncode:
            raise BenchError(f"{shlex.join(command)} ended with exit code {done.returncode} (see {self._log})")
        return done.stdout.splitlines()
