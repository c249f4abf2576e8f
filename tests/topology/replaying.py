"""Live systems to replay in tests: a log, and what real workers and a real sink made of it; and the command."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from connectors.runtime.log import LogReader
from deploy.local import Stack
from schemas.instrument import DEFAULT
from schemas.topics import named
from tests.topology.processes import ROOT, Process, produce, wait_for_no_lag
from topology import admin
from topology.admin import SUNK
from topology.storage import database


class Base:
    """A run that stands for the live system, with all that its log has led to."""

    def __init__(self, stack: Stack, run: str, directory: Path, records: list[object], partitions: int = 4) -> None:
        self.stack = stack
        self.run = run
        self.directory = directory
        self.environment = {
            **os.environ,
            "TICKLOOM_BROKER": stack.broker,
            "TICKLOOM_DATABASE": stack.database,
            "TICKLOOM_RUN": run,
            "TICKLOOM_STATE": str(directory / "state"),
        }
        admin.create_topics(stack.broker, run, partitions=partitions)
        produce(stack.broker, run, records)
        self.catch_up()

    def catch_up(self) -> None:
        """Let a worker and a sink process what there is."""
        processes = [Process(self.environment, name, log=self.directory / f"{name}.log") for name in ("worker", "sink")]
        try:
            wait_for_no_lag(self.stack.broker, self.run, processes[:1])
            self._wait_for_sink(processes)
            assert [process.stop() for process in processes] == [0, 0], processes[1].tail()
        finally:
            for process in processes:
                process.kill()

    def _wait_for_sink(self, processes: list[Process]) -> None:
        """Both are at work, and the tables have all that the topics have."""
        client = admin.connect(self.stack.broker)
        deadline = time.monotonic() + 60
        while True:
            groups = admin.groups(client, self.run)
            at_work = all(group.members and group.state == "stable" for group in groups)
            if at_work and not groups[1].total and self._is_stored():
                return
            assert all(process.is_running() for process in processes), processes[-1].tail()
            assert time.monotonic() < deadline, f"{groups}"
            time.sleep(0.2)

    def _is_stored(self) -> bool:
        """No topic has a record behind what the tables say they hold."""
        query = "SELECT topic, partition, next_offset FROM stream_offsets WHERE run = %s"
        with database.connect(self.stack.database) as connection:
            stored = {(topic, number): offset for topic, number, offset in connection.execute(query, [self.run])}
        with LogReader(self.stack.broker) as log:
            for name in (named(topic.name, self.run) for topic in SUNK):
                bounds = log.bounds(name)
                since = {number: max(first, stored.get((name, number), 0)) for number, (first, _) in bounds.items()}
                if any(log.read(name, since, {number: end for number, (_, end) in bounds.items()})):
                    return False
        return True

    def start(self, *arguments: object, **environment: str) -> "subprocess.Popen[str]":
        """Begin `tickloom replay …` in this run."""
        words = [sys.executable, "-m", "topology.cli", "replay", *map(str, arguments)]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(words, env=self.environment | environment, cwd=ROOT, preexec_fn=heed_ctrl_c, **pipes)

    def replay(self, *arguments: object, **environment: str) -> tuple[int, str]:
        """Run it to its end: exit code and output."""
        process = self.start(*arguments, **environment)
        output, _ = process.communicate(timeout=240)
        return process.returncode, output

    def compare(self, name: str, *arguments: object) -> tuple[int, dict[str, Any]]:
        """Exit code and the JSON of a comparison."""
        code, output = self.replay("compare", name, "--format", "json", *arguments)
        assert code in (0, 1), output
        return code, json.loads(output)


def heed_ctrl_c() -> None:
    """A shell starts what it puts into the background deaf to Ctrl-C, and CI may be started so."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def tighter(path: Path, bps: int) -> Path:
    """A copy of the instruments file with another spread cap for currencies."""
    content = yaml.safe_load(DEFAULT.read_text())
    for group in content["classes"].values():
        group["rules"]["max_spread_bps"] = bps
    path.write_text(yaml.safe_dump(content))
    return path
