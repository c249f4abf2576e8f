"""`python -m bench`: measure everything on a Kafka of its own, write results.json and the tables of README.md."""

import gc
import shutil
import signal
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

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

#: What a smoke run measures less of.
SHORT: Final[dict[str, dict[str, Any]]] = {
    "throughput": {"scale": 0.1},
    "processes": {"scale": 0.3},
    "latency": {"warm": 2.0, "measured": 3.0},
    "state": {"ticks": 30, "kills": 1, "live_s": 3.0},
    "start": {"runs": 1},
    "handover": {"ticks": 20, "kills": 1},
    "scaling": {"points": [(10, 4), (100, 1), (100, 4)], "ticks": 100_000},
    "import": {"scale": 0.1},
}


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
    """Measure tickloom on a real Kafka, beside stock Faust and a bare loop. Takes an hour or more."""
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
    runs = 1 if quick else runs
    less: dict[str, dict[str, Any]] = defaultdict(dict, SHORT if quick else {})

    sections: dict[str, Callable[[], dict[str, Any]]] = {
        "throughput": lambda: throughput.measure(rig, runs=runs, **less["throughput"]),
        "processes": lambda: processes.measure(rig, runs=runs, **less["processes"]),
        "latency": lambda: latency.measure(rig, targets.half_rate(report.load()), **less["latency"]),
        "state": lambda: {"rows": state.measure(rig, **less["state"])},
        "start": lambda: start.measure(rig, **less["start"]),
        "handover": lambda: handover.measure(rig, **less["handover"]),
        "scaling": lambda: growth.measure(rig, **less["scaling"]),
        "import": lambda: importing.measure(rig, runs=runs, **less["import"]),
        "peers": lambda: peers_measure.measure(rig, peers, runs=runs, quick=quick),
    }
    try:
        for name, measure in sections.items():
            if name in only:
                rig.say(name)
                results[name] = measure() | {"on": on}
                if not quick:  # at once: what comes after it may fail
                    report.save(report.load() | {name: results[name]})
    finally:
        rig.close()
    return results


if __name__ == "__main__":
    main()
