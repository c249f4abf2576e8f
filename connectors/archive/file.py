"""A file of recorded ticks: open it, tell its format, read it row by row. One bad row never ends the file.

Rows come in the order of the file, which is the order in which the source sent them. A row that is not a tick
of its format becomes a BadRow. So does one whose time is more than 15 minutes behind the rows before it (the
stages would refuse it as LATE): except where the row before stands alone in the future, then that one.
A file may be packed as zip (with one CSV in it) or gzip.
"""

import codecs
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec
from mypy_extensions import i64

from connectors.archive import dukascopy, histdata, lean, plain, truefx
from connectors.archive.number import MINUTE, Mantissas, Zone
from schemas.instrument import ConfigError, Instrument
from schemas.record import Tick

FORMATS: Final = ("lean", "histdata", "truefx", "dukascopy", "csv")
SUFFIXES: Final = (".zip", ".csv", ".txt", ".gz", ".bi5")
BEHIND_NS: Final[i64] = 15 * MINUTE
FIRST_BLOCK = 1 << 10  # bytes: to look into a file does not take more
BLOCK = 1 << 14  # some hundred rows: what stays in memory of each open file
LONGEST_LINE: Final = 1 << 16  # more without a line break is no CSV
SHOWN: Final = 500  # characters of a bad row that are kept
SAMPLE: Final = 1000  # rows without a tick at the start: then it is no such file
READ_ERRORS: Final = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,  # packed by a method that zipfile does not know
    RuntimeError,  # encrypted
)


class Asked(msgspec.Struct, frozen=True):
    """A file, and what the user says of it. Empty: to be found out."""

    path: Path
    source: str
    symbol: str
    format: str = ""
    timezone: str = ""
    decimals: int | None = None  # of Dukascopy's integer prices
    hour: str = ""  # of a Dukascopy file that does not stand in its folders


class BadRow(msgspec.Struct, frozen=True):
    """A row that is not a tick. Line 0: the file as a whole could not be read."""

    file: Asked
    line: int  # counted from 1; of a binary file the record
    text: str
    reason: str


class ArchiveError(Exception):
    """A file from which no tick can be read; the text is one line that names it and says why."""

    def __init__(self, file: Asked, reason: str) -> None:
        super().__init__(f"{file.path}: {reason}")
        self.bad_row = BadRow(file, 0, "", reason)


class _Rows(NamedTuple):
    blocks: Iterator[list[Any]]
    parse: Callable[[Any], Tick]
    describe: Callable[[Any], str]
    first: int  # the line number of the first item


class TickFile:
    """A file whose format is known and which has a tick among its first rows."""

    def __init__(self, asked: Asked, instrument: Instrument) -> None:
        """Recognise a file. Raises ArchiveError, and ConfigError for what the user asked."""
        self.asked = asked
        self.path = asked.path
        self.symbol = asked.symbol
        self.source = asked.source
        self._instrument = instrument
        self._raw: BinaryIO | None = None
        self._read = 0
        try:
            self.size = asked.path.stat().st_size
            self.format = asked.format or self._detect()
            self.timezone = asked.timezone or self._default_timezone()
            self.zone = Zone(self.timezone)
            self.start = self._first_time()
        except READ_ERRORS as error:
            raise ArchiveError(asked, explain(error)) from error
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            raise ArchiveError(asked, str(error)) from error

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes two imports the same, wherever the file lies."""
        hour = self.asked.hour or (str(self.start) if self.format == "dukascopy" else "")
        text = (self.symbol, self.source, self.path.name, str(self.size), self.format, self.timezone)
        return (*text, hour, str(self.asked.decimals or ""))

    @property
    def read(self) -> int:
        """How many of the file's ``size`` bytes have been read."""
        return self._raw.tell() if self._raw and not self._raw.closed else self._read

    def rows(self) -> Iterator[Tick | BadRow]:
        """Read the ticks and the bad rows, in the order of the file."""
        return chain.from_iterable(self.blocks())

    def blocks(self) -> Iterator[list[Tick | BadRow]]:
        """Read the rows, as many at a time as are read at once."""
        self._read = 0
        with ExitStack() as stack:
            try:
                rows = self._open(stack)
            except (*READ_ERRORS, ValueError) as error:
                yield [BadRow(self.asked, 0, "", explain(error))]
            else:
                yield from checked(self.asked, rows.blocks, rows.parse, rows.first, rows.describe)
        self._read = self.size

    def _detect(self) -> str:
        if self.path.name.lower().endswith(".bi5"):
            return "dukascopy"
        with ExitStack() as stack:
            name, blocks = self._content(stack)
            lines = list(islice(chain.from_iterable(blocks), 20))
        if any(lean.NAME.fullmatch(each) for each in (name, self.path.name)):
            return "lean"
        if any(histdata.LINE.match(line) for line in lines):
            return "histdata"
        if any(truefx.LINE.match(line) for line in lines):
            return "truefx"
        if not lines:
            raise ValueError("it is empty")
        try:
            plain.columns(lines[0])
        except ValueError as error:
            raise ValueError(f"no format is recognised ({error}): give --format") from error
        return "csv"

    def _default_timezone(self) -> str:
        if self.format == "lean":
            return lean.timezone(self.path.resolve(), self.source)
        return histdata.TIMEZONE if self.format == "histdata" else "UTC"

    def _first_time(self) -> int:
        """A time at or before the first tick, as far as a few rows tell."""
        if self.format == "dukascopy":
            if self.asked.timezone and self.timezone != "UTC":
                raise ConfigError(f"{self.path}: Dukascopy files are in UTC: leave the time zone out")
            start = self._hour()
            if not self.size:
                return start
        times: list[int] = []
        bad: BadRow | None = None
        for row in islice(self.rows(), SAMPLE):
            if not isinstance(row, BadRow):
                times.append(row.ts_event)
            elif not bad:
                bad = row
            if len(times) == 10:
                break
        if not times:
            where = f"line {bad.line}: " if bad and bad.line else ""
            raise ValueError(f"no {self.format} ticks: {where}{bad.reason if bad else 'it is empty'}")
        return min(times)

    def _hour(self) -> int:
        return dukascopy.hour_of(self.asked.hour) if self.asked.hour else dukascopy.hour_in(self.path.resolve())

    def _open(self, stack: ExitStack) -> _Rows:
        instrument = self._instrument
        divisor = instrument.source(self.source).divisor
        if self.format == "dukascopy":
            own = dukascopy.decimals(instrument) if self.asked.decimals is None else self.asked.decimals
            price = dukascopy.price(own, instrument, divisor)
            volumes = dukascopy.Volumes(instrument.size_scale)
            parse = dukascopy.parser(self.symbol, self.source, self._hour(), price, volumes)
            return _Rows(records(self._unpacked(stack)[1]), parse, dukascopy.describe, 1)
        name, blocks = self._content(stack)
        prices = Mantissas(instrument.price_scale, divisor=divisor)
        sizes = Mantissas(instrument.size_scale, negative=False)
        what = (self.symbol, self.source, prices)
        if self.format == "lean":
            return _Rows(blocks, lean.parser(self._lean_name(name), *what, sizes, self.zone), str, 1)
        if self.format == "histdata":
            return _Rows(blocks, histdata.parser(*what, self.zone), str, 1)
        if self.format == "truefx":
            return _Rows(blocks, truefx.parser(*what, self.zone), str, 1)
        header, *rest = next(blocks, [""])
        return _Rows(chain([rest], blocks), plain.parser(header, *what, sizes, self.zone), str, 2)

    def _lean_name(self, inner: str) -> str:
        name = inner if lean.NAME.fullmatch(inner) else self.path.name
        lean.check(name)
        return name

    def _content(self, stack: ExitStack) -> tuple[str, Iterator[list[str]]]:
        name, stream = self._unpacked(stack)
        return name, lines_of(stream)

    def _unpacked(self, stack: ExitStack) -> tuple[str, BinaryIO]:
        """The name of the file inside, and its bytes."""
        self._raw = raw = stack.enter_context(self.path.open("rb"))
        if self.path.suffix.lower() == ".gz":
            return self.path.stem, stack.enter_context(gzip.open(raw))  # type: ignore[return-value]
        if self.path.suffix.lower() != ".zip":
            return self.path.name, raw
        packed = stack.enter_context(zipfile.ZipFile(raw))
        names = [name for name in packed.namelist() if not name.endswith("/")]
        names = [name for name in names if name.lower().endswith(".csv")] or names
        if len(names) != 1:
            raise ValueError(f"{len(names) or 'no'} files in the zip; it should have one CSV")
        return Path(names[0]).name, stack.enter_context(packed.open(names[0]))  # type: ignore[return-value]


def explain(error: Exception) -> str:
    """Why a file cannot be read, and what to do."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, ValueError | NotImplementedError):
        return str(error)
    text = " ".join(str(error).split()) or type(error).__name__
    return f"torn or not what its name says ({text}): fetch it again"


def lines_of(stream: BinaryIO) -> Iterator[list[str]]:
    """Split bytes into lines, block by block. What is no UTF-8 becomes U+FFFD, which no number contains."""
    rest = b""
    block = stream.read(FIRST_BLOCK).removeprefix(codecs.BOM_UTF8)
    while block:
        whole, newline, rest = (rest + block).rpartition(b"\n")
        if newline:
            yield whole.decode(errors="replace").split("\n")
        if len(rest) > LONGEST_LINE:
            rest = rest[:LONGEST_LINE]
        block = stream.read(BLOCK)
    if rest:
        yield [rest.decode(errors="replace")]


def records(stream: BinaryIO) -> Iterator[list[dukascopy.Row]]:
    """Unpack a bi5 file. Raises EOFError and LZMAError after the last record that is whole."""
    unpack = lzma.LZMADecompressor()
    rest = b""
    read = 0
    while not unpack.eof and (block := stream.read(4096)):
        read += len(block)
        rest += unpack.decompress(block)
        whole = len(rest) - len(rest) % dukascopy.RECORD.size
        yield list(dukascopy.RECORD.iter_unpack(rest[:whole]))
        rest = rest[whole:]
    if read and (rest or not unpack.eof):
        raise EOFError("it ends in the middle of a record" if rest else "it ends too early")
    if unpack.unused_data or stream.read(1):
        raise EOFError("bytes are left over after its end")


def checked(
    file: Asked,
    blocks: Iterable[list[Any]],
    parse: Callable[[Any], Tick],
    first: int = 1,
    describe: Callable[[Any], str] = str,
) -> Iterator[list[Tick | BadRow]]:
    """Parse row by row, setting aside what is no tick and what is far out of the order of time."""
    before: Tick | None = None  # the last good tick, kept back until the next one has confirmed its time
    before_line, before_item = 0, None
    before_at: i64 = 0
    highest: i64 = 0  # of the ticks already given out
    following = first
    rows: list[Tick | BadRow] = []
    try:
        for items in blocks:
            for line, item in enumerate(items, following):
                try:
                    tick = parse(item)
                except ValueError as error:
                    if text := describe(item).strip():
                        rows.append(BadRow(file, line, text[:SHOWN], str(error)))
                    continue
                at: i64 = tick.ts_event
                if before is not None:
                    if at >= before_at - BEHIND_NS:
                        rows.append(before)
                        if before_at > highest:
                            highest = before_at
                    elif at >= highest - BEHIND_NS:
                        rows.append(_out_of_order(file, before_line, describe(before_item), before, at))
                    else:
                        rows.append(_out_of_order(file, line, describe(item), tick, highest))
                        continue
                before, before_line, before_item, before_at = tick, line, item, at
            following += len(items)
            yield rows
            rows = []
    except READ_ERRORS as error:
        if before is not None:
            rows.append(before)
        rows.append(BadRow(file, following, "", explain(error)))
        yield rows
        return
    if before is not None:
        yield [before]


def _out_of_order(file: Asked, line: int, text: str, tick: Tick, other: int) -> BadRow:
    off = int(tick.ts_event - other) // 1_000_000_000
    reason = f"{abs(off)} s {'before an earlier' if off < 0 else 'after the next'} row: sort the file by time"
    return BadRow(file, line, text.strip()[:SHOWN], reason)
