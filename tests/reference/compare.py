"""The product beside the oracle: the same log through both, topic by topic."""

from typing import Any

from schemas import topics
from schemas.instrument import Instrument
from schemas.topics import Topic
from tests.market import Piped
from tests.reference import reference
from topology.driver import TopologyDriver

OUTPUTS = tuple(dict.fromkeys(topics.OUTPUT_OF.values()))
#: One output: the record, and its offset. By topic and symbol.
Outputs = dict[tuple[str, str], list[tuple[Any, int]]]


def symbol_of(record: Any) -> str:
    """The symbol of an output record."""
    return str(record.symbol if hasattr(record, "symbol") else record.tick.symbol)


def product(log: list[Piped], instruments: dict[str, Instrument]) -> TopologyDriver:
    """Pipe a log through the product."""
    driver = TopologyDriver(instruments)
    for piped in log:
        driver.pipe(piped.record, append=piped.append)
    return driver


def outputs_of(driver: TopologyDriver) -> Outputs:
    """What the product gave since it was last read."""
    found: Outputs = {}
    for topic in OUTPUTS:
        for output in driver.read(topic):
            _add(found, topic, output.record, output.offset)
    return found


def oracle(log: list[Piped], instruments: dict[str, Instrument]) -> Outputs:
    """What the oracle gives."""
    entries = [reference.Entry(offset, piped.append, piped.record) for offset, piped in enumerate(log)]
    found: Outputs = {}
    for output in reference.run(entries, instruments):
        _add(found, output.topic, output.record, output.offset)
    return found


def _add(found: Outputs, topic: Topic, record: Any, offset: int) -> None:
    found.setdefault((topic.name, symbol_of(record)), []).append((record, offset))


def disagreement(log: list[Piped], instruments: dict[str, Instrument]) -> str:
    """The first output on which the two differ, as text; empty where they agree."""
    got, want = outputs_of(product(log, instruments)), oracle(log, instruments)
    for key in sorted(got.keys() | want.keys()):
        ours, theirs = got.get(key, []), want.get(key, [])
        for at in range(max(len(ours), len(theirs))):
            mine, other = (outputs[at] if at < len(outputs) else None for outputs in (ours, theirs))
            if mine != other:
                return f"{key} number {at}:\nproduct {mine}\noracle  {other}"
    return ""
