"""All that one scenario runs in: servers, processes, the feed, the watch; and what a scenario may do to them.

A scenario never sleeps blindly: it waits here, and while it waits, processes that ended by themselves are started again
as a service manager would do it, and counted.
"""

import random
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from schemas import topics
from schemas.instrument import load
from schemas.topics import named
from tests.faults import log
from tests.faults.cluster import Cluster
from tests.faults.compare import Compared, Subject, compare
from tests.faults.feed import Fed, Shift
from tests.faults.programs import ROOT, Program
from tests.faults.servers import Postgres
from tests.faults.single import Single
from tests.faults.watch import Watch
from topology import admin

PARTITIONS = 4
TEND_S = 0.05
BEGIN_LIMIT_S = 90.0
SETTLE_LIMIT_S = 120.0
STOP_LIMIT_S = 10.0  # the target for a clean stop
KILL_AFTER_S = 40.0
ON_ITS_WAY_S = 0.3  # what was sent before a fault has been seen by then


class FaultError(AssertionError):
    """The system did not do what it promises, or the suite could not do what it wanted."""


class Plan(msgspec.Struct, frozen=True):
    """How big a run is."""

    seed: int
    ticks: int
    rate: float
    delivery: str  # exactly_once, at_least_once, or empty: the tree has no such setting
    short: bool
    tree: Path = ROOT  # where the code under test is
    entry: tuple[str, ...] = ("-m", "topology.cli")
    environment: dict[str, str] = {}  # further settings of workers and sinks


class Injected(msgspec.Struct):
    """One fault: seconds since the scenario began, what was done to what, and how it was recovered from."""

    at_s: float
    kind: str
    target: str
    first_s: float | None = None  # to the first new output
    whole_s: float | None = None  # to output, in every partition, of what arrived after the fault
    age_s: float | None = None  # how old the newest output became at worst


class World:
    """One scenario's processes in a run of its own."""

    def __init__(
        self,
        name: str,
        kafka: Single | Cluster,
        postgres: Postgres,
        instruments: Path,
        directory: Path,
        plan: Plan,
        say: Callable[[str], None] = print,
    ) -> None:
        self.name = name
        self.kafka = kafka
        self.broker = kafka.broker
        self.postgres = postgres
        self.plan = plan
        self.directory = directory
        self.chance = random.Random(f"{plan.seed}-{name}")
        self.run = f"{name}-{self.chance.randrange(1 << 32):08x}-{int(time.time()):x}"
        self.faults: list[Injected] = []
        self.errors: list[str] = []
        self.notes: dict[str, Any] = {}
        self.ended: dict[str, int] = {}  # programs that ended by themselves, by name
        self.workers: list[Program] = []
        self.sinks: list[Program] = []
        self.leaving: list[Program] = []  # told to end
        self.tending = True
        self._feed: Program | None = None
        self._watch: Watch | None = None
        self._say = say
        self._began = time.monotonic()
        self.instruments = instruments
        self._started = 0
        self._ports: dict[str, str] = {}
        directory.mkdir(parents=True, exist_ok=True)

    # Begin and end.

    def begin(self, *, workers: int = 1, sinks: int = 1) -> None:
        """Make the topics, start the processes."""
        admin.create_topics(self.broker, self.run, partitions=PARTITIONS)  # three replicas, where there are brokers
        for _ in range(workers):
            self.add_worker()
        for _ in range(sinks):
            self.add_sink()
        self._watch = Watch(self.broker, self.run, PARTITIONS)

    def feed(self, shifts: list[Shift] | None = None) -> None:
        """Start the feed and wait until output comes of it, in every partition."""
        plan = self.plan
        arguments = {
            "broker": self.broker,
            "run": self.run,
            "seed": plan.seed,
            "start-ns": time.time_ns() + 2_000_000_000,
            "ticks": plan.ticks,
            "rate": plan.rate,
            "shifts": msgspec.json.encode(shifts or []).decode(),
            "progress": self.directory / "fed.txt",
            "result": self.directory / "fed.json",
        }
        options = [text for name, value in arguments.items() for text in (f"--{name}", str(value))]
        self._feed = Program("feed", ["-m", "tests.faults.feed", *options], {}, self.directory / "feed.log")
        self.until(lambda: min(self.watch.offsets().values()) >= 0, BEGIN_LIMIT_S, "no output has come")

    def settle(self) -> None:
        """Let the feed come to its end, and wait until workers and sinks are through."""
        feed = self._feed
        if feed is not None:
            feed.ask_to_end()
            limit = 2 * self.plan.ticks / self.plan.rate + SETTLE_LIMIT_S
            self.until(lambda: feed.code is not None, limit, "the feed does not end")
            if feed.code:
                raise FaultError(f"the feed ended with code {feed.code}:\n{feed.tail()}")
        if not self.workers:
            self.add_worker()
        if not self.sinks and self.database:
            self.add_sink()
        self.wait_for_no_lag(admin.app_id(self.run), [topics.RAW.name], "worker")
        if self.sinks:
            self.wait_for_no_lag(admin.sink_id(self.run), [topic.name for topic in admin.SUNK], "sink")

    def wait_for_no_lag(self, group: str, names: list[str], what: str) -> None:
        """Wait until a group has committed all of some topics."""
        lag = log.Lag(self.broker, group, [named(name, self.run) for name in names], PARTITIONS)
        left: list[Any] = [None]

        def done() -> bool:
            left[0] = lag.behind()
            return left[0] == {}

        self.until(done, SETTLE_LIMIT_S, f"the {what} does not come to the end", lambda: f"behind: {left[0]}")
        lag.close()

    def assert_all_is_committed(self) -> None:
        """Nothing that came out will be read again: the group has committed it."""
        lag = log.Lag(self.broker, admin.app_id(self.run), [named(topics.RAW.name, self.run)], PARTITIONS)
        self.pause(ON_ITS_WAY_S)
        committed: dict[tuple[str, int], int] = {}
        self.until(lambda: bool(committed.update(lag.committed() or {}) or committed), SETTLE_LIMIT_S, "no answer")
        lag.close()
        for number, seen in self.watch.offsets().items():
            found = committed[named(topics.RAW.name, self.run), number]
            if found <= seen:
                self.errors.append(f"partition {number}: {found} is committed, but the output of {seen} is out")

    def stop(self) -> None:
        """End all processes cleanly: exit code 0, and in time."""
        self.stop_programs([*self.workers, *self.sinks, *self.leaving])
        self.workers.clear()
        self.sinks.clear()
        if self._watch is not None:
            watch, self._watch = self._watch, None
            watch.stop()

    def stop_programs(self, programs: list[Program]) -> None:
        """SIGTERM: they end with 0, within 10 s."""
        began = time.monotonic()
        for program in programs:
            program.ask_to_end()
        for program in programs:
            while program.code is None and time.monotonic() < began + KILL_AFTER_S:
                time.sleep(TEND_S)
            took = time.monotonic() - began
            self.notes["stop_s"] = max(self.notes.get("stop_s", 0.0), round(took, 2))
            if program.code is None:
                self.errors.append(f"{program.name} did not end within {KILL_AFTER_S} s of SIGTERM")
                program.kill()
            elif program.code and (program.code != -signal.SIGTERM or program.is_ready()):
                self.errors.append(f"{program.name} ended with code {program.code} at SIGTERM:\n{program.tail(5)}")
            elif took > STOP_LIMIT_S:
                self.errors.append(f"{program.name} took {took:.1f} s to end after SIGTERM")

    def close(self) -> None:
        """Leave no process behind, whatever has happened."""
        self.tending = False
        for program in (*self.workers, *self.sinks, *self.leaving, self._feed):
            if program is not None and program.code is None:
                program.kill()  # also where it is held
        if self._watch is not None:
            try:
                self._watch.stop()
            except RuntimeError as error:
                self.errors.append(f"watch: {error}")

    def compare(self, comparison: Callable[["World", Subject, dict[int, str] | None], Compared] | None) -> Compared:
        """Compare what stands in Kafka and the database with the undisturbed run."""
        result = self.directory / "fed.json"
        digests = msgspec.json.decode(result.read_bytes(), type=Fed).digests if self._feed is not None else None
        exactly = self.plan.delivery == "exactly_once"
        instruments = load(self.instruments)
        subject = Subject(self.broker, self.database, self.run, PARTITIONS, instruments, exactly)
        return comparison(self, subject, digests) if comparison else compare(subject, digests)

    # Processes.

    @property
    def database(self) -> str:
        """Its address; no other after a restart."""
        return self.postgres.database

    @property
    def cluster(self) -> Cluster:
        """The three brokers."""
        assert isinstance(self.kafka, Cluster)
        return self.kafka

    @property
    def single(self) -> Single:
        """The Kafka of one node."""
        assert isinstance(self.kafka, Single)
        return self.kafka

    @property
    def watch(self) -> Watch:
        """Who looks on; raises what it has met."""
        assert self._watch is not None
        if self._watch.failure is not None:
            raise self._watch.failure
        return self._watch

    def environment(self, name: str) -> dict[str, str]:
        """The environment of one process of the system."""
        found = {
            "TICKLOOM_BROKER": self.broker,
            "TICKLOOM_DATABASE": self.database,
            "TICKLOOM_RUN": self.run,
            "TICKLOOM_STATE": str(self.directory),
            "TICKLOOM_DATA": str(self.directory / name),
            "TICKLOOM_INSTRUMENTS": str(self.instruments),
        }
        if self.plan.delivery:
            found["TICKLOOM_DELIVERY"] = self.plan.delivery
        return {key: value for key, value in found.items() if value}

    def _start(self, command: str, name: str) -> Program:
        environment = self.environment(name) | self.plan.environment | {"TICKLOOM_WEB_PORT": self._port(name)}
        path = self.directory / f"{name}.log"
        return Program(name, [*self.plan.entry, command], environment, path, self.plan.tree)

    def _port(self, name: str) -> str:
        """A web port of its own, kept over restarts: two that start together would both take the same free one."""
        if name not in self._ports:
            with socket.create_server(("127.0.0.1", 0)) as probe:
                self._ports[name] = str(probe.getsockname()[1])
        return self._ports[name]

    def add_worker(self) -> Program:
        """One more worker, with a data directory of its own."""
        self._started += 1
        self.workers.append(self._start("worker", f"worker-{self._started}"))
        return self.workers[-1]

    def add_sink(self) -> Program:
        """One more sink."""
        self._started += 1
        self.sinks.append(self._start("sink", f"sink-{self._started}"))
        return self.sinks[-1]

    def restart(self, program: Program) -> Program:
        """Start again what has ended, in the same place."""
        command = program.name.split("-")[0]
        programs = self.workers if command == "worker" else self.sinks
        programs[programs.index(program)] = again = self._start(command, program.name)
        return again

    def tend(self) -> None:
        """Start again what has ended by itself, as a service manager does."""
        if not self.tending:
            return
        if self._feed is not None and self._feed.wanted and self._feed.code is not None:
            raise FaultError(f"the feed ended with code {self._feed.code}:\n{self._feed.tail()}")
        for program in (*self.workers, *self.sinks):
            if program.wanted and program.code is not None:
                self.ended[program.name] = self.ended.get(program.name, 0) + 1
                self.say(f"{program.name} ended with code {program.code}: {program.tail(1)}")
                self.restart(program)

    # Time.

    @property
    def now_s(self) -> float:
        """Seconds since the scenario began."""
        return time.monotonic() - self._began

    def pause(self, seconds: float) -> None:
        """Let the system run on."""
        limit = time.monotonic() + seconds
        while (left := limit - time.monotonic()) > 0:
            self.tend()
            time.sleep(min(TEND_S, left))

    def until(
        self, done: Callable[[], bool], seconds: float, complaint: str, detail: Callable[[], str] | None = None
    ) -> float:
        """Wait for something, tending the processes; give the seconds it took. Raises FaultError."""
        began = time.monotonic()
        while not done():
            self.tend()
            if time.monotonic() > began + seconds:
                more = f" ({detail()})" if detail else ""
                tails = "\n".join(f"--- {each.name}\n{each.tail(8)}" for each in (*self.workers, *self.sinks))
                raise FaultError(f"{complaint} within {seconds:.0f} s{more}\n{tails}")
            time.sleep(TEND_S)
        return time.monotonic() - began

    # Faults.

    def say(self, text: str) -> None:
        """Tell what is going on."""
        self._say(f"{self.now_s:7.1f} s  {self.name}: {text}")

    def fault(self, kind: str, target: str) -> Injected:
        """Note that a fault is injected now."""
        self.faults.append(Injected(round(self.now_s, 2), kind, target))
        self.say(f"{kind} {target}")
        return self.faults[-1]

    def raw_ends(self) -> dict[int, int]:
        """The ends of market.raw."""
        lag = log.Lag(self.broker, "faults-reader", [named(topics.RAW.name, self.run)], PARTITIONS)
        found: dict[int, int] = {}

        def answered() -> bool:
            ends = lag.ends()
            found.update({number: end for (_, number), end in (ends or {}).items()})
            return bool(ends)

        self.until(answered, SETTLE_LIMIT_S, "Kafka does not answer")
        lag.close()
        return found

    def recovered(self, fault: Injected, began: float, limit_s: float) -> None:
        """Wait for new output after a fault that began at a moment (monotonic); note how long it took.

        First: a tick comes out whose offset is above all that had come out when the fault was made. Whole: in each
        partition one comes out that has arrived after that.
        """
        self.pause(ON_ITS_WAY_S)
        seen = self.watch.offsets()
        limit = limit_s + began - time.monotonic()
        self.until(lambda: self._passed(seen, any), limit, "no new output")
        fault.first_s = round(time.monotonic() - began, 2)
        ends = self.raw_ends()
        self.until(lambda: self._passed(ends, all), SETTLE_LIMIT_S, "not all partitions give output again")
        fault.whole_s = round(time.monotonic() - began, 2)
        fault.age_s = round(self.watch.oldest(began, time.monotonic()), 2)

    def _passed(self, marks: Mapping[int, int], how: Callable[[Any], bool]) -> bool:
        seen = self.watch.offsets()
        return how(seen[number] > mark for number, mark in marks.items())
