"""The command `tickloom`: what a person types, and the one place where errors become one line each.

Rule: only click is imported at the top, as `--help` and a typing mistake must answer at once; each command
imports what it runs. No market logic and no I/O of its own here.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from topology.config import Settings

SECTIONS = {
    "Begin": ("demo", "local", "status"),
    "Prices": ("import", "candles"),
    "Run it on your Kafka": ("topics", "worker", "sink"),
}

HELP = """Many brokers' raw ticks in, one clean consolidated tape out.

Connectors write what each broker sends to the Kafka topic market.raw. A worker removes duplicates, invalid
ticks and spikes, keeps a ledger of gaps, and writes accepted ticks, the best bid and ask across brokers and
one-minute candles to topics of their own. A sink writes those into PostgreSQL or TimescaleDB.
"""

EPILOG = """\b
Environment (or the same keys in tickloom.yaml, or in the file that TICKLOOM_CONFIG names):
  TICKLOOM_BROKER        your Kafka, host:port[,host:port]        (default: the local stack)
  TICKLOOM_DATABASE      your database, postgresql://user@host/db (default: the local stack)
  TICKLOOM_RUN           a namespace of topics, groups and state  (default: the live system)
  TICKLOOM_STATE         directory of the local stack             (default: .local)
  TICKLOOM_DATA          directory of a worker's own files        (default: data in TICKLOOM_STATE)
  TICKLOOM_INSTRUMENTS   your own instruments.yaml
  TICKLOOM_WEB_HOST, TICKLOOM_WEB_PORT   the web views            (default: 127.0.0.1, 6066 or free)
  SCHEMA_REGISTRY_URL    Avro in Confluent's framing, with this registry

\b
Examples:
  tickloom demo --seconds 90
  tickloom import EURUSD_2024*.zip --source fxcm --symbol EURUSD
  tickloom candles EURUSD --from 2024-01-05T08:00 --to 2024-01-05T09:00 --format csv
"""


def _known_errors() -> tuple[type[Exception], ...]:
    """The exceptions that a user can do something about. Evaluated only when something was raised."""
    from confluent_kafka import KafkaException
    from psycopg import Error as DatabaseError

    from deploy.local import LocalStackError
    from schemas.instrument import ConfigError

    return (ConfigError, LocalStackError, KafkaException, DatabaseError, OSError)


def explain(error: Exception) -> str:
    """Say in one line what went wrong and what to do about it."""
    from confluent_kafka import KafkaException
    from psycopg import Error as DatabaseError

    if isinstance(error, KafkaException):
        return f"Kafka: {error.args[0].str() if hasattr(error.args[0], 'str') else error}"
    if isinstance(error, DatabaseError):
        return f"the database: {_one_line(error)}"
    return _one_line(error)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class Sections(click.Group):
    """A group whose help lists its commands by section, and whose known errors end in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except _known_errors() as error:
            raise click.ClickException(explain(error)) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands in the order in which a newcomer needs them."""
        for section, names in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name, self._summary(name)) for name in names])

    def _summary(self, name: str) -> str:
        command = self.commands[name]
        if isinstance(command, click.Group):
            return f"{'|'.join(command.commands)}: {command.get_short_help_str(90)}"
        return command.get_short_help_str(90)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the epilog without indent."""
        for part in EPILOG.split("\b\n")[1:]:
            formatter.write("\n" + part.rstrip() + "\n")


@click.group(
    cls=Sections,
    name="tickloom",
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="tickloom", prog_name="tickloom")
def main() -> None:
    """Start."""


def _settings(*, broker: bool = False, database: bool = False) -> "Settings":
    from topology import config

    return config.located(config.load(), broker=broker, database=database)


@main.command()
@click.option("--seconds", type=click.FloatRange(min=1), help="End by itself after so long, with a summary.")
def demo(seconds: float | None) -> None:
    """Everything at once: local servers, four misbehaving brokers, a live view."""
    from topology.demo import run_demo

    sys.exit(run_demo(seconds))


@main.group()
def local() -> None:
    """a Kafka and a PostgreSQL of your own on this machine"""


@local.command("start")
def local_start() -> None:
    """Start what is not running yet; the first time fetches some 150 MB."""
    from deploy import local as stack
    from topology import config

    settings = config.load()
    started = stack.start(
        settings.state,
        kafka=not settings.broker,
        postgres=not settings.database,
        say=lambda line: click.echo(line, err=True),
    )
    click.echo(f"Kafka       {settings.broker or started.broker}")
    click.echo(f"PostgreSQL  {config.without_password(settings.database or started.database)}")


@local.command("stop")
def local_stop() -> None:
    """Stop both servers; their data stay."""
    from deploy import local as stack
    from topology import config

    settings = config.load()
    running = stack.stop(settings.state)
    click.echo("stopped" if running else f"nothing was running in {settings.state}")


@local.command("status")
def local_status() -> None:
    """Say what runs where. Exit code 1 where nothing does."""
    from deploy import local as stack
    from topology import config

    settings = config.load()
    found = stack.status(settings.state)
    for what, named, address, pid in (
        ("Kafka", settings.broker, found and found.broker, found and found.kafka_pid),
        ("PostgreSQL", settings.database, found and found.database, found and found.postgres_pid),
    ):
        place = config.without_password(named or address or "")
        owner = "yours, not looked after here" if place and not pid else f"process {pid}"
        click.echo(f"{what:<11} {place + '  (' + owner + ')' if place else 'not running: `make up`'}")
    if not found:
        sys.exit(1)


@local.command("clean")
@click.option("--yes", is_flag=True, help="Do not ask.")
def local_clean(yes: bool) -> None:
    """Stop both servers and remove their data: topics, tables, offsets."""
    from deploy import local as stack
    from topology import config

    settings = config.load()
    if not yes:
        click.confirm(f"Remove all data in {settings.state}?", abort=True)
    stack.clean(settings.state)
    click.echo(f"no data left in {settings.state}")


@main.command()
def worker() -> None:
    """A worker: reads market.raw, writes the clean topics. Start more to share the partitions."""
    from topology.app import run_worker

    run_worker(_settings(broker=True))


@main.command()
def sink() -> None:
    """The database writer: reads the clean topics, writes PostgreSQL or TimescaleDB."""
    from topology.sink import run_sink

    run_sink(_settings(broker=True, database=True))


@main.command("import")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
def import_(paths: tuple[Path, ...]) -> None:
    """Recorded ticks (LEAN, HistData, TrueFX, Dukascopy, CSV), as a run of its own."""
    raise click.ClickException("not here yet")


@main.command()
def status() -> None:
    """What flows: partitions, lag, sources, rejections, gaps, database."""
    raise click.ClickException("not here yet")


@main.command()
@click.argument("symbol")
def candles(symbol: str) -> None:
    """One-minute candles of a symbol as table, CSV or JSON."""
    raise click.ClickException("not here yet")


@main.group()
def topics() -> None:
    """the topics of the run"""


@topics.command("create")
def topics_create() -> None:
    """Make the topics that are missing and set right what can be set."""
    raise click.ClickException("not here yet")


@topics.command("check")
def topics_check() -> None:
    """Compare the topics with what the system relies on. Exit code 1 where one is wrong."""
    raise click.ClickException("not here yet")


@topics.command("list")
def topics_list() -> None:
    """The topics with their keys, partitions and sizes."""
    raise click.ClickException("not here yet")
