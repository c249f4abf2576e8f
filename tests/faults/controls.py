"""The negative controls: is the suite able to see what it looks for?

Every breakage (breakages.py) is applied to a copy of the tree in plain Python and played; a scenario that then still
finds nothing is a failure of the suite. The copies without a breakage are played too: there it must find nothing.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tests.faults import feed, suite
from tests.faults.breakages import BREAKAGES, Breakage
from tests.faults.copies import copy_tree
from tests.faults.scenarios import SCENARIOS
from tests.faults.servers import Servers
from tests.faults.world import Plan

RATE, TICKS = 800.0, 12_000  # plain Python carries it on a busy machine


class Caught(msgspec.Struct, frozen=True):
    """What a scenario said of a copy."""

    name: str
    scenario: str
    delivery: str
    broken: bool
    failed: bool
    differences: int
    errors: list[str]

    @property
    def is_right(self) -> bool:
        """It failed, and only if it was broken; what could not be compared says nothing."""
        return self.failed == self.broken and (self.differences > 0) == self.broken


def chosen(names: Sequence[str]) -> list[Breakage]:
    """The breakages whose name has one of the texts in it, or all; before them the whole copy in the same settings."""
    found = [each for each in BREAKAGES if not names or any(name in each.name for name in names)]
    settings = {(each.scenario, each.delivery, json.dumps(each.environment)): each for each in found}
    whole = [
        Breakage("nothing", "the copy itself", (), each.scenario, each.delivery, each.environment)
        for each in settings.values()
    ]
    return whole + found


def run(breakages: Sequence[Breakage], seed: int, directory: Path, say: Callable[[str], None]) -> list[Caught]:
    """Play them all."""
    directory.mkdir(parents=True, exist_ok=True)
    instruments = directory / "instruments.yaml"
    feed.write_instruments(instruments)
    scenarios = {scenario.name: scenario for scenario in SCENARIOS}
    found = []
    with Servers(directory, say) as servers:
        for number, breakage in enumerate(breakages):
            folder = directory / f"{number}-{breakage.scenario}"
            tree = directory / "trees" / str(number)
            copy_tree(tree)
            breakage.apply(tree)
            plan = Plan(seed, TICKS, RATE, breakage.delivery, True, tree=tree, environment=breakage.environment)
            say(f"{breakage.name} ({breakage.scenario}, {breakage.delivery}): {breakage.why}")
            result = suite.play(scenarios[breakage.scenario], plan, servers, instruments, folder, say)
            caught = Caught(
                breakage.name,
                breakage.scenario,
                breakage.delivery,
                bool(breakage.edits),
                not result.ok,
                result.compared.number,
                result.errors,
            )
            verdict = "right" if caught.is_right else "WRONG"
            found.append(caught)
            say(f"{verdict}: {breakage.name}: {result.compared.number} differences\n{suite.summary(result)}")
    return found


def report(found: Sequence[Caught], path: Path) -> str:
    """Write the report; give the last line."""
    path.write_text(json.dumps([msgspec.to_builtins(each) | {"right": each.is_right} for each in found], indent=1))
    broken = [each for each in found if each.broken]
    caught = sum(each.is_right for each in broken)
    whole = [each for each in found if not each.broken]
    quiet = sum(each.is_right for each in whole)
    return f"breakages caught {caught} of {len(broken)}, whole copies without a difference {quiet} of {len(whole)}"
