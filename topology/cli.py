"""The command `tickloom`: what a person types, and the one place where errors become one line each.

Rule: only click is imported at the top, as `--help` and a typing mistake must answer at once; each command
imports what it runs. No market logic and no I/O of its own here.
"""

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from topology.dead_letters.cli import dead_letter

if TYPE_CHECKING:
    from datetime import datetime

    from rich.console import Console

    from topology.config import Settings

SECTIONS = {
    "Begin": ("demo", "local", "status"),
    "Prices": ("import", "replay", "candles"),
    "Run it on your Kafka": ("topics", "worker", "sink", "dead-letter"),
}

HELP = """Many brokers' raw ticks in, one clean consolidated tape out.

Connectors write to the Kafka topic market.raw. Workers remove duplicates,
spikes and what is invalid, keep a ledger of gaps, and write accepted ticks,
best prices and minute candles, which a sink puts into PostgreSQL.
"""

EPILOG = """
Environment, or the same keys in tickloom.yaml (or where TICKLOOM_CONFIG points):
  TICKLOOM_BROKER       your Kafka, host:port            [default: the local one]
  TICKLOOM_KAFKA_SECURITY_PROTOCOL  PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL
  TICKLOOM_KAFKA_SASL_MECHANISM     PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 (default)
  TICKLOOM_KAFKA_USERNAME, TICKLOOM_KAFKA_PASSWORD or TICKLOOM_KAFKA_PASSWORD_FILE
  TICKLOOM_KAFKA_CA_FILE, TICKLOOM_KAFKA_CERTIFICATE_FILE, TICKLOOM_KAFKA_KEY_FILE
  TICKLOOM_DATABASE     your postgresql://user@host/name [default: the local one]
  TICKLOOM_RUN          namespace of topics and state [default: the live system]
  TICKLOOM_STATE        directory of the local servers         [default: .local]
  TICKLOOM_DATA, TICKLOOM_STATE_STORE  a worker's files [.local/data]; memory or rocksdb
  TICKLOOM_INSTRUMENTS  your own instruments.yaml
  TICKLOOM_DELIVERY     exactly_once or at_least_once    [default: exactly_once]
  TICKLOOM_COMMIT_SECONDS  between two commits  [default: 0.1; at least once: 1]
  TICKLOOM_STANDBY      how many others hold a worker's state ready  [default: 0]
  TICKLOOM_SESSION_SECONDS  a worker so long silent is dead        [default: 6]
  TICKLOOM_WEB_HOST, TICKLOOM_WEB_PORT, TICKLOOM_SINK_WEB_PORT   [127.0.0.1:6066 and 6067]
  SCHEMA_REGISTRY_URL   Avro in Confluent's framing, with this registry

Examples:
  tickloom import 20240105_quote.zip --source fxcm --symbol EURUSD
  tickloom replay --from 2024-01-05 --config tighter.yaml --run tighter
  tickloom candles EURUSD --from 2024-01-05T08:00 --to 2024-01-05T09:00
"""


#: The exceptions that a user can do something about: module, class, and what stands before their text.
KNOWN_ERRORS = (
    ("schemas.instrument", "ConfigError", ""),
    ("deploy.local", "LocalStackError", ""),
    ("topology.admin", "BrokerError", ""),
    ("topology.replay.compare", "NotComparable", ""),
    ("connectors.archive.file", "ArchiveError", ""),
    ("psycopg", "OperationalError", "the database (TICKLOOM_DATABASE): "),
    ("psycopg", "Error", "the database: "),
    ("confluent_kafka", "KafkaException", "Kafka: "),
    ("aiokafka.errors", "KafkaError", "Kafka: "),
    ("builtins", "OSError", ""),
)


#: What the system says of a directory that can't be made, or written.
UNUSABLE = (errno.ENOTDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS)


def _known() -> dict[type[Exception], str]:
    """The classes above of which one can have been raised: their module is imported."""
    return {
        getattr(sys.modules[module], name): before for module, name, before in KNOWN_ERRORS if module in sys.modules
    }


def explain(error: Exception) -> str:
    """Say in one line what went wrong and what to do about it."""
    before = next(text for kind, text in _known().items() if isinstance(error, kind))
    text = str(error)
    if error.args and hasattr(error.args[0], "str"):  # confluent-kafka's error object
        text = error.args[0].str() or error.args[0].name()
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        text += ": make room, or set TICKLOOM_STATE and TICKLOOM_DATA to directories elsewhere"
    if isinstance(error, OSError) and error.errno in UNUSABLE:
        text += ": TICKLOOM_STATE and TICKLOOM_DATA must be directories that can be written"
    return before + (" ".join(text.split()) or type(error).__name__)


class Sections(click.Group):
    """A group whose help lists its commands by section, and whose known errors end in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except tuple(_known()) as error:
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
        """Write the epilog as it stands."""
        formatter.write(EPILOG)


@click.group(
    cls=Sections,
    name="tickloom",
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="tickloom", prog_name="tickloom")
def main() -> None:
    """Start."""


def _settings(*, broker: bool = False, database: bool = False, run: str = "") -> "Settings":
    from topology import config

    settings = config.load({**os.environ, "TICKLOOM_RUN": run} if run else None)
    return config.located(settings, broker=broker, database=database)


@main.command()
@click.option("--seconds", type=click.FloatRange(min=1), help="End by itself after so long, with a summary.")
def demo(seconds: float | None) -> None:
    """All of it at once, with simulated brokers and a live view."""
    from topology.demo.run import run_demo

    sys.exit(run_demo(seconds))


@main.group()
def local() -> None:
    """Kafka and PostgreSQL here"""


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
@click.option(
    "--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="So many of them; one fills a core."
)
def worker(processes: int) -> None:
    """A worker: market.raw in, clean topics out. More share the partitions."""
    settings = _settings(broker=True)
    if processes > 1:
        from topology.processes import run_workers

        sys.exit(run_workers(settings, processes))
    from topology.app import run_worker

    run_worker(settings)


@main.command()
def sink() -> None:
    """The database writer: clean topics in, rows out."""
    settings = _settings(broker=True, database=True)
    from topology.sink import run_sink

    run_sink(settings)


@main.command("import")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--source", "sources", multiple=True, help="The broker; once, or once for each path.")
@click.option("--symbol", "symbols", multiple=True, help="The instrument; once, or once for each path.")
@click.option("--manifest", type=click.Path(path_type=Path, exists=True), help="A file that lists paths.")
@click.option(
    "--format", type=click.Choice(["lean", "histdata", "truefx", "dukascopy", "csv"]), help="[default: found out]"
)
@click.option("--timezone", default="", help="Of the times in the files. [default: the format's]")
@click.option("--decimals", type=click.IntRange(0, 12), help="Of prices in .bi5. [default: the instrument's]")
@click.option("--hour", default="", metavar="2012-12-03T07", help="Of a .bi5 whose path does not say it.")
@click.option("--run", default="", help="Its name. [default: TICKLOOM_RUN, or one made of the paths]")
def import_(
    paths: tuple[Path, ...],
    sources: tuple[str, ...],
    symbols: tuple[str, ...],
    manifest: Path | None,
    run: str,
    **how: Any,
) -> None:
    """Recorded ticks: LEAN, HistData, TrueFX, Dukascopy, CSV."""
    settings = _settings(run=run)
    from topology.importing.job import run_import

    how["format"] = how["format"] or ""
    sys.exit(run_import(settings, paths, sources, symbols, manifest, **how))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Everything as one JSON object.")
def status(as_json: bool) -> None:
    """What flows: lag, sources, rejections, gaps, database."""
    import time

    from schemas.codec import Codec
    from schemas.instrument import ConfigError
    from topology import config
    from topology import status as overview

    settings = config.load()
    for server in ("broker", "database"):  # each may be away: that is an answer
        with contextlib.suppress(ConfigError):
            settings = config.located(settings, broker=server == "broker", database=server == "database")
    found = overview.gather(settings, Codec())
    if as_json:
        click.echo(overview.to_json(found))
    else:
        from topology.status_view import show

        show(found, _console(), time.time_ns())
    if found.kafka_error or found.topic_problems or found.database.error:
        sys.exit(1)


class Moment(click.ParamType):
    """A date or a time as in ISO 8601, UTC unless it says otherwise."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse it."""
        from datetime import UTC, datetime

        try:
            moment = datetime.fromisoformat(str(value))
        except ValueError:
            self.fail(f"{value!r} is no time as in 2024-01-05 or 2024-01-05T08:00", param, ctx)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


class Place(Moment):
    """A time at which Kafka got a record, or an offset in every partition."""

    name = "time|offset"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse it; eight digits are a date."""
        text = str(value)
        return int(text) if text.isdecimal() and len(text) != 8 else super().convert(value, param, ctx)


@main.group(invoke_without_command=True)
@click.option("--from", "since", type=Place(), help="[default: the first record there is]")
@click.option("--to", "until", type=Place(), help="Not included. [default: the last record there is now]")
@click.option("--symbols", default="", metavar="EURUSD,…", help="[default: all]")
@click.option("--config", type=click.Path(path_type=Path, exists=True), help="Another instruments.yaml.")
@click.option("--run", default="", help="Its name. [default: one made of all of this]")
@click.option("--rate", type=click.FloatRange(min=1), help="Records a second at most. [default: no limit]")
@click.option("--nice", type=click.IntRange(0, 19), default=10, show_default=True, help="Stand back for others.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--times", type=click.IntRange(min=1), default=1, show_default=True, help="As many partitions.")
@click.option("--warm-up", type=click.FloatRange(min=0), default=30.0, show_default=True, help="Minutes before --from.")
@click.pass_context
def replay(
    ctx: click.Context,
    /,
    symbols: str,
    run: str,
    rate: float | None,
    nice: int,
    workers: int,
    warm_up: float,
    **how: Any,
) -> None:
    """once more, by other rules"""
    if ctx.invoked_subcommand:
        return
    settings = _settings()
    from topology.replay.job import Asked, run_replay

    names = tuple(name.strip() for name in symbols.split(",") if name.strip())
    asked = Asked(symbols=names, warm_up_s=60 * warm_up, **how)
    sys.exit(run_replay(settings, asked, run, rate=rate or 0.0, workers=workers, nice=nice))


@replay.command("compare")
@click.argument("name")
@click.option("--format", "shape", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--topic", "kinds", multiple=True, type=click.Choice(["tick", "rejected", "best", "candle", "gap"]))
@click.option(
    "--first", type=click.IntRange(min=0), default=5, show_default=True, help="Shown of each symbol and topic."
)
def replay_compare(name: str, shape: str, kinds: tuple[str, ...], first: int) -> None:
    """What differs from live. Exit code 0: nothing, 1: something, 2: error."""
    from topology.replay.commands import compare

    try:
        sys.exit(compare(_settings(broker=True, database=True), name, shape, kinds, first))
    except tuple(_known()) as error:
        click.echo(f"Error: {explain(error)}", err=True)
        sys.exit(2)
    except Exception:  # noqa: BLE001  a defect of ours must not be taken for a difference
        import traceback

        traceback.print_exc()
        sys.exit(2)


@replay.command("promote")
@click.argument("name")
@click.option("--delete-missing", is_flag=True, help="Also delete what only the live system has.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def replay_promote(name: str, delete_missing: bool, yes: bool) -> None:
    """Write its candles, gaps and refusals into the live topics and tables."""
    settings = _settings(broker=True, database=True)
    from topology.replay.commands import promote

    sys.exit(promote(settings, name, delete_missing, lambda text: yes or click.confirm(text)))


@replay.command("drop")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
def replay_drop(name: str, yes: bool) -> None:
    """Remove its topics, groups, files and rows."""
    settings = _settings(broker=True, database=True)
    from topology.replay.drop import drop

    if not yes:
        click.confirm(f"Remove everything of replay {name}?", abort=True)
    for line in drop(settings, name):
        click.echo(line)


@replay.command("list")
def replay_list() -> None:
    """The replays that are there."""
    from topology.replay.commands import show_all

    show_all(_settings(database=True))


main.add_command(dead_letter)


@main.command()
@click.argument("symbol")
@click.option("--from", "start", type=Moment(), help="First minute, UTC. [default: the newest 60 candles]")
@click.option("--to", "end", type=Moment(), help="End, not included. [default: the newest]")
@click.option("--source", default="best", show_default=True, help="A broker, or best: the composite.")
@click.option("--format", "shape", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
def candles(symbol: str, start: "datetime | None", end: "datetime | None", source: str, shape: str) -> None:
    """One-minute candles of a symbol as table, CSV or JSON."""
    settings = _settings(database=True)
    from topology.storage.candles import FORMATS, Query, reading

    if start and end and start >= end:
        raise click.UsageError("--from is not before --to")
    lines = 0
    with reading(settings, Query(symbol, source, start, end)) as rows:
        for line in FORMATS[shape](rows):
            click.echo(line)
            lines += 1
    if lines < 2:  # the header, or an empty array
        click.echo(f"no candles of {symbol} from {source} in this time", err=True)


@main.group()
def topics() -> None:
    """the topics of the run"""


@topics.command("create")
@click.option("--partitions", type=click.IntRange(min=1), help="Of every topic. [default: market.raw's, or 8]")
@click.option("--replication-factor", type=click.IntRange(min=1), help="[default: 3, or one per broker]")
@click.option("--recreate", metavar="TOPIC", multiple=True, help="Delete it with its records, make it anew.")
def topics_create(partitions: int | None, replication_factor: int | None, recreate: tuple[str, ...]) -> None:
    """Make the topics that are missing and set right what can be."""
    from topology import admin

    settings = _settings(broker=True)
    done = admin.create_topics(
        settings.kafka,
        settings.run,
        partitions=partitions,
        replication=replication_factor,
        recreate=recreate,
    )
    for line in done or ["nothing to do: every topic is there and right"]:
        click.echo(line)
    if wrong := admin.check_topics(settings.kafka, settings.run):
        raise click.ClickException("\n       ".join(wrong))


@topics.command("check")
def topics_check() -> None:
    """Compare the topics with what the system relies on. Exit code 1 where one is wrong."""
    from topology import admin

    settings = _settings(broker=True)
    reports = admin.inspect(admin.connect(settings.kafka), settings.run)
    for report in reports:
        for line in report.problems or ["ok"]:
            click.echo(f"{report.topic}: {line}")
    sys.exit(any(report.problems for report in reports))


@topics.command("list")
def topics_list() -> None:
    """The topics with their keys, partitions and records."""
    from rich.table import Table

    from topology import admin

    settings = _settings(broker=True)
    client = admin.connect(settings.kafka)
    names = [plan.name for plan in admin.plans(settings.run)]
    starts = admin.offsets(client, names, admin.EARLIEST)
    ends = admin.offsets(client, names, admin.LATEST)
    table = Table("topic", "key", "cleanup", "partitions", "replicas", "records", "what", box=None, pad_edge=False)
    for plan, report in zip(admin.plans(settings.run), admin.inspect(client, settings.run), strict=True):
        if report.found is None:
            table.add_row(plan.name, plan.key, "", "", "", "missing", plan.doc)
            continue
        records = sum(ends[plan.name].values()) - sum(starts[plan.name].values())
        found = report.found
        cells = (found.config["cleanup.policy"], str(found.partitions), str(found.replication), f"{records:,}")
        table.add_row(plan.name, plan.key, *cells, plan.doc)
    _console().print(table)


def _console() -> "Console":
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=160)


if __name__ == "__main__":
    main()
