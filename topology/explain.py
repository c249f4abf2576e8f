"""The errors that a user can do something about, in one line each. Imports none of what raises them."""

import errno
import sys

#: Module, class, and what stands before their text.
KNOWN_ERRORS = (
    ("schemas.instrument", "ConfigError", ""),
    ("deploy.local", "LocalStackError", ""),
    ("topology.admin", "BrokerError", ""),
    ("connectors.archive.file", "ArchiveError", ""),
    ("psycopg", "OperationalError", "the database (TICKLOOM_DATABASE): "),
    ("psycopg.errors", "UndefinedTable", "the database has no tables yet, `tickloom sink` makes them: "),
    ("psycopg", "Error", "the database: "),
    ("confluent_kafka", "KafkaException", "Kafka: "),
    ("aiokafka.errors", "KafkaError", "Kafka: "),
    ("builtins", "OSError", ""),
)

#: What the system says of a directory that can't be made, or written.
UNUSABLE = (errno.ENOTDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS)


def known_errors() -> dict[type[Exception], str]:
    """The classes above of which one can have been raised: their module is imported."""
    return {
        getattr(sys.modules[module], name): before for module, name, before in KNOWN_ERRORS if module in sys.modules
    }


def explain(error: Exception) -> str:
    """Say in one line what went wrong and what to do about it."""
    before = next(text for kind, text in known_errors().items() if isinstance(error, kind))
    text = str(error)
    if error.args and hasattr(error.args[0], "str"):  # confluent-kafka's error object
        text = error.args[0].str() or error.args[0].name()
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        text += ": make room, or set TICKLOOM_STATE and TICKLOOM_DATA to directories elsewhere"
    if isinstance(error, OSError) and error.errno in UNUSABLE:
        text += ": TICKLOOM_STATE and TICKLOOM_DATA must be directories that can be written"
    return before + (" ".join(text.split()) or type(error).__name__)
