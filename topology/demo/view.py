"""The demo on the terminal: one picture of everything while it runs, and the comparison at its end.

Pure: `picture` and `summary` make rich renderables from what was sent and read; `line` says it in plain text.
"""

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from connectors.simulated import BROKERS, MARKETS, Market
from schemas import instrument
from schemas.record import Best
from topology.demo.expected import Expected
from topology.demo.report import Row, progress
from topology.demo.seen import LATENCY_S, Happening, Latency, Seen

SECOND = 1_000_000_000
WIDE = 112  # columns from which status is said in words, and faults and news are beside each other
WIDER = 124  # and from which each symbol has its refused ticks and open gaps
AROUND = 17  # lines of the picture besides faults and news
DIFFERENCES_SHOWN = 5

STATES = {"normal": "green", "locked": "yellow", "single_source": "yellow", "low_confidence": "yellow"}
STANDINGS = {  # the colour of a source's status, its word, and its sign where there is no room for words
    "live": ("green", "live", "●"),
    "quiet": ("yellow", "quiet", "◐"),
    "stale": ("bold red", "stale", "○"),
    "disconnected": ("bold red", "down", "✕"),
    "closed": ("dim", "closed", "-"),
}


class Frame(msgspec.Struct):
    """What the picture is made from."""

    seconds: float | None
    elapsed_s: float
    now_ns: int
    expected: Expected
    seen: Seen
    rows: Mapping[str, int] = {}  # of the run in the database, by table
    notes: list[str] = []  # one line each
    web: str = ""
    width: int = 100
    height: int = 40


def picture(frame: Frame) -> RenderableType:
    """Everything at once, as wide and as high as the terminal allows."""
    room = max(3, frame.height - AROUND - len(frame.notes))
    rows = [row for row in progress(frame.expected, frame.seen)[1:] if row.expected or row.reported]
    if frame.width >= WIDE:
        grid = Table.grid(padding=(0, 4, 0, 0))
        grid.add_row(_faults(rows[: room - 1]), _news(frame.seen, room))
        middle: RenderableType = grid
    else:
        left = room - len(rows) - 2  # below the faults, where there is room for a line of news
        news: list[RenderableType] = [Text(), _news(frame.seen, left)] if left > 1 else []
        middle = Group(_faults(rows[: room - 1]), *news)
    return Group(_header(frame), Text(), _prices(frame), Text(), middle, Text(), _footer(frame))


def line(frame: Frame) -> str:
    """The same in one line, where there is no terminal."""
    seen = frame.seen
    reasons = {reason for reason, _, _ in seen.refused}
    refused = ", ".join(f"{reason} {seen.total_refused(reason):,}" for reason in sorted(reasons))
    return (
        f"{_clock(frame.elapsed_s)}  {frame.expected.total():,} ticks sent, {seen.accepted.total():,} accepted, "
        f"{seen.total_refused():,} refused ({refused or 'none'}), open gaps {len(seen.open_gaps())}, "
        f"latency {_latency(seen.recent_latency(frame.now_ns))}, database {frame.rows.get('ticks', 0):,} ticks"
    )


def summary(rows: list[Row], seen: Seen, elapsed_s: float) -> RenderableType:
    """The comparison, and what was measured on the way."""
    table = Table(box=box.SIMPLE_HEAD, title="What was injected, and what the pipeline made of it")
    for heading, justify in (("The brokers sent", "left"), ("must be", "left"), ("injected", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    table.add_column("reported", justify="right")
    table.add_column("")
    for row in rows:
        mark = Text("✓", "green") if row.ok else Text("✗ differs", "bold red")
        table.add_row(row.injected, row.outcome, f"{row.expected:,}", f"{row.reported:,}", mark)
    parts: list[RenderableType] = [table]
    for row in rows:
        parts += [Text(f"  {row.injected}: {each}", "red") for each in row.differences[:DIFFERENCES_SHOWN]]
        if len(row.differences) > DIFFERENCES_SHOWN:
            parts.append(Text(f"  … and {len(row.differences) - DIFFERENCES_SHOWN} more", "red"))
    rate = seen.accepted.total() / elapsed_s if elapsed_s else 0
    parts.append(
        Text.assemble(
            ("  Latency ", "dim"),
            f"from a tick's arrival to its best price read back: {_latency(seen.settled)}; ",
            f"with the first {LATENCY_S} s, when all topics were new, {_latency(seen.latency)}\n  ",
            f"{seen.best_count:,} best prices from {seen.accepted.total():,} ticks at {rate:.0f}/s",
        )
    )
    wrong = sum(not row.ok for row in rows)
    agree = f"  all {len(rows)} lines agree, for every source of every symbol"
    differ = f"  {wrong} of {len(rows)} lines differ"
    parts.append(Text(differ, "bold red") if wrong else Text(agree, "bold green"))
    return Group(*parts)


def _header(frame: Frame) -> RenderableType:
    of = f" of {_clock(frame.seconds)}" if frame.seconds else ""
    grid = Table.grid(expand=True)
    grid.add_column()
    grid.add_column(justify="right")
    grid.add_row(
        Text.assemble(
            ("tickloom", "bold"),
            f"  {len(BROKERS)} simulated brokers, {len(MARKETS)} instruments",
        ),
        Text(f"{_clock(frame.elapsed_s)}{of}"),
    )
    notes = [Text(note, "yellow", no_wrap=True) for note in frame.notes]
    return Group(grid, *notes)


def _prices(frame: Frame) -> Table:
    padding = (0, 1, 0, 0) if frame.width >= 90 else (0, 0)
    table = Table(box=box.SIMPLE_HEAD, padding=padding, pad_edge=False, show_edge=False)
    table.add_column("symbol")
    for heading in ("best bid", "best ask"):
        table.add_column(heading, justify="right", min_width=9, no_wrap=True)
        table.add_column("of", style="dim", min_width=5, no_wrap=True)
    table.add_column("spread", justify="right", min_width=7, no_wrap=True)
    table.add_column("state", min_width=14, no_wrap=True)
    table.add_column("ticks/s", justify="right", no_wrap=True)
    if frame.width >= WIDER:
        table.add_column("refused", justify="right", no_wrap=True)
        table.add_column("gaps", justify="right", no_wrap=True)
    if frame.width >= WIDE:
        for broker in BROKERS:
            table.add_column(broker.name, justify="center", min_width=6, no_wrap=True)
    else:
        table.add_column(" ".join(broker.name[0] for broker in BROKERS), no_wrap=True)
    for market in MARKETS:
        table.add_row(*_price_row(frame, market))
    return table


def _price_row(frame: Frame, market: Market) -> list[RenderableType]:
    best = frame.seen.best.get(market.symbol)
    flow = [f"{frame.seen.rate(market.symbol, frame.now_ns):.0f}"]
    if frame.width >= WIDER:
        refused = sum(n for (_, symbol, _), n in frame.seen.refused.items() if symbol == market.symbol)
        flow += [f"{refused:,}", str(sum(gap.symbol == market.symbol for gap in frame.seen.open_gaps()))]
    standings = _standings(frame, market.symbol)
    name = Text(market.symbol, "bold")
    if best is None or best.state == "no_source":
        return [name, "", "", "", "", "", Text("no_source", "bold red"), *flow, *standings]
    return [
        name,
        instrument.text(best.bid, market.price_scale),
        best.bid_source,
        instrument.text(best.ask, market.price_scale),
        best.ask_source,
        _spread(best),
        Text(best.state, STATES.get(best.state, "bold red")),
        *flow,
        *standings,
    ]


def _spread(best: Best) -> str:
    return f"{int(best.ask - best.bid) / best.bid * 10_000:.2f} bp"


def _standings(frame: Frame, symbol: str) -> list[Text]:
    """How each broker stands: a column of its own each, or all in one where there is no room."""
    wide = frame.width >= WIDE
    texts = []
    for broker in BROKERS:
        status = frame.seen.status.get((symbol, broker.name))
        colour, word, sign = STANDINGS[status.status] if status else ("dim", "", "·")
        texts.append(Text(word if wide else sign, colour))
    return texts if wide else [Text(" ").join(texts)]


def _faults(rows: list[Row]) -> Table:
    """What the feed did wrong so far, and what has come of it so far; the last may still be under way."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for heading, justify in (("the brokers sent", "left"), ("", "right"), ("it was", "left"), ("", "right")):
        table.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(row.injected, f"{row.expected:,}", row.outcome, f"{row.reported:,}")
    return table


def _news(seen: Seen, room: int) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("just now", no_wrap=True, min_width=8)
    table.add_column("", no_wrap=True)
    for happening in list(seen.happenings)[:-room:-1]:
        at = datetime.fromtimestamp(happening.at_ns / SECOND, UTC).astimezone()
        table.add_row(Text(f"{at:%H:%M:%S}", "dim"), f"{_symbols(happening)} {happening.what}")
    return table


def _symbols(happening: Happening) -> str:
    first, *others = happening.symbols
    return f"{first} and {len(others)} more:" if others else f"{first}:"


def _footer(frame: Frame) -> RenderableType:
    seen, rows = frame.seen, frame.rows
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim")
    grid.add_column(no_wrap=True)
    grid.add_row(
        "pipeline",
        f"{frame.expected.total():,} ticks in, {seen.accepted.total():,} accepted, "
        f"{seen.total_refused():,} refused, open gaps {len(seen.open_gaps())}",
    )
    grid.add_row("latency", f"tick to best price {_latency(seen.recent_latency(frame.now_ns))}, last {LATENCY_S} s")
    stored = ", ".join(f"{name} {count:,}" for name, count in rows.items())
    grid.add_row("database", f"rows: {stored}" if stored else "")
    grid.add_row("web views", f"{frame.web} /symbols /sources /gaps /topology /metrics")
    grid.add_row("", Text("Ctrl-C ends it, with a summary", "dim"))
    return grid


def _latency(latency: Latency) -> str:
    median, tail = latency.percentile(0.5), latency.percentile(0.99)
    return "not measured" if median is None else f"p50 {median:.1f} ms, p99 {tail:.1f} ms"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:02}:{int(seconds) % 60:02}"
