"""A cluster that asks who we are: the right password opens it for every process, a wrong one is one clear line."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it does not say that it exports them
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from deploy import local
from deploy.local import Stack
from schemas.codec import Codec
from schemas.instrument import ConfigError
from schemas.record import Quote
from schemas.topics import TICK, named
from tests.market import NOON, quote
from tests.topology.processes import PARTITIONS, Process, free_ports, lag, produce, read, wait_for_no_lag
from topology import admin, config
from topology.config import Settings
from topology.storage import database

USER, PASSWORD = "tickloom", "s3cret,with=signs"

LISTENERS = """
listeners=BROKER://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller}},SASL://127.0.0.1:{sasl}{tls_listener}
advertised.listeners=BROKER://127.0.0.1:{{port}},SASL://127.0.0.1:{sasl}{tls_listener}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL:SASL_PLAINTEXT,TLS:SASL_SSL,MUTUAL:SSL
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.sasl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
listener.name.sasl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.tls.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
listener.name.tls.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
"""  # noqa: E501
TLS = """
ssl.keystore.type=PEM
ssl.keystore.location={directory}/server.pem
ssl.truststore.type=PEM
ssl.truststore.location={directory}/ca.crt
listener.name.mutual.ssl.client.auth=required
"""


def make_certificates(directory: Path) -> bool:
    """A CA, the broker's certificate and a client's; False where there is no openssl."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return False

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=directory, check=True, capture_output=True)

    new = ("-newkey", "rsa:2048", "-nodes", "-keyout")
    run("req", "-x509", *new, "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=test ca")
    (directory / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    for name in ("server", "client"):
        run("req", *new, f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "san", "-days", "2")
        run("x509", "-req", "-in", f"{name}.csr", *signed, "-out", f"{name}.crt")
    pem = (directory / "server.key").read_text() + (directory / "server.crt").read_text()
    (directory / "server.pem").write_text(pem)
    return True


class Guarded:
    """A Kafka with a plain listener for the test and guarded ones for what is tested."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        sasl, tls, mutual = free_ports(3)
        self.has_tls = make_certificates(directory)
        listener = f",TLS://127.0.0.1:{tls},MUTUAL://127.0.0.1:{mutual}" if self.has_tls else ""
        lines = [line for line in local.SERVER_PROPERTIES.splitlines() if "listener" not in line.partition("=")[0]]
        own = [line for line in local.SERVER_PROPERTIES.splitlines() if line.split("=")[0] in OURS]
        guarded = LISTENERS.format(sasl=sasl, tls_listener=listener, user=USER, password=PASSWORD)
        before = local.SERVER_PROPERTIES
        secure = TLS.format(directory=directory) if self.has_tls else ""
        local.SERVER_PROPERTIES = "\n".join([*lines, *own, guarded, secure])
        try:
            self.broker = local.start(directory / "kafka", postgres=False).broker
        finally:
            local.SERVER_PROPERTIES = before
        self.sasl, self.tls, self.mutual = (f"127.0.0.1:{port}" for port in (sasl, tls, mutual))
        client = admin.connect(self.broker)
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        change = UserScramCredentialUpsertion(USER, info, PASSWORD.encode())
        for future in client.alter_user_scram_credentials([change]).values():
            future.result(30)


OURS = ("inter.broker.listener.name", "controller.listener.names")


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("guarded")
    yield Guarded(directory)
    local.clean(directory / "kafka")


@pytest.fixture
def run(kafka: Guarded, run_name: str) -> str:
    """A run with its topics."""
    admin.create_topics(kafka.broker, run_name, partitions=PARTITIONS)
    return run_name


def guarded_by(kafka: Guarded, how: str) -> dict[str, str]:
    """The settings of each way in."""
    if how != "SASL_PLAINTEXT PLAIN" and how != "SASL_PLAINTEXT SCRAM-SHA-512" and not kafka.has_tls:
        pytest.skip("there is no openssl to make certificates with")
    protocol, _, mechanism = how.partition(" ")
    found = {"TICKLOOM_KAFKA_SECURITY_PROTOCOL": protocol}
    if mechanism:
        found["TICKLOOM_KAFKA_SASL_MECHANISM"] = mechanism
        found["TICKLOOM_KAFKA_USERNAME"] = USER
        secret = kafka.directory / "password"
        secret.write_text(f"{PASSWORD}\n")
        found["TICKLOOM_KAFKA_PASSWORD_FILE"] = str(secret)
    if protocol.endswith("SSL"):
        found["TICKLOOM_KAFKA_CA_FILE"] = str(kafka.directory / "ca.crt")
    if protocol == "SSL":
        found["TICKLOOM_KAFKA_CERTIFICATE_FILE"] = str(kafka.directory / "client.crt")
        found["TICKLOOM_KAFKA_KEY_FILE"] = str(kafka.directory / "client.key")
    where = {"SASL_PLAINTEXT": kafka.sasl, "SASL_SSL": kafka.tls, "SSL": kafka.mutual}
    return found | {"TICKLOOM_BROKER": where[protocol]}


WAYS = ("SASL_PLAINTEXT PLAIN", "SASL_PLAINTEXT SCRAM-SHA-512", "SASL_SSL SCRAM-SHA-512", "SSL")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts processes that end with the test."""
    started: list[Process] = []

    def one(environ: dict[str, str], *arguments: str) -> Process:
        name = f"{len(started)}-{arguments[0]}"
        data = {"TICKLOOM_DATA": str(tmp_path / name)}
        started.append(Process(environ | data, *arguments, log=tmp_path / f"{name}.log"))
        return started[-1]

    yield one
    for process in started:
        process.kill()


def ended(process: Process, seconds: float = 60) -> str:
    """What a command says that ends by itself."""
    limit = time.monotonic() + seconds
    while process.is_running():
        assert time.monotonic() < limit, process.tail()
        time.sleep(0.05)  # polling the end of a process
    return process.log.read_text()


@pytest.mark.integration
@pytest.mark.parametrize("how", WAYS)
def test_a_worker_works_on_a_guarded_cluster(
    kafka: Guarded, run: str, environment: dict[str, str], start: Callable[..., Process], how: str
) -> None:
    worker = start(environment | guarded_by(kafka, how), "worker")
    produce(kafka.broker, run, [quote(at=NOON + second * 10**9, bid=109_000 - second) for second in range(5)])
    wait_for_no_lag(kafka.broker, run, [worker])
    ticks = [Codec().decode(each.value()) for each in read(kafka.broker, named(TICK.name, run))]
    assert [each.bid for each in ticks if isinstance(each, Quote)] == [109_000 - second for second in range(5)]
    assert worker.stop() == 0
    assert PASSWORD not in worker.log.read_text()


@pytest.mark.integration
@pytest.mark.parametrize("how", WAYS)
def test_topics_and_a_sink_work_on_a_guarded_cluster(
    kafka: Guarded, stack: Stack, run_name: str, environment: dict[str, str], start: Callable[..., Process], how: str
) -> None:
    run, environ = run_name, environment | guarded_by(kafka, how)
    assert f"created {run}.market.raw" in ended(start(environ, "topics", "create", "--partitions", str(PARTITIONS)))
    sink = start(environ, "sink")
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": kafka.broker})
    headers: list[Any] = [("offset", b"7")]
    producer.produce(named(TICK.name, run), Codec().encode(quote()), b"EURUSD", 0, headers=headers)
    producer.produce(named(TICK.name, run), b"rubbish", b"EURUSD", 0, headers=headers)  # the sink's own producer
    assert producer.flush(30) == 0
    limit = time.monotonic() + 60
    while lag(kafka.broker, admin.sink_id(run), named(TICK.name, run)):
        assert sink.is_running(), sink.tail()
        assert time.monotonic() < limit, sink.tail()
        time.sleep(0.1)  # polling committed offsets: Kafka does not tell
    with database.connect(stack.database) as connection:
        rows = connection.execute("SELECT symbol, source_offset FROM ticks WHERE run = %s", [run]).fetchall()
    assert rows == [("EURUSD", 7)]
    assert "1 UNKNOWN_SCHEMA" in ended(start(environ, "dead-letter", "list"))
    assert "1 letters sent back" in ended(start(environ, "dead-letter", "retry"))
    assert "dead letter" in ended(start(environ, "status"))
    assert sink.stop() == 0
    assert PASSWORD not in sink.log.read_text()


@pytest.mark.integration
@pytest.mark.parametrize(
    "command",
    [("topics", "check"), ("worker",), ("sink",), ("dead-letter", "list")],
    ids=" ".join,
)
def test_a_wrong_password_is_one_clear_line(
    kafka: Guarded,
    run: str,
    environment: dict[str, str],
    start: Callable[..., Process],
    command: tuple[str, ...],
) -> None:
    how = "SASL_PLAINTEXT " + ("PLAIN" if command[0] == "topics" else "SCRAM-SHA-512")
    wrong = guarded_by(kafka, how) | {"TICKLOOM_KAFKA_PASSWORD": "hunter2"}
    del wrong["TICKLOOM_KAFKA_PASSWORD_FILE"]
    said = ended(start(environment | wrong, *command)).strip()
    assert said.startswith(f"Error: Kafka at {kafka.sasl} does not let in user 'tickloom': TICKLOOM_KAFKA_USERNAME")
    assert "\n" not in said
    assert "hunter2" not in said


@pytest.mark.integration
def test_the_wrong_ca_is_one_clear_line(
    kafka: Guarded, run: str, environment: dict[str, str], start: Callable[..., Process]
) -> None:
    wrong = guarded_by(kafka, "SASL_SSL SCRAM-SHA-512")
    del wrong["TICKLOOM_KAFKA_CA_FILE"]  # what the system trusts
    said = ended(start(environment | wrong, "topics", "check")).strip()
    assert said.startswith("Error: Kafka at ")
    assert "certificate" in said
    assert "\n" not in said


# The settings alone.


def problem(**environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(environ)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_half_of_a_security_is_refused(tmp_path: Path) -> None:
    sasl = {"TICKLOOM_KAFKA_SECURITY_PROTOCOL": "sasl_ssl", "TICKLOOM_KAFKA_USERNAME": "me"}
    assert "TICKLOOM_KAFKA_PASSWORD" in problem(**sasl)
    assert "would be told" in problem(TICKLOOM_KAFKA_USERNAME="me")
    assert "SASL_SSL" in problem(TICKLOOM_KAFKA_SECURITY_PROTOCOL="TLS")
    assert "SCRAM-SHA-512" in problem(TICKLOOM_KAFKA_SASL_MECHANISM="GSSAPI")
    assert "_PASSWORD_FILE" in problem(**sasl, TICKLOOM_KAFKA_PASSWORD_FILE=str(tmp_path / "missing"))
    assert "leave one out" in problem(**sasl, TICKLOOM_KAFKA_PASSWORD="a", TICKLOOM_KAFKA_PASSWORD_FILE="b")
    assert "_CA_FILE" in problem(**sasl, TICKLOOM_KAFKA_PASSWORD="a", TICKLOOM_KAFKA_CA_FILE=str(tmp_path / "missing"))
    assert "not be used" in problem(TICKLOOM_KAFKA_CA_FILE="ca.crt")
    ssl = {"TICKLOOM_KAFKA_SECURITY_PROTOCOL": "SSL"}
    assert "go together" in problem(**ssl, TICKLOOM_KAFKA_KEY_FILE="a.key")
    Path("tickloom.yaml").write_text("kafka_password: hunter2\n")
    said = problem()
    assert "TICKLOOM_KAFKA_PASSWORD" in said
    assert "hunter2" not in said


def test_no_secret_is_shown() -> None:
    settings = Settings(
        broker="a:1",
        database="postgresql://me:hunter2@host/db",
        kafka_security_protocol="SASL_PLAINTEXT",
        kafka_username="me",
        kafka_password="hunter2",
    )
    for shown in (repr(settings), str(settings), f"{settings}", repr(config.faust_credentials(settings))):
        assert "hunter2" not in shown
    assert settings.kafka["sasl.password"] == "hunter2"
    assert config.aiokafka_options(settings)["sasl_plain_password"] == "hunter2"


def test_a_child_process_gets_the_same(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    environ = {
        "TICKLOOM_BROKER": "a:1",
        "TICKLOOM_KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "TICKLOOM_KAFKA_USERNAME": "me",
        "TICKLOOM_KAFKA_PASSWORD_FILE": str(tmp_path / "secret"),
    }
    settings = config.load(environ)
    assert config.load(settings.environment()) == settings
    assert "hunter2" not in str(settings.environment())
    assert settings.kafka["sasl.password"] == "hunter2"


def test_without_security_nothing_is_said_of_it() -> None:
    settings = Settings(broker="a:1,b:2")
    assert settings.kafka == {"bootstrap.servers": "a:1,b:2"}
    assert config.aiokafka_options(settings) == {"bootstrap_servers": ["a:1", "b:2"]}
    assert config.faust_credentials(settings) is None
    assert os.environ.get("TICKLOOM_KAFKA_PASSWORD") is None
