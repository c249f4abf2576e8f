"""The commands `tickloom local …`: Kafka and PostgreSQL on this machine. Only click is imported at the top."""

import sys

import click


@click.group(short_help="Kafka and PostgreSQL here")
def local() -> None:
    """Kafka and PostgreSQL on this machine, for every command that is told of no others. Needs nothing but Python."""


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
        owner = "yours, not looked after here" if named else f"process {pid}"
        click.echo(f"{what:<11} {place + '  (' + owner + ')' if place else 'not running: `make up`'}")
    if not (found or settings.broker or settings.database):
        sys.exit(1)


@local.command("clean")
@click.option("--yes", is_flag=True, help="Do not ask.")
def local_clean(yes: bool) -> None:
    """Stop both servers and remove their data: topics, tables, offsets."""
    from deploy import local as stack
    from topology import config

    settings = config.load()
    if not yes:
        click.confirm(f"Remove the data of Kafka and PostgreSQL in {settings.state}?", abort=True)
    stack.clean(settings.state)
    click.echo(f"removed the data of Kafka and PostgreSQL in {settings.state}")
