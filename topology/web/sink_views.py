"""The web views of a sink: /metrics, /healthz and /readyz. Read from its own counters when somebody asks.

It is ready while it has partitions and the database takes what comes, healthy while it turns: a database that is away
is waited for, so restarting the sink would not help.
"""

import time
from collections.abc import Iterator
from typing import Any, Final

import faust
from faust.web import Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from topology.web.metrics import Labels, counter, gauge, registry
from topology.web.views import Answer, Reply, error_reply, handler, json_reply, leave_out_fausts

STUCK_S: Final = 30.0  # a commit takes milliseconds


def install(app: faust.App, sink: Any, run: str) -> None:
    """Add the views to an application that is not started yet."""
    leave_out_fausts(app)
    views = SinkViews(app, sink, run)
    answers: dict[str, Answer] = {
        "/": views.readyz,
        "/metrics": views.metrics,
        "/healthz": views.healthz,
        "/readyz": views.readyz,
    }
    for path, answer in answers.items():
        name = answer.__name__ if path != "/" else "index"
        app.page(path, name=name)(handler(name, answer))


class SinkViews:
    """The answers."""

    def __init__(self, app: faust.App, sink: Any, run: str) -> None:
        self._run = run
        self._figures = SinkCollector(app, sink)
        self._registry = registry(self._figures)

    async def metrics(self, _request: Request) -> Reply:
        """The metrics, in the format of Prometheus."""
        return Reply(generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def healthz(self, _request: Request) -> Reply:
        """200 while the event loop turns: what goes wrong for good ends the process."""
        return json_reply({"status": "ok"})

    async def readyz(self, _request: Request) -> Reply:
        """200 while rows get into the database."""
        if reason := self._figures.unready():
            return error_reply(503, reason, retry=True)
        lag = self._figures.lag()
        answer = {"status": "ready", "run": self._run, "partitions": len(lag), "lag": int(sum(lag.values()))}
        return json_reply(answer)


class SinkCollector(Collector):
    """Reads the sink, its writer and how far its partitions are."""

    def __init__(self, app: Any, sink: Any) -> None:
        self._app = app
        self._sink = sink

    def describe(self) -> list[Metric]:
        """Nothing: the names need no reading to be registered."""
        return []

    def unready(self) -> str:
        """Why nothing gets into the database now; empty: it does."""
        writer = self._sink.writer
        if writer.away_since:
            return f"the database has been away for {time.monotonic() - writer.away_since:.0f} s: the sink waits for it"
        if not self._app.consumer.spans:
            return "no partition is assigned to this sink"
        if self._sink.commit_age > STUCK_S:
            return f"the database has not committed for {self._sink.commit_age:.0f} s"
        return ""

    def lag(self) -> dict[Labels, float]:
        """Records that are not in the database yet, by topic and partition, of those of which that is known."""
        ends = self._app.monitor.tp_end_offsets
        return {
            (tp.topic, str(tp.partition)): max(0, ends[tp] - acks.commit)
            for tp, acks in self._app.consumer.spans.items()
            if acks.commit is not None and tp in ends
        }

    def collect(self) -> Iterator[Metric]:
        """All metrics as they are now."""
        sink, writer = self._sink, self._sink.writer
        yield gauge("sink_ready", "1 while rows get into the database.", (), {(): not self.unready()})
        yield gauge("sink_database_up", "0 while the database is away.", (), {(): not writer.away_since})
        yield counter("sink_database_retries", "Attempts that failed as it was away.", (), {(): writer.retries})
        yield counter("sink_rows_written", "Rows that were committed, repeats among them.", (), {(): sink.written})
        yield counter("sink_commits", "Transactions.", (), {(): sink.commits})
        yield counter("sink_commit_seconds", "Time that they took.", (), {(): sink.commit_seconds})
        yield gauge("sink_rows_waiting", "Rows read and not yet taken up.", (), {(): sink.waiting})
        yield gauge("sink_commit_age_seconds", "How long the oldest row waits.", (), {(): sink.commit_age})
        refused: dict[Labels, float] = {(reason,): count for reason, count in sink.refused.items()}
        yield counter("sink_dead_letters", "Records that could not be stored.", ("reason",), refused)
        missed: dict[Labels, float] = {
            (tp.topic, str(tp.partition)): n for tp, n in list(self._app.consumer.missed.items())
        }
        yield counter("sink_records_missed", "Deleted before they were read.", ("topic", "partition"), missed)
        yield gauge("sink_lag_records", "Records not yet in the database.", ("topic", "partition"), self.lag())
