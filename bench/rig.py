"""What every measurement stands on: a Kafka of the bench's own, a scratch directory, runs filled with input."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka.admin import AdminClient
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import kafka, machine, market
from bench.market import Market
from bench.process import Process
from deploy import local
from schemas import topics
from topology import admin
from topology.config import Settings

PEER = "bench-peer-"  # what the groups of peers begin with


class Rig:
    """Kafka, scratch directory, screen."""

    def __init__(self, directory: Path, console: Console) -> None:
        self.directory = directory
        self.console = console
        stack = local.start(directory, postgres=False, say=self.say)
        self.broker = stack.broker
        self.kafka_pid = stack.kafka_pid or 0
        self.client: AdminClient = admin.connect(self.broker)

    def close(self) -> None:
        """End Kafka and remove all that was made."""
        local.clean(self.directory)

    def say(self, line: str) -> None:
        """Write a line."""
        self.console.print(line, highlight=False)

    def settings(self, run: str, symbols: int) -> Settings:
        """What a worker of a run is told."""
        instruments = self.directory / f"instruments-{symbols}.yaml"
        market.write_instruments(instruments, symbols)
        return Settings(
            broker=self.broker, run=run, state=self.directory, data=self.directory / "data", instruments=instruments
        )

    def make(self, run: str) -> None:
        """Make the topics of a run."""
        admin.create_topics(self.broker, run, replication=1)

    def fill(self, run: str, of: Market) -> Settings:
        """Make the topics of a run and load a market into it."""
        self.make(run)
        with self.progress(f"loading {run}", of.ticks) as tell:
            market.load(self.broker, run, of, tell)
        return self.settings(run, of.symbols)

    def await_worker(self, worker: Process, run: str, tell: Callable[[int], None] | None = None) -> float:
        """Wait until a worker has committed all that is in its run's market.raw; say when."""
        raw = topics.named(topics.RAW.name, run)
        return kafka.await_commit(self.client, self.broker, admin.app_id(run), raw, worker, tell)

    def kafka_cpu_seconds(self) -> float:
        """CPU time that Kafka has used."""
        return machine.cpu_seconds(self.kafka_pid)

    def stored_bytes(self, topic: str) -> int:
        """The size of a topic's logs as they lie on Kafka's disk, compressed."""
        folders = (self.directory / "kafka" / "data").glob(f"{topic}-*")
        own = [each for each in folders if each.name.removeprefix(f"{topic}-").isdigit()]
        return sum(path.stat().st_size for folder in own for path in folder.glob("*.log"))

    def log(self, name: str) -> Path:
        """A file for the lines of a process."""
        return self.directory / f"{name}.log"

    @contextmanager
    def progress(self, text: str, total: float) -> Iterator[Callable[[int], None]]:
        """Show a bar while something runs; give what tells it how far that is."""
        columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(text, total=total)
            yield lambda done: bars.update(task, completed=done)

    def wait(self, text: str, seconds: float) -> None:
        """Let so much time pass, and show it."""
        end = time.monotonic() + seconds
        with self.progress(text, round(seconds)) as tell:
            while (left := end - time.monotonic()) > 0:
                tell(round(seconds - left))
                time.sleep(min(left, 0.5))
