"""`python -m bench`: measure everything on a Kafka of its own, write results.json and the tables of README.md."""

import gc
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from confluent_kafka import KafkaException
from rich.console import Console

from bench import growth, handover, importing, latency, machine, processes, report, start, state, targets, throughput
from bench.peers import measure as peers_measure
from bench.process import BenchError
from bench.rig import Rig
from connectors.runtime.producer import ProducerError
from deploy.local import LocalStackError
from topology.admin import BrokerError


@click.command()
@click.option(
    "--only", multiple=True, type=click.Choice(report.SECTIONS), help="Only this; may be given more than once."
)
@click.option(
    "--quick", is_flag=True, help="A smoke run of a minute or two: small input, one run each, nothing written."
)
@click.option("--runs", type=click.IntRange(min=1), default=throughput.RUNS, show_default=True, help="Of each engine.")
@click.option(
    "--directory", type=click.Path(path_type=Path), help="For Kafka's data and the logs. [default: a new one]"
)
@click.option(
    "--peers",
    type=click.Path(path_type=Path),
    default=peers_measure.PEERS,
    help="The folder of Kafka Streams and other peers. [default: ../shared/peers beside the checkout]",
)
def main(only: tuple[str, ...], quick: bool, runs: int, directory: Path | None, peers: Path) -> None:
    """Measure tickloom on a real Kafka, beside stock Faust and a bare loop. Takes about half an hour."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    console = Console(width=None if sys.stdout.isatty() else 160)
    if not Path("/proc/self/status").exists():
        raise click.ClickException("the bench reads CPU time and memory from /proc, so it needs Linux")
    wanted = set(only or report.SECTIONS)
    if "peers" in wanted and (absent := peers_measure.missing(peers)):
        console.print(absent, highlight=False)
        wanted.discard("peers")
        if not wanted:
            return
    scratch = Path(tempfile.mkdtemp(prefix="tickloom-bench-"))
    kept = ""
    try:
        results = _measure(directory or scratch, console, wanted, peers, quick=quick, runs=runs)
    except (BenchError, BrokerError, LocalStackError, ProducerError, KafkaException) as error:
        kept = ".log"  # what the error says to look at
        raise click.ClickException(str(error)) from error
    finally:
        _clear(scratch, kept)
    console.print()
    console.print(report.markdown(results), markup=False, highlight=False)
    if not quick:
        report.save(report.load() | results)
    for line in targets.wrong(results):
        click.echo(f"wrong: {line}", err=True)
    sys.exit(bool(targets.wrong(results)))


def _clear(scratch: Path, kept: str) -> None:
    """Remove a directory; with ``kept`` all in it but the files that end so."""
    if not kept:
        shutil.rmtree(scratch)
        return
    for path in scratch.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.suffix != kept:
            path.unlink()


def _measure(
    directory: Path, console: Console, only: set[str], peers: Path, *, quick: bool, runs: int
) -> dict[str, Any]:
    gc.freeze()
    on = machine.facts()
    rig = Rig(directory, console)
    results: dict[str, Any] = {}
    try:
        if "throughput" in only:
            rig.say("throughput")
            results["throughput"] = throughput.measure(rig, scale=0.1 if quick else 1.0, runs=1 if quick else runs)
        if "processes" in only:
            rig.say("processes")
            results["processes"] = processes.measure(rig, scale=0.3 if quick else 1.0, runs=1 if quick else runs)
        if "latency" in only:
            rig.say("latency")
            half = targets.half_rate(report.load() | ({} if quick else results))
            results["latency"] = latency.measure(rig, half, **({"warm": 2.0, "measured": 3.0} if quick else {}))
        if "state" in only:
            rig.say("memory and recovery")
            results["state"] = {
                "rows": state.measure(rig, **({"ticks": 30, "kills": 1, "live_s": 3.0} if quick else {}))
            }
        if "start" in only:
            rig.say("start")
            results["start"] = start.measure(rig, runs=1 if quick else start.RUNS)
        if "handover" in only:
            rig.say("hand-over to a standby")
            results["handover"] = handover.measure(rig, **({"ticks": 20, "kills": 1} if quick else {}))
        if "scaling" in only:
            rig.say("scaling")
            smaller: dict[str, Any] = {"points": [(10, 4), (100, 1), (100, 4)], "ticks": 100_000}
            results["scaling"] = growth.measure(rig, **(smaller if quick else {}))
        if "import" in only:
            rig.say("import")
            results["import"] = importing.measure(rig, scale=0.1 if quick else 1.0, runs=1 if quick else runs)
        if "peers" in only:
            rig.say("peers")
            results["peers"] = peers_measure.measure(rig, peers, runs=1 if quick else runs, quick=quick)
    finally:
        rig.close()
    for section in results.values():
        section["on"] = on
    return results


if __name__ == "__main__":
    main()
