"""The topology as Kafka Streams describes its own: sources, processors, sinks, stores, and how they connect.

Generated from what the code runs by: the topic table, the record types of each topic, what the sink reads. Only the
order of the stages is said twice, here and in ``stages/pipeline.py``; a test compares the two.
"""

from typing import Any, Final, NamedTuple

import msgspec

from schemas import topics
from schemas.record import Best, Candle, Gap, Quote, Rejected, Status, Trade
from schemas.topics import OUTPUT_OF, RAW, TOPICS, Topic
from topology import admin
from topology.storage.tables import LOADS

STORE: Final = "symbols"
WRITER: Final = "upsert"


class Stage(NamedTuple):
    """A processor: its name, what it decides, and the record types it gives out."""

    name: str
    doc: str
    outputs: tuple[type, ...] = ()


#: In the order in which a record passes them.
STAGES: Final = (
    Stage("time", "clamp broken clocks, then let every deadline up to the symbol's time fire"),
    Stage("dedup", "drop what a source sends twice, and snapshots that are old", (Rejected, Gap)),
    Stage("validity", "refuse what cannot be a price; mark and accept what is not one to trade on", (Rejected, Quote)),
    Stage("spike", "hold a price that jumps until something confirms or refutes it", (Rejected, Quote, Trade)),
    Stage("liveness", "tell live from silent sources, find gaps", (Gap, Status)),
    Stage("best price", "choose the best bid and ask over the eligible sources", (Best,)),
    Stage("candle", "build minutes that become final and can be revised", (Candle,)),
)


class Node(msgspec.Struct, frozen=True):
    """A source, processor or sink, with the names of the nodes before and after it."""

    name: str
    kind: str
    doc: str
    topics: list[str] = []
    stores: list[str] = []
    before: list[str] = []
    after: list[str] = []


class SubTopology(msgspec.Struct, frozen=True):
    """What one kind of process runs, one task a partition."""

    name: str
    application: str
    nodes: list[Node]


def describe(run: str) -> list[SubTopology]:
    """The workers' and the sink's part of a run."""
    return [
        SubTopology("worker", admin.app_id(run), _worker(run)),
        SubTopology("sink", admin.sink_id(run), _sink(run)),
    ]


def stores(run: str) -> list[dict[str, str]]:
    """What is remembered, and the changelog it is recovered from."""
    doc = "one composite record a symbol, and one a partition, changed as a whole"
    return [{"name": STORE, "key": "symbol", "changelog": admin.state_topic(run), "doc": doc}]


def used_topics(run: str) -> list[dict[str, str]]:
    """Every topic of a run with its key and cleanup policy."""
    return [
        {"name": topics.named(topic.name, run), "key": topic.key, "cleanup": topic.cleanup, "doc": topic.doc}
        for topic in TOPICS
    ]


def as_json(run: str) -> dict[str, Any]:
    """Everything as plain data."""
    parts = [msgspec.to_builtins(part) for part in describe(run)]
    return {"sub_topologies": parts, "topics": used_topics(run), "stores": stores(run)}


def as_text(run: str) -> str:
    """Everything in the words of ``Topology.describe()``."""
    lines = ["Topologies:"]
    for number, part in enumerate(describe(run)):
        lines.append(f"   Sub-topology: {number} for {part.application} ({part.name})")
        for node in part.nodes:
            lines += _node_lines(node)
        lines.append("")
    return "\n".join(lines)


def _node_lines(node: Node) -> list[str]:
    label = node.kind.capitalize()
    if node.kind == "source":
        about = f"(topics: [{', '.join(node.topics)}])"
    elif node.kind == "processor":
        about = f"(stores: [{', '.join(node.stores)}])"
    else:
        about = f"(topic: {node.topics[0]})" if node.topics else f"({node.doc})"
    lines = [f"    {label}: {node.name} {about}"]
    if node.kind != "sink":
        lines.append(f"      --> {', '.join(node.after) or 'none'}")
    if node.kind != "source":
        lines.append(f"      <-- {', '.join(node.before) or 'none'}")
    return lines


def _worker(run: str) -> list[Node]:
    first = Node("ticks", "source", RAW.doc, [topics.named(RAW.name, run)], after=["decode"])
    chain = ["decode", *(stage.name for stage in STAGES)]
    writers: dict[str, list[str]] = {topics.DEAD_LETTER.name: ["decode"]}
    for stage in STAGES:
        for topic in _topics_of(stage):
            writers.setdefault(topic.name, []).append(stage.name)
    processors = []
    for place, name in enumerate(chain):
        stage = STAGES[place - 1] if place else Stage("decode", "bytes to records; what cannot be is set aside")
        sinks = [sink for sink, before in writers.items() if name in before]
        processors.append(
            Node(
                name=name,
                kind="processor",
                doc=stage.doc,
                stores=[STORE] if place else [],
                before=[chain[place - 1] if place else first.name],
                after=[*chain[place + 1 : place + 2], *sinks],
            )
        )
    return [first, *processors, *(_output(topic, writers, run) for topic in TOPICS if topic.name in writers)]


def _topics_of(stage: Stage) -> list[Topic]:
    return list(dict.fromkeys(OUTPUT_OF[kind] for kind in stage.outputs))


def _output(topic: Topic, writers: dict[str, list[str]], run: str) -> Node:
    return Node(topic.name, "sink", topic.doc, [topics.named(topic.name, run)], before=writers[topic.name])


def _sink(run: str) -> list[Node]:
    tables: dict[str, list[str]] = {}
    for kind, load in LOADS.items():
        tables.setdefault(load.table, []).append(OUTPUT_OF.get(kind, topics.DEAD_LETTER).name)
    read = [topic for topic in TOPICS if any(topic.name in names for names in tables.values())]
    sources = [Node(t.name, "source", t.doc, [topics.named(t.name, run)], after=[WRITER]) for t in read]
    doc = "a batch is one transaction: COPY, upsert, and how far it was read"
    writer = Node(WRITER, "processor", doc, before=[topic.name for topic in read], after=list(tables))
    return [*sources, writer, *(Node(table, "sink", f"table: {table}", before=[WRITER]) for table in tables)]
