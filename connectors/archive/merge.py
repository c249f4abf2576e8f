"""Many files into one order of time: what makes several brokers' histories one log.

A file is opened when its first tick is due, so that years of daily files need few open at once. Each keeps its
own order: a tick that is late in its file stays late. At the same time they go by symbol, source and name of
their file, so the result depends on neither the order in which the files were named nor where they lie.

Files are read block by block, and merged by sorting: a row is given out once every file has been read to its time.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heapreplace
from itertools import chain
from operator import itemgetter

from mypy_extensions import i64

from connectors.archive.file import BadRow, TickFile
from schemas.record import Quote, Tick, Trade

Row = Tick | BadRow
Due = tuple[int, Row]  # when it is due: its time, or that of a row before it in its file that is later

DUE = itemgetter(0)
END = (1 << 63, 0)  # after every time
AHEAD = 8  # one in so many open files is read on at a time: more need more memory, fewer more looks at all files


def merged(files: Iterable[TickFile]) -> Iterator[Row]:
    """Give the ticks of all files by time; bad rows come where they are met."""
    return chain.from_iterable(batches(files))


def batches(files: Iterable[TickFile]) -> Iterator[list[Row]]:
    """Give the same, as many rows at a time as are certain."""
    ordered = sorted(files, key=lambda file: (file.identity, str(file.path)))
    # How far each file has been read: nothing that is due earlier will come of it.
    heap = [(file.start, number) for number, file in enumerate(ordered)]
    heapify(heap)
    blocks: dict[int, Iterator[list[Row]]] = {}  # of the open files
    waiting: dict[int, list[Due]] = {}  # read and not given out
    while heap:
        for _ in range(len(blocks) // AHEAD + 1):
            due, number = heap[0]
            if number not in blocks:
                blocks[number] = ordered[number].blocks()
                waiting[number] = []
            block = next(blocks[number], None)
            if block is None:
                heappop(heap)
                del blocks[number]
            else:
                heapreplace(heap, (_append(waiting[number], block, due), number))
            if not heap or heap[0][1] not in blocks:
                break
        ready = _take(waiting, *(heap[0] if heap else END))
        ready.sort(key=DUE)  # stable: at the same time by the number of the file, then as in the file
        yield [row for _, row in ready]
        waiting = {number: rows for number, rows in waiting.items() if rows or number in blocks}


def _append(rows: list[Due], block: list[Row], due: int) -> int:
    """Let rows of a file wait that was due before them; say when its next one is."""
    newest: i64 = due
    for row in block:
        if isinstance(row, (Quote, Trade)):
            at: i64 = row.ts_event
            if at > newest:
                newest = due = at
        rows.append((due, row))
    return due


def _take(waiting: dict[int, list[Due]], due: int, number: int) -> list[Due]:
    """Take the rows that come before all that is still to be read: what is next is due then, of that file."""
    taken = []
    for each in sorted(waiting):
        rows = waiting[each]
        before = bisect_right if each <= number else bisect_left
        end = before(rows, due, key=DUE)
        taken += rows[:end]
        del rows[:end]
    return taken
