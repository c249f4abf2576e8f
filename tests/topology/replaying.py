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

from deploy.local import Stack
from schemas.instrument import DEFAULT
from tests.topology.processes import ROOT, Process, produce, wait_for_no_lag
from topology import admin


class Base:
    """A run that stands for the live system, with all that its log has led to."""

    def __init__(self, stack: Stack, run: str, directory: Path, records: list[object], partitions: int = 4) -> None:
        self.stack = stack
        self.run = run
        self.directory = directory
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TICKLOOM_")},
            "TICKLOOM_BROKER": stack.broker,
            "TICKLOOM_DATABASE": stack.database,
            "TICKLOOM_RUN": run,
            "TICKLOOM_STATE": str(directory / "state"),
        }
        admin.create_topics(stack.broker, run, partitions=partitions)
        produce(stack.broker, run, records)
        self.catch_up()

    def catch_up(self, *, sink: bool = True) -> None:
        """Let a worker and a sink process what there is."""
        names = ("worker", "sink") if sink else ("worker",)
        processes = [Process(self.environment, name, log=self.directory / f"{name}.log") for name in names]
        try:
            wait_for_no_lag(self.stack.broker, self.run, processes[:1])
            self._wait_for_sink(processes) if sink else None
            assert [process.stop() for process in processes] == [0] * len(processes)
        finally:
            for process in processes:
                process.kill()

    def _wait_for_sink(self, processes: list[Process]) -> None:
        client = admin.connect(self.stack.broker)
        deadline = time.monotonic() + 60
        while left := admin.groups(client, self.run)[1].total:
            assert all(process.is_running() for process in processes), processes[-1].tail()
            assert time.monotonic() < deadline, f"{left} records before the sink: {processes[-1].tail()}"
            time.sleep(0.2)

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
