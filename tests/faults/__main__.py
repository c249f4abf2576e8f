"""`make faults`, or `python -m tests.faults [--short] [--seed N] [--only NAME …] [--controls]`."""

import argparse
import random
import signal
import sys
from pathlib import Path

from tests.faults import controls, suite
from tests.faults.scenarios import SCENARIOS
from tests.faults.world import Plan

FULL, SHORT = (500_000, 5_000.0), (60_000, 3_000.0)  # ticks, ticks/s


def main() -> int:
    """Play what is asked for; 0 where nothing differed."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--short", action="store_true", help="less of everything, and not every scenario")
    parser.add_argument("--seed", type=int, help="of input and schedule [default: drawn, and printed]")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these scenarios")
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    parser.add_argument("--directory", type=Path, default=Path(".local/faults"), help="servers and logs [%(default)s]")
    parser.add_argument("--delivery", choices=["exactly_once", "at_least_once"], default="exactly_once")
    parser.add_argument("--ticks", type=int, help="to feed, at least, in each scenario")
    parser.add_argument("--rate", type=float, help="ticks/s")
    parser.add_argument(
        "--controls", nargs="*", metavar="TEXT", help="break copies on purpose (those named so): is it seen?"
    )
    parser.add_argument("--keep", action="store_true", help="keep topics and rows also where nothing differs")
    asked = parser.parse_args()
    if asked.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:<12} {scenario.number:<4} {(scenario.play.__doc__ or '').splitlines()[0]}")
        return 0
    seed = asked.seed if asked.seed is not None else random.SystemRandom().randrange(1 << 31)
    directory = asked.directory.resolve()
    signal.signal(signal.SIGTERM, interrupt)
    if asked.controls is not None:
        say(f"seed {seed}")
        found = controls.run(controls.chosen(asked.controls), seed, directory, say)
        print(controls.report(found, directory / "controls.json"))
        return 0 if all(each.is_right for each in found) else 1
    ticks, rate = SHORT if asked.short else FULL
    plan = Plan(seed, asked.ticks or ticks, asked.rate or rate, asked.delivery, asked.short)
    scenarios = suite.chosen(asked.only, short=asked.short)
    say(f"seed {seed}: {len(scenarios)} scenarios, {plan.ticks:,} ticks each at {plan.rate:,.0f}/s; all in {directory}")
    results = suite.run(scenarios, plan, directory, say, keep=asked.keep)
    print(suite.report(results, plan, directory / "faults.json"))
    return 0 if all(each.ok for each in results) else 1


def interrupt(*_: object) -> None:
    """SIGTERM ends it as Ctrl-C does: what was started is stopped."""
    raise KeyboardInterrupt


def say(line: str) -> None:
    """To standard error, at once."""
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
