"""The page in a real browser: what a person sees is what the worker knows, and it asks nobody else."""

import asyncio
import itertools
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from aiohttp import web

from connectors.runtime.producer import partition_of
from schemas.record import Record
from tests.market import NOON, SECOND, clock, instrument, link, quote
from tests.topology.fake_app import views_of
from topology.stages.partition import Partition
from topology.web.views import Reply, Views

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = """
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --enable-logging=stderr --virtual-time-budget=20000 --dump-dom
"""
HOSTILE = "<img src=x onerror=\"document.title='broken'\">"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")


def market() -> tuple[Partition, Views]:
    """EURUSD: alfa and bravo live, charlie's link lost, delta holds a suspect. GBPUSD: a source with a bad name."""
    instruments = {"EURUSD": instrument(), "GBPUSD": instrument("GBPUSD")}
    records: list[Record] = []
    for second in range(10):
        at = NOON + second * SECOND
        records += [quote(109_000, 109_012, at, "alfa"), quote(109_003, 109_014, at, "bravo")]
        records += [quote(109_001, 109_015, at, "charlie"), quote(109_001, 109_015, at, "delta")]
    records.append(quote(109_003, 109_014, NOON + 9 * SECOND, "bravo"))  # again: a duplicate
    records.append(quote(109_900, 109_914, NOON + 10 * SECOND, "delta"))
    records.append(link("disconnected", NOON + 10 * SECOND, "charlie"))
    records.append(quote(127_000, 127_010, NOON + 10 * SECOND, HOSTILE, symbol="GBPUSD"))
    records.append(clock(NOON + 12 * SECOND))
    partition = Partition(partition_of(b"EURUSD", 4), instruments)
    for offset, record in enumerate(records):
        assert partition.apply(record, offset, NOON + 60 * SECOND) == ""
    return partition, views_of(partition, instruments)


class Site:
    """The views of a worker that is not there, over HTTP."""

    def __init__(self, views: Views) -> None:
        self.views = views
        self.asked: list[str] = []
        self.down = ""  # why every view but the page says that it can't answer
        self.address = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._runner = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    async def _start(self) -> web.AppRunner:
        application = web.Application()
        application.router.add_get("/", self._handler(self.views.page))
        application.router.add_get("/symbols/{symbol}", self._handler(self.views.symbol))
        for name in ("symbols", "sources", "gaps"):
            application.router.add_get(f"/{name}", self._handler(getattr(self.views, name)))
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.address = "http://{}:{}/".format(*runner.addresses[0][:2])
        return runner

    def _handler(self, answer: Callable[..., object]) -> Callable[[web.Request], object]:
        async def handle(request: web.Request) -> web.Response:
            self.asked.append(request.path)
            if self.down and self.asked.count(request.path) > 1:
                reply = Reply(b'{"error":"%s"}' % self.down.encode(), 503)
            else:
                reply = await answer(request, **request.match_info)  # type: ignore[misc]
            return web.Response(body=reply.body, status=reply.status, headers=reply.headers)

        return handle

    def close(self) -> None:
        """Stop serving."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def site() -> Iterator[Site]:
    """The market above as a site."""
    found = Site(market()[1])
    yield found
    found.close()


class Rendered(HTMLParser):
    """What the browser made of a page: rows of cells by the id of their table, other texts by id."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: dict[str, list[list[str]]] = {}
        self.texts: dict[str, str] = {}
        self.hidden: set[str] = set()
        self.tags: list[str] = []
        self.title = ""
        self._table = ""
        self._open: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attributes)
        name = values.get("id") or ""
        if "hidden" in values:
            self.hidden.add(name)
        if tag == "tbody":
            self._table = name
            self.rows[name] = []
        elif tag == "tr" and self._table:
            self.rows[self._table].append([])
        elif tag == "td" and self._table:
            self.rows[self._table][-1].append("")
        if tag not in ("meta", "link", "input", "img", "br"):
            self._open.append((tag, name))

    def handle_endtag(self, tag: str) -> None:
        if tag == "tbody":
            self._table = ""
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][0] == "title":
            self.title += data
        for _, name in self._open:
            if name:
                self.texts[name] = self.texts.get(name, "") + data
        if self._table and any(tag == "td" for tag, _ in self._open):
            cells = self.rows[self._table][-1]
            cells[-1] = f"{cells[-1]} {data}".strip()


def browse(address: str, profile: Path) -> tuple[Rendered, str]:
    """Open a page for 20 s of its own time (less of ours); give what is there then, and what the console said."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, *FLAGS.split(), f"--user-data-dir={profile}", address], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Rendered(done.stdout), "\n".join(console)


def test_the_page_shows_prices_states_sources_gaps_and_rejections(site: Site, tmp_path: Path) -> None:
    page, console = browse(site.address, tmp_path)
    eurusd, gbpusd = page.rows["symbols"]
    assert eurusd[:6] == ["EURUSD", "1.09003", "bravo", "1.09012", "alfa", "0.00009"]
    assert eurusd[7] == "normal"
    assert eurusd[8].split(" ") == ["●", "alfa", "●", "bravo", "✕", "charlie", "●", "delta"]
    assert eurusd[9:12] == ["1", "1", "1"]  # held, rejected, gaps
    assert gbpusd[:2] == ["GBPUSD", "1.27000"]
    assert gbpusd[7] == "single source"
    assert [row[:2] for row in page.rows["sources"]] == [
        [HOSTILE, "● 1 live"],
        ["alfa", "● 1 live"],
        ["bravo", "● 1 live"],
        ["charlie", "✕ 1 disconnected"],
        ["delta", "● 1 live"],
    ]
    assert page.rows["gaps"] == [["EURUSD", "charlie", "disconnect", "12:00:09", "3.0 s"]]
    [reason] = page.rows["reasons"]
    assert reason[0].startswith("DUPLICATE the same id, or the same time, prices and sizes")
    assert reason[1] == "1"
    assert "2026-03-04 12:00:12 UTC" in page.texts["clock"]
    assert page.texts.get("trouble", "") == ""
    assert {"detail", "no-symbols", "no-gaps", "no-reasons"} <= page.hidden
    assert console == ""
    # A name from outside is a text, never markup.
    assert page.title == "tickloom"
    assert "img" not in page.tags
    # It refreshes itself, and a browser asks for nothing but what the worker has.
    assert site.asked.count("/symbols") > 1
    assert set(site.asked) == {"/", "/symbols", "/sources", "/gaps"}


def test_the_pace_is_what_has_arrived_between_two_looks_by_the_time_between_them(tmp_path: Path) -> None:
    partition, views = market()
    sources, offset = views.sources, itertools.count(1_000)

    async def busy(request: web.Request) -> Reply:
        for _ in range(50):  # between two looks, of which it takes one a second
            at = next(offset)
            assert (
                partition.apply(quote(109_000, 109_012, NOON + 13 * SECOND + at, "alfa"), at, NOON + 60 * SECOND) == ""
            )
        return await sources(request)

    views.sources = busy  # type: ignore[method-assign]
    site = Site(views)
    try:
        page, _ = browse(site.address, tmp_path)
    finally:
        site.close()
    looks = site.asked.count("/sources")
    found = re.search(r"(\d+)ticks a second", page.texts["tiles"])
    assert found is not None
    assert looks > 1
    assert 0.5 * 50 <= int(found[1]) <= 50


def test_a_symbol_opens_with_the_numbers_behind_it(site: Site, tmp_path: Path) -> None:
    page, console = browse(f"{site.address}#EURUSD", tmp_path)
    assert "detail" not in page.hidden
    legs = {row[0]: row for row in page.rows["legs"]}
    assert legs["alfa"][1:6] == ["● live", "eligible", "1.09000", "1.09012", "0.00012"]
    assert legs["bravo"][-1] == "1 DUPLICATE"
    assert legs["charlie"][1:3] == ["✕ disconnected", "disconnected"]
    assert legs["delta"][2] == "suspect"
    assert page.rows["held"] == [["delta", "quote", "1.099070", "1.090080", "± 0.000700", "12:00:10", "41"]]
    assert page.rows["minutes"][0][:2] == ["best", "12:00"]
    assert console == ""


def test_a_worker_that_cannot_answer_is_said_and_what_was_seen_stays(site: Site, tmp_path: Path) -> None:
    site.down = "partitions are being reassigned among the workers"
    page, _ = browse(site.address, tmp_path)
    assert page.texts["trouble"].startswith("partitions are being reassigned among the workers; what is shown is from")
    assert [row[0] for row in page.rows["symbols"]] == ["EURUSD", "GBPUSD"]


def test_an_empty_system_says_how_to_fill_it(tmp_path: Path) -> None:
    site = Site(views_of(Partition(0, {}), {"EURUSD": instrument()}))
    try:
        page, _ = browse(site.address, tmp_path)
    finally:
        site.close()
    assert "no-symbols" not in page.hidden
    assert "make demo" in page.texts["no-symbols"]
