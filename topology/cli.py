"""The command `tickloom`: what a person types, and the one place where errors become one line each.

Rule: only click is imported at the top, as `--help` and a typing mistake must answer at once; each command
imports what it runs. No market logic and no I/O of its own here.
"""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deploy.cli import local
from topology.dead_letters.cli import dead_letter
from topology.explain import explain, known_errors
from topology.replay.cli import replay
from topology.typed import Moment, settings_for

if TYPE_CHECKING:
    from datetime import datetime

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
  TICKLOOM_COMMIT_SECONDS  of worker or sink  [0.02 or at least once 1; sink 0.1]
  TICKLOOM_STANDBY      how many others hold a worker's state ready  [default: 0]
  TICKLOOM_SESSION_SECONDS  a worker so long silent is dead        [default: 6]
  TICKLOOM_WEB_HOST, TICKLOOM_WEB_PORT, TICKLOOM_SINK_WEB_PORT   [127.0.0.1:6066 and 6067]
  SCHEMA_REGISTRY_URL   Avro in Confluent's framing, with this registry

Examples:
  tickloom import 20240105_quote.zip --source fxcm --symbol EURUSD
  tickloom replay --from 2024-01-05 --config tighter.yaml --run tighter
  tickloom candles EURUSD --from 2024-01-05T08:00 --to 2024-01-05T09:00
"""


class Sections(click.Group):
    """A group whose help lists its commands by section, and whose known errors end in one line."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except tuple(known_errors()) as error:
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


@main.command()
@click.option("--seconds", type=float, help="End by itself after so long (25 or more), with a summary.")
def demo(seconds: float | None) -> None:
    """All of it at once, with simulated brokers and a live view."""
    from topology.demo.run import run_demo

    sys.exit(run_demo(seconds))


@main.command()
@click.option(
    "--processes", type=click.IntRange(1, 64), default=1, show_default=True, help="So many of them; one fills a core."
)
def worker(processes: int) -> None:
    """A worker: market.raw in, clean topics out. More share the partitions."""
    settings = settings_for(broker=True)
    if processes > 1:
        from topology.processes import run_workers

        sys.exit(run_workers(settings, processes))
    from topology.app import run_worker

    run_worker(settings)


@main.command()
def sink() -> None:
    """The database writer: clean topics in, rows out."""
    settings = settings_for(broker=True, database=True)
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
@click.option("--decimals", type=click.IntRange(0, 12), help="Of prices in .bi5. [default: Dukascopy's own]")
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
    settings = settings_for(run=run)
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
    from schemas.registry import codec_for
    from topology import config
    from topology import status as overview

    settings = config.load()
    for server in ("broker", "database"):  # each may be away: that is an answer
        with contextlib.suppress(ConfigError):
            settings = config.located(settings, broker=server == "broker", database=server == "database")
    try:
        codec = codec_for(settings.schema_registry_url)
    except ConfigError as error:  # that is an answer, too; what it alone could explain is counted as unreadable
        click.echo(f"! {error}", err=True)
        codec = Codec()
    found = overview.gather(settings, codec)
    if as_json:
        click.echo(overview.to_json(found))
    else:
        from topology.running import plain_console
        from topology.status_view import show

        show(found, plain_console(), time.time_ns())
    if found.kafka_error or found.topic_problems or found.database.error:
        sys.exit(1)


for group in (local, replay, dead_letter):
    main.add_command(group)


@main.command()
@click.argument("symbol")
@click.option("--from", "start", type=Moment(), help="First minute, UTC. [default: the newest 60 candles]")
@click.option("--to", "end", type=Moment(), help="End, not included. [default: the newest]")
@click.option("--source", default="best", show_default=True, help="A broker, or best: the composite.")
@click.option(
    "--format",
    "shape",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
    help="How to print them.",
)
def candles(symbol: str, start: "datetime | None", end: "datetime | None", source: str, shape: str) -> None:
    """One-minute candles of a symbol as table, CSV or JSON."""
    settings = settings_for(database=True)
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


@main.group(short_help="the topics of the run")
def topics() -> None:
    """The topics of the run: the live system's, or those of TICKLOOM_RUN."""


@topics.command("create")
@click.option("--partitions", type=click.IntRange(min=1), help="Of every topic. [default: market.raw's, or 8]")
@click.option("--replication-factor", type=click.IntRange(min=1), help="[default: 3, or one per broker]")
@click.option("--recreate", metavar="TOPIC", multiple=True, help="Delete it with its records, make it anew.")
def topics_create(partitions: int | None, replication_factor: int | None, recreate: tuple[str, ...]) -> None:
    """Make the topics that are missing and set right what can be."""
    from topology import admin

    settings = settings_for(broker=True)
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

    settings = settings_for(broker=True)
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
    from topology.running import plain_console

    settings = settings_for(broker=True)
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
    plain_console().print(table)


if __name__ == "__main__":
    main()
