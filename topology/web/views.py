"""The web views of a worker: what its symbols, sources and gaps look like now, as JSON and as a page.

Every worker answers for all of them (``routing.py``). Read only, on loopback unless TICKLOOM_WEB_HOST says otherwise:
there is no login. They run in the worker's own event loop, so a long list gives way to ticks now and then.
"""

import asyncio
import difflib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import faust
import msgspec
from faust.types import TP
from faust.web import Request, Response, View
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from schemas import topics
from schemas.flags import DEAD_LETTER_REASONS, REASONS
from schemas.instrument import Instrument
from topology.agents import Tasks
from topology.config import Settings
from topology.stages.partition import Partition
from topology.stages.pipeline import Symbol
from topology.task import Task
from topology.web import describe, metrics, state_view
from topology.web.metrics import WorkerCollector
from topology.web.routing import PASSED_ON, Router, Unavailable

RETRY_S: Final = 2
READABLE: Final = 100_000  # bytes of JSON that somebody may read; more is written without spaces
SLICE: Final = 50  # symbols looked at before ticks get their turn
PAGE: Final = Path(__file__).with_name("page.html")
#: The page needs nothing but itself and this worker.
POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
)


class Reply(msgspec.Struct, frozen=True):
    """What a view answers."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = {}


Row = dict[str, Any]
Rows = Callable[[Symbol, Partition], list[Row]]
Answer = Callable[..., Awaitable[Reply]]


def install(app: faust.App, tasks: Tasks[Task], settings: Settings, instruments: dict[str, Instrument]) -> None:
    """Add the views to an application that is not started yet, in place of Faust's own."""
    leave_out_fausts(app)
    views = Views(app, tasks, settings.run, instruments)
    pages: dict[str, Answer] = {
        "/": views.page,  # before Faust's own
        "/symbols": views.symbols,
        "/symbols/{symbol}": views.symbol,
        "/sources": views.sources,
        "/gaps": views.gaps,
        "/topology": views.topology,
        "/metrics": views.metrics,
        "/healthz": views.healthz,
        "/readyz": views.readyz,
    }
    for path, answer in pages.items():
        name = answer.__name__
        app.page(path, name=name)(handler(name, answer))


def leave_out_fausts(app: faust.App) -> None:
    """Turn off the views that Faust brings along."""
    for own in ("web_tables_enabled", "web_router_enabled", "web_stats_enabled", "web_graph_enabled"):
        setattr(app.conf, own, False)


class Views:
    """The answers. Each gives a Reply, or raises Unavailable."""

    def __init__(self, app: faust.App, tasks: Tasks[Task], run: str, instruments: dict[str, Instrument]) -> None:
        self._app = app
        self._tasks = tasks
        self._run = run
        self._raw = topics.named(topics.RAW.name, run)
        self._instruments = instruments
        self._router = Router(app, tasks, self._raw, instruments)
        self._registry = metrics.registry(WorkerCollector(tasks.lanes, self._unready, self._end, self._missed))

    async def page(self, _request: Request) -> Reply:
        """The page that shows all of it."""
        headers = {"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": POLICY}
        return Reply(PAGE.read_bytes(), headers=headers)

    async def symbols(self, request: Request) -> Reply:
        """Every symbol in a row."""
        rows, about = await self._all(
            request, "symbols", lambda symbol, partition: [state_view.summary(symbol, partition)]
        )
        return json_reply({**about, "symbols": sorted(rows, key=lambda row: str(row["symbol"]))})

    async def symbol(self, request: Request, symbol: str) -> Reply:
        """Everything about one symbol, from the worker that has it."""
        if symbol not in self._instruments:
            close = difflib.get_close_matches(symbol.upper(), self._instruments, n=1)
            meant = f"did you mean {close[0]}?" if close else "/symbols lists those that have data"
            return error_reply(404, f"{symbol} is not in instruments.yaml; {meant}")
        number, address = self._router.owner(symbol)
        if address and PASSED_ON in request.headers:
            raise Unavailable(f"partition {number} has just moved to worker {address}")
        if address:
            answer = await self._router.ask(address, f"/symbols/{quote(symbol, safe='')}")
            return Reply(answer.body, answer.status)
        partition = self._router.partition(number)
        found = partition.symbols.get(symbol)
        if found is None:
            return error_reply(404, f"no record of {symbol} has come yet (it belongs to partition {number})")
        return json_reply({"run": self._run, "worker": self._router.address, **state_view.details(found, partition)})

    async def sources(self, request: Request) -> Reply:
        """The scoreboard: sums by source, and every source of every symbol unless ?totals=only."""
        sums, about = await self._all(request, "totals", state_view.shares, "/sources?totals=only")
        answer = {**about, "reasons": REASONS, "totals": state_view.totals(sums)}
        if request.query.get("totals") != "only":
            rows, about = await self._all(request, "sources", state_view.scores)
            rows.sort(key=lambda row: (str(row["source"]), str(row["symbol"])))
            answer |= {**about, "sources": rows}
        return json_reply(answer)

    async def gaps(self, request: Request) -> Reply:
        """The gaps that are open, oldest first."""
        rows, about = await self._all(request, "gaps", state_view.open_gaps)
        return json_reply({**about, "gaps": sorted(rows, key=lambda row: int(row["start_ns"]))})

    async def topology(self, request: Request) -> Reply:
        """Nodes, topics and stores: JSON, or with ?format=text in the words of Kafka Streams."""
        if request.query.get("format") == "text":
            return Reply(describe.as_text(self._run).encode(), headers={"Content-Type": "text/plain; charset=utf-8"})
        workers: dict[str, list[int]] = {}
        for number, address in sorted(self._router.addresses().items()):
            workers.setdefault(address, []).append(number)
        live = {"run": self._run, "worker": self._router.address, "partitions": workers}
        return json_reply({**live, **describe.as_json(self._run), "dead_letter_reasons": DEAD_LETTER_REASONS})

    async def metrics(self, _request: Request) -> Reply:
        """This worker's metrics, in the format of Prometheus."""
        return Reply(generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(self, _request: Request) -> Reply:
        """200 while the event loop turns (else there is no answer at all) and every partition's outputs are sent."""
        dead = [number for number, lane in sorted(self._tasks.lanes.items()) if lane.delivery.is_dead]
        if dead:
            return error_reply(
                503, f"the delivery of partitions {', '.join(map(str, dead))} has stopped: restart the worker"
            )
        return json_reply({"status": "ok"})

    async def readyz(self, _request: Request) -> Reply:
        """200 once the worker has partitions and their state."""
        if reason := self._unready():
            return error_reply(503, reason, retry=True)
        standby = {str(number): behind for number, behind in self._router.standbys().items()}
        return json_reply({"status": "ready", "partitions": self._router.numbers(), "standby": standby})

    async def _all(self, request: Request, name: str, rows_of: Rows, path: str = "") -> tuple[list[Row], Row]:
        """Rows of every symbol of every worker, and what to know about them. The others give theirs at a path."""
        rows: list[Row] = []
        seen = 0
        for number in self._router.numbers():
            partition = self._router.partition(number)
            for symbol in list(partition.symbols.values()):
                rows += rows_of(symbol, partition)
                seen += 1
                if seen % SLICE == 0:
                    await asyncio.sleep(0)
        missing: list[str] = []
        if PASSED_ON not in request.headers:
            answers, missing = await self._router.ask_others(path or f"/{name}")
            for answer in answers:
                rows += answer[name]
        return rows, {"run": self._run, "worker": self._router.address, "incomplete": missing}

    def _unready(self) -> str:
        if reason := self._router.unsettled():
            return reason
        if not self._router.numbers():
            return "no partition is assigned to this worker: the others have all of them"
        return ""

    def _end(self, number: int) -> int | None:
        end: int | None = self._app.monitor.tp_end_offsets.get(TP(self._raw, number))
        return end

    def _missed(self, number: int) -> int:
        consumer: Any = self._app.consumer
        return int(consumer.missed[TP(self._raw, number)])


def handler(name: str, answer: Answer) -> Callable[..., Awaitable[Response]]:
    """A Faust view of an answer."""

    async def get(view: View, request: Request, **match: str) -> Response:
        try:
            reply = await answer(request, **match)
        except Unavailable as error:
            reply = error_reply(503, str(error), retry=True)
        headers = {"Content-Type": "application/json", "Cache-Control": "no-store", **reply.headers}
        return view.bytes(reply.body, status=reply.status, headers=headers)

    get.__name__ = name
    get.__doc__ = answer.__doc__
    return get


def json_reply(data: Any) -> Reply:
    """Data as JSON, for people where it is short."""
    body = msgspec.json.encode(data)
    if len(body) < READABLE:
        body = msgspec.json.format(body, indent=2)
    return Reply(body + b"\n")


def error_reply(status: int, text: str, *, retry: bool = False) -> Reply:
    """One line that says what is wrong; ``retry``: soon it may not be."""
    headers = {"Retry-After": str(RETRY_S)} if retry else {}
    return Reply(msgspec.json.encode({"error": text}) + b"\n", status, headers)
