"""Many files into one order of time: what makes several brokers' histories one log.

A file is opened when its first tick is due, so that years of daily files need few open at once. Each keeps its
own order: a tick that is late in its file stays late. At the same time they go by symbol, source and name of
their file, so the result depends on neither the order in which the files were named nor where they lie.
"""

from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heapreplace

from connectors.archive.file import BadRow, TickFile
from schemas.record import Tick


def merged(files: Iterable[TickFile]) -> Iterator[Tick | BadRow]:
    """Give the ticks of all files by time; bad rows come where they are met."""
    ordered = sorted(files, key=lambda file: (file.identity, str(file.path)))
    heap: list[tuple[int, int, Tick | None]] = [(file.start, n, None) for n, file in enumerate(ordered)]
    heapify(heap)
    rows: dict[int, Iterator[Tick | BadRow]] = {}
    while heap:
        time, number, tick = heap[0]
        if tick is None:
            rows[number] = ordered[number].rows()
        else:
            yield tick
        for row in rows[number]:
            if isinstance(row, BadRow):
                yield row
                continue
            due: tuple[int, int, Tick | None] = (max(time, row.ts_event), number, row)
            heapreplace(heap, due)
            break
        else:
            heappop(heap)
            del rows[number]
