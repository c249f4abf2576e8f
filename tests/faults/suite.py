"""Run scenarios one after the other, each in a run of its own, and report."""

import contextlib
import json
import shutil
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from deploy.local import LocalStackError
from schemas.instrument import ConfigError
from tests.faults import feed
from tests.faults.compare import Compared
from tests.faults.scenarios import SCENARIOS, Scenario
from tests.faults.servers import DiskError, Servers
from tests.faults.world import FaultError, Injected, Plan, World
from topology import admin
from topology.storage.database import delete_run


class Result(msgspec.Struct):
    """What came of one scenario."""

    name: str
    number: str
    seconds: float
    faults: list[Injected]
    compared: Compared
    errors: list[str]
    ended: dict[str, int]
    notes: dict[str, Any]
    recovery: dict[str, dict[str, float]]

    @property
    def ok(self) -> bool:
        """Whether everything was as it should be."""
        return not self.errors and not self.compared.number


def run(
    scenarios: Sequence[Scenario], plan: Plan, directory: Path, say: Callable[[str], None], *, keep: bool = False
) -> list[Result]:
    """Play the scenarios; servers are started where they are needed and stopped at the end."""
    directory.mkdir(parents=True, exist_ok=True)
    instruments = directory / "instruments.yaml"
    feed.write_instruments(instruments)
    results = []
    with Servers(directory, say) as servers:
        for scenario in scenarios:
            try:
                found = play(scenario, plan, servers, instruments, directory / scenario.name, say, keep=keep)
            except DiskError as error:
                say(f"not played: {scenario.name}: {error}")
                continue
            except LocalStackError as error:  # the other scenarios are still worth playing
                found = Result(scenario.name, scenario.number, 0.0, [], Compared({}, []), [str(error)], {}, {}, {})
            results.append(found)
            say(summary(found))
    return results


def play(
    scenario: Scenario,
    plan: Plan,
    servers: Servers,
    instruments: Path,
    directory: Path,
    say: Callable[[str], None],
    *,
    keep: bool = False,
) -> Result:
    """Play one scenario and compare what it has left with the undisturbed run."""
    shutil.rmtree(directory, ignore_errors=True)
    began = time.monotonic()
    plan = scenario.plan(plan, directory)
    kafka = servers.cluster() if scenario.cluster else servers.single()
    postgres = servers.postgres(small=scenario.small_disk)
    world = World(scenario.name, kafka, postgres, instruments, directory, plan, say)
    compared = Compared({}, [])
    try:
        with closing(world):
            world.begin(workers=scenario.workers)
            if scenario.fed:
                world.feed(scenario.shifts(world))
            scenario.play(world)
            if scenario.compared:
                world.settle()
                world.stop()
        if scenario.compared:
            compared = world.compare(scenario.comparison)
    except FaultError as error:
        world.errors.append(str(error))
    except Exception:  # noqa: BLE001  the other scenarios are still worth playing
        world.errors.append(traceback.format_exc())
    recovery = recoveries(world.faults)
    late = recovery.get("first_s", {}).get("max", 0.0)
    if scenario.target_s is not None and late > scenario.target_s and not plan.short:
        world.errors.append(f"the first new output came after {late} s; the target is {scenario.target_s} s")
    found = Result(
        scenario.name,
        scenario.number,
        round(time.monotonic() - began, 1),
        world.faults,
        compared,
        world.errors,
        world.ended,
        world.notes,
        recovery,
    )
    if found.ok and not keep:
        clean(world)
    return found


@contextlib.contextmanager
def closing(world: World) -> Iterator[None]:
    """Leave no process behind."""
    try:
        yield
    finally:
        world.close()


def clean(world: World) -> None:
    """Remove the topics and rows of a run that was as it should be; its logs stay."""
    with contextlib.suppress(ConfigError):  # a killed process is a member for a while; the servers go at the end anyway
        admin.delete_run(world.broker, world.run)
    with psycopg.connect(world.database, autocommit=True) as connection:
        delete_run(connection, world.run)


def recoveries(faults: Sequence[Injected]) -> dict[str, dict[str, float]]:
    """p50 and maximum of the times that were measured."""
    found = {}
    for field in ("first_s", "whole_s", "age_s"):
        values = [value for each in faults if (value := getattr(each, field)) is not None]
        if values:
            found[field] = {"p50": round(statistics.median(values), 2), "max": max(values), "number": len(values)}
    return found


def summary(result: Result) -> str:
    """A scenario in a line, and what was wrong below it."""
    first = result.recovery.get("first_s")
    times = f", first new output after p50 {first['p50']} s, at most {first['max']} s" if first else ""
    records = sum(result.compared.records.values())
    head = (
        f"{'ok  ' if result.ok else 'FAIL'} {result.name}: faults {len(result.faults)}, records compared {records:,}, "
        f"differences {result.compared.number}{times} ({result.seconds:.0f} s)"
    )
    wrong = [f"     {each.where}: {each.what}: {each.example}" for each in result.compared.differences]
    return "\n".join([head, *(f"     {error}" for error in result.errors), *wrong])


def report(results: Sequence[Result], plan: Plan, path: Path) -> str:
    """Write the report; give the last line."""
    faults = sum(len(each.faults) for each in results)
    records = sum(sum(each.compared.records.values()) for each in results)
    differences = sum(each.compared.number for each in results)
    content = {
        "seed": plan.seed,
        "delivery": plan.delivery,
        "ticks": plan.ticks,
        "rate": plan.rate,
        "short": plan.short,
        "faults": faults,
        "records_compared": records,
        "differences": differences,
        "recovery": recoveries([fault for each in results for fault in each.faults]),
        "scenarios": [msgspec.to_builtins(each) | {"ok": each.ok} for each in results],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return f"faults {faults}, records compared {records}, differences {differences}"


def chosen(names: Sequence[str], *, short: bool) -> list[Scenario]:
    """The scenarios asked for. Raises KeyError for a name that is none."""
    known = {scenario.name: scenario for scenario in SCENARIOS}
    if names:
        return [known[name] for name in names]
    return [scenario for scenario in SCENARIOS if scenario.short or not short]
