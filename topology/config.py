"""The settings of a process: environment first, then the config file, then the default.

The file is `tickloom.yaml` in the working directory, or the one TICKLOOM_CONFIG names; its keys are the
fields of `Settings`. In the environment the same names are upper case with TICKLOOM_ before them (only
SCHEMA_REGISTRY_URL keeps the name that every Kafka tool uses). What neither of them names and a command
needs, the running local stack provides: `located`. No message repeats the database's address, as it may
hold a password.
"""

import difflib
import errno
import os
import re
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from schemas.instrument import ConfigError

if TYPE_CHECKING:
    import ssl

DEFAULT_FILE = Path("tickloom.yaml")
DEFAULT_WEB_PORT = 6066  # as every Faust user expects
DEFAULT_SINK_WEB_PORT = 6067
CONFIG = "TICKLOOM_CONFIG"
STORES = ("memory", "rocksdb")
DELIVERIES = ("exactly_once", "at_least_once")
ADDRESSES = ("database", "schema_registry_url")  # which may hold a password
ELSEWHERE = (CONFIG, "TICKLOOM_PURE")  # read here and by setup.py


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that a process is told from outside. An empty broker or database is not located yet."""

    broker: str = ""  # host:port of Kafka, or several of them with commas between
    database: str = ""  # postgresql://user@host:port/name
    run: str = ""  # the namespace; empty: the live system
    state: Path = Path(".local")  # the directory of the local stack
    data: Path | None = None  # where a worker keeps what it has on disk; None: `data` in the state directory
    state_store: str = "memory"  # or rocksdb: the state is kept in `data` too
    instruments: Path | None = None  # a file instead of schemas/instruments.yaml
    schema_registry_url: str = ""
    kafka_security_protocol: str = "PLAINTEXT"
    kafka_sasl_mechanism: str = "SCRAM-SHA-512"
    kafka_username: str = ""
    kafka_password: str = ""  # not in the config file
    kafka_password_file: Path | None = None
    kafka_ca_file: Path | None = None  # PEM; None: what the system trusts
    kafka_certificate_file: Path | None = None  # our own, and its key, where the cluster asks for them
    kafka_key_file: Path | None = None
    delivery: str = "exactly_once"  # or at_least_once
    commit_seconds: float = 0.0  # between two commits; 0: as delivery.py says for each of the two
    standby: int = 0  # how many other workers hold the state of each partition, ready to take it over
    session_seconds: float = 6.0  # a worker that is silent for so long is dead; Kafka's own minimum is 6
    web_host: str = "127.0.0.1"
    web_port: int = 0  # 0: 6066, or a free port where that is taken
    sink_web_port: int = 0  # the same of the sink: 6067

    def __repr__(self) -> str:
        shown = {
            field: without_password(value) if field in ADDRESSES else "***" if field == "kafka_password" else value
            for field, value in msgspec.structs.asdict(self).items()
            if value
        }
        return f"Settings({', '.join(f'{field}={value!r}' for field, value in shown.items())})"

    @property
    def kafka(self) -> dict[str, Any]:
        """How a client of librdkafka (confluent-kafka) reaches Kafka. Raises ConfigError."""
        return librdkafka(self)

    @property
    def brokers(self) -> list[str]:
        """The Kafka addresses one by one."""
        return self.broker.split(",")

    @property
    def data_dir(self) -> Path:
        """The directory of a worker's files."""
        return self.data or self.state / "data"

    def environment(self) -> dict[str, str]:
        """These settings as a child process takes them."""
        values = msgspec.structs.asdict(self)
        return {_variable(field): str(value) for field, value in values.items() if value}


def load(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings. Raises ConfigError with one line that says which one is wrong and what it may be."""
    environ = os.environ if environ is None else environ
    values = _from_file(environ.get(CONFIG, "")) | _from_environment(environ)
    settings = Settings(**values)
    _check_security(settings)
    return settings


def located(settings: Settings, *, broker: bool = True, database: bool = True) -> Settings:
    """Fill in the needed servers from the running local stack. Raises ConfigError where it does not run."""
    missing = [
        name for name, needed in (("broker", broker), ("database", database)) if needed and not getattr(settings, name)
    ]
    if not missing:
        return settings
    from deploy import local

    stack = local.status(settings.state)
    found = {name: getattr(stack, name, "") for name in missing}
    for name, address in found.items():
        if not address:
            what = "Kafka" if name == "broker" else "PostgreSQL"
            raise ConfigError(
                f"no {what} is named and none runs in {settings.state}: run `make up` "
                f"(or `tickloom local start`), or set {_variable(name)}"
            )
    return msgspec.structs.replace(settings, **found)


def librdkafka(settings: Settings) -> dict[str, Any]:
    """Where Kafka is and how it lets us in, for confluent-kafka. Raises ConfigError."""
    found: dict[str, Any] = {"bootstrap.servers": settings.broker}
    if settings.kafka_security_protocol == "PLAINTEXT":
        return found
    found["security.protocol"] = settings.kafka_security_protocol
    files = {
        "ssl.ca.location": settings.kafka_ca_file,
        "ssl.certificate.location": settings.kafka_certificate_file,
        "ssl.key.location": settings.kafka_key_file,
    }
    found |= {name: str(path) for name, path in files.items() if path}
    if _is_sasl(settings):
        found["sasl.mechanisms"] = settings.kafka_sasl_mechanism
        found["sasl.username"] = settings.kafka_username
        found["sasl.password"] = _password(settings)
    return found


def aiokafka_options(settings: Settings) -> dict[str, Any]:
    """The same as arguments of aiokafka's clients. Raises ConfigError."""
    found: dict[str, Any] = {"bootstrap_servers": settings.brokers}
    if settings.kafka_security_protocol == "PLAINTEXT":
        return found
    found["security_protocol"] = settings.kafka_security_protocol
    found["ssl_context"] = _ssl_context(settings)
    if _is_sasl(settings):
        found["sasl_mechanism"] = settings.kafka_sasl_mechanism
        found["sasl_plain_username"] = settings.kafka_username
        found["sasl_plain_password"] = _password(settings)
    return found


def faust_credentials(settings: Settings) -> Any:
    """The same as Faust's `broker_credentials`; None where none are needed. Raises ConfigError."""
    import faust

    context = _ssl_context(settings)
    if _is_sasl(settings):
        return faust.SASLCredentials(
            username=settings.kafka_username,
            password=_password(settings),
            mechanism=settings.kafka_sasl_mechanism,
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)


def _is_sasl(settings: Settings) -> bool:
    return settings.kafka_security_protocol.startswith("SASL_")


def _ssl_context(settings: Settings) -> "ssl.SSLContext | None":
    if not settings.kafka_security_protocol.endswith("SSL"):
        return None
    import ssl

    try:
        context = ssl.create_default_context(cafile=settings.kafka_ca_file)
        if settings.kafka_certificate_file:
            context.load_cert_chain(settings.kafka_certificate_file, settings.kafka_key_file)
    except OSError as error:  # ssl.SSLError too
        raise ConfigError(f"TICKLOOM_KAFKA_CA_FILE, _CERTIFICATE_FILE or _KEY_FILE: {error}") from error
    return context


def _password(settings: Settings) -> str:
    if settings.kafka_password_file is None:
        return settings.kafka_password
    try:
        return settings.kafka_password_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"TICKLOOM_KAFKA_PASSWORD_FILE: {error}") from error


def _check_security(settings: Settings) -> None:
    if settings.kafka_password and settings.kafka_password_file:
        raise ConfigError("TICKLOOM_KAFKA_PASSWORD and TICKLOOM_KAFKA_PASSWORD_FILE are both set: leave one out")
    if _is_sasl(settings) and not (settings.kafka_username and _password(settings)):
        raise ConfigError(
            f"{settings.kafka_security_protocol} needs TICKLOOM_KAFKA_USERNAME and TICKLOOM_KAFKA_PASSWORD or "
            "TICKLOOM_KAFKA_PASSWORD_FILE"
        )
    if settings.kafka_username and not _is_sasl(settings):
        raise ConfigError(
            "TICKLOOM_KAFKA_USERNAME is set, but nobody would be told it: set TICKLOOM_KAFKA_SECURITY_PROTOCOL to "
            "SASL_SSL or SASL_PLAINTEXT"
        )
    files = settings.kafka_ca_file or settings.kafka_certificate_file or settings.kafka_key_file
    if files and not settings.kafka_security_protocol.endswith("SSL"):
        raise ConfigError(f"{files} would not be used: set TICKLOOM_KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL")
    if bool(settings.kafka_certificate_file) != bool(settings.kafka_key_file):
        raise ConfigError("TICKLOOM_KAFKA_CERTIFICATE_FILE and TICKLOOM_KAFKA_KEY_FILE go together")
    _ssl_context(settings)


def worker_listener(settings: Settings) -> socket.socket:
    """A socket that listens for a worker's web views, so that nobody takes its port in between.

    Raises ConfigError where the port that was asked for is taken.
    """
    return _listener(settings.web_host, settings.web_port, DEFAULT_WEB_PORT, "TICKLOOM_WEB_PORT")


def sink_listener(settings: Settings) -> socket.socket:
    """The same for the sink's."""
    return _listener(settings.web_host, settings.sink_web_port, DEFAULT_SINK_WEB_PORT, "TICKLOOM_SINK_WEB_PORT")


def _listener(host: str, asked: int, usual: int, variable: str) -> socket.socket:
    port = asked or usual
    try:
        return socket.create_server((host, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ConfigError(f"cannot listen on {host}:{port} (TICKLOOM_WEB_HOST, {variable}): {error}") from error
    if asked:
        raise ConfigError(f"port {port} on {host} is in use: set {variable} to another one, or to 0 for a free one")
    return socket.create_server((host, 0))


def without_password(address: str) -> str:
    """The address of a database or a registry as it may be shown."""
    return re.sub(r"(?<=://)([^:@/]*):[^@/]*@", r"\1:***@", address)


def _variable(field: str) -> str:
    return field.upper() if field == "schema_registry_url" else f"TICKLOOM_{field.upper()}"


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    fields = {_variable(field): field for field in READ}
    values = {}
    for variable, value in environ.items():
        if variable in fields and value:
            values[fields[variable]] = _read(fields[variable], variable, value)
        elif variable.startswith("TICKLOOM_") and variable not in fields and variable not in ELSEWHERE:
            raise ConfigError(f"{variable} is no setting{_meant(variable, [*fields, CONFIG])}")
    return values


def _from_file(named: str) -> dict[str, Any]:
    path = Path(named) if named else DEFAULT_FILE
    if not named and not path.exists():
        return {}
    import yaml  # 10 ms that only a process with a file should pay

    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config file: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a line is `key: value`; the keys are {', '.join(READ)}")
    values = {}
    for key, value in content.items():
        if key not in READ:
            raise ConfigError(f"{path}: {key} is no setting{_meant(str(key), list(READ))}")
        if value is None:
            continue
        if key == "kafka_password":
            raise ConfigError(f"{path}: kafka_password belongs in TICKLOOM_KAFKA_PASSWORD or kafka_password_file")
        if isinstance(value, dict | list | bool):
            raise ConfigError(f"{path}: {key}: one text or number is expected")
        values[key] = _read(key, f"{path}: {key}", str(value))
    return values


def _meant(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.8)
    return f"; did you mean {close[0]}?" if close else f"; those are {', '.join(known)}"


def _read(field: str, place: str, text: str) -> Any:
    try:
        return READ[field](text.strip())
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from None  # the cause may show the database's password


def _address_list(text: str) -> str:
    addresses = [address.strip() for address in text.split(",")]
    for address in addresses:
        host, _, port = address.rpartition(":")
        if not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"{address!r} is not host:port, as in 127.0.0.1:9092")
    return ",".join(addresses)


def _dsn(text: str) -> str:
    if not text.startswith(("postgresql://", "postgres://")):
        raise ValueError("not an address as in postgresql://user@127.0.0.1:5432/tickloom")
    return text


def _run(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise ValueError(f"{text!r} is not a name of up to 64 letters, digits, - and _")
    return text


def _url(text: str) -> str:
    if not re.match(r"https?://[^/]", text):
        raise ValueError("not an address as in http://127.0.0.1:8081")
    return text.rstrip("/")


def _store(text: str) -> str:
    if text not in STORES:
        raise ValueError(f"{text!r} is neither {' nor '.join(STORES)}")
    return text


def _delivery(text: str) -> str:
    if text not in DELIVERIES:
        raise ValueError(f"{text!r} is neither {' nor '.join(DELIVERIES)}")
    return text


def _one_of(*names: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.upper() not in names:
            raise ValueError(f"{text!r} is none of {', '.join(names)}")
        return text.upper()

    return read


def _commit_seconds(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not 0.01 <= float(text) <= 60:
        raise ValueError(f"{text!r} is not a time of 0.01 to 60 seconds")
    return float(text)


def _standby(text: str) -> int:
    if not text.isdecimal() or int(text) > 10:
        raise ValueError(f"{text!r} is not a number of standby replicas from 0 to 10")
    return int(text)


def _session_seconds(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not 0.5 <= float(text) <= 60:
        raise ValueError(f"{text!r} is not a time of 0.5 to 60 seconds")
    return float(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise ValueError(f"{text!r} is not a port between 0 and 65535")
    return int(text)


def _path(text: str) -> Path:
    return Path(text).expanduser()


READ: dict[str, Callable[[str], Any]] = {
    "broker": _address_list,
    "database": _dsn,
    "run": _run,
    "state": _path,
    "data": _path,
    "state_store": _store,
    "instruments": _path,
    "schema_registry_url": _url,
    "kafka_security_protocol": _one_of("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"),
    "kafka_sasl_mechanism": _one_of("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"),
    "kafka_username": str,
    "kafka_password": str,
    "kafka_password_file": _path,
    "kafka_ca_file": _path,
    "kafka_certificate_file": _path,
    "kafka_key_file": _path,
    "delivery": _delivery,
    "commit_seconds": _commit_seconds,
    "standby": _standby,
    "session_seconds": _session_seconds,
    "web_host": str,
    "web_port": _port,
    "sink_web_port": _port,
}
