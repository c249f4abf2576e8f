"""The named bits of ``flags``, and the reasons for which a tick or a record is refused."""

from typing import Final

SNAPSHOT: Final = 1  # sent by the source on (re)subscription: state, not news
BACKFILL: Final = 2  # fetched after the fact
NO_EVENT_TIME: Final = 4  # the source gives no time: ts_event is ts_recv
BAD_CLOCK: Final = 8  # a time ran ahead and was clamped
CROSSED: Final = 16  # bid > ask
LOCKED: Final = 32  # bid == ask
ONE_SIDED: Final = 64
NOT_TRADEABLE: Final = 128  # the source says: indicative only
RELEASED: Final = 256  # was held as a suspected spike, then confirmed
PARTIAL: Final = 512  # candle: the source was not covered for the whole minute
PROMOTED: Final = 1024  # candle: put in the place of another by a replay; stands whatever its coverage

#: A quote with any of these is kept, but takes no part in best price and candles.
NOT_CLEAN: Final = CROSSED | LOCKED | ONE_SIDED | NOT_TRADEABLE

NAMES: Final[dict[int, str]] = {
    SNAPSHOT: "SNAPSHOT",
    BACKFILL: "BACKFILL",
    NO_EVENT_TIME: "NO_EVENT_TIME",
    BAD_CLOCK: "BAD_CLOCK",
    CROSSED: "CROSSED",
    LOCKED: "LOCKED",
    ONE_SIDED: "ONE_SIDED",
    NOT_TRADEABLE: "NOT_TRADEABLE",
    RELEASED: "RELEASED",
    PARTIAL: "PARTIAL",
    PROMOTED: "PROMOTED",
}

# Reasons a tick is rejected (market.data.tick.rejected).
DUPLICATE: Final = "DUPLICATE"
OLD_SNAPSHOT: Final = "OLD_SNAPSHOT"
LATE: Final = "LATE"
NOT_POSITIVE: Final = "NOT_POSITIVE"
NEGATIVE_SIZE: Final = "NEGATIVE_SIZE"
OUT_OF_BOUNDS: Final = "OUT_OF_BOUNDS"
DECIMAL_SHIFT: Final = "DECIMAL_SHIFT"
SPREAD_TOO_WIDE: Final = "SPREAD_TOO_WIDE"
SPIKE: Final = "SPIKE"
SPIKE_TIMEOUT: Final = "SPIKE_TIMEOUT"

REASONS: Final[dict[str, str]] = {
    DUPLICATE: "the same id, or the same time, prices and sizes, was seen already",
    OLD_SNAPSHOT: "a snapshot not newer than the last tick of its source",
    LATE: "event time more than 15 minutes behind the stream",
    NOT_POSITIVE: "a price that is negative, or no price at all",
    NEGATIVE_SIZE: "a negative size",
    OUT_OF_BOUNDS: "outside the instrument's hard bounds",
    DECIMAL_SHIFT: "ten or a hundred times the last good price, or a tenth or hundredth of it",
    SPREAD_TOO_WIDE: "a spread above the instrument's cap",
    SPIKE: "held as a suspect; the next tick returned to the old level",
    SPIKE_TIMEOUT: "held as a suspect; nothing confirmed it in time",
}

# Reasons a record goes to market.dead_letter.
UNDECODABLE: Final = "UNDECODABLE"
UNKNOWN_SCHEMA: Final = "UNKNOWN_SCHEMA"
UNKNOWN_SYMBOL: Final = "UNKNOWN_SYMBOL"
KEY_MISMATCH: Final = "KEY_MISMATCH"
UNEXPECTED_RECORD: Final = "UNEXPECTED_RECORD"
TOO_MANY_SOURCES: Final = "TOO_MANY_SOURCES"
OVERSIZED: Final = "OVERSIZED"
FAILED: Final = "FAILED"  # a stage raised: a defect of ours
BAD_ROW: Final = "BAD_ROW"  # a line of an imported file that is not a tick
UNSTORABLE: Final = "UNSTORABLE"  # the database refuses the row

DEAD_LETTER_REASONS: Final[dict[str, str]] = {
    UNDECODABLE: "the bytes are not a record of their schema",
    UNKNOWN_SCHEMA: "neither an Avro single object nor a schema id that is known here",
    UNKNOWN_SYMBOL: "not in instruments.yaml",
    KEY_MISMATCH: "the key is not the symbol in the value",
    UNEXPECTED_RECORD: "a record of a kind that does not belong in market.raw",
    TOO_MANY_SOURCES: "more sources than a symbol's state may hold",
    OVERSIZED: "more than 64 KB, or an id or a source of more than 256 characters",
    FAILED: "a stage raised an exception: please report it",
    BAD_ROW: "a row of an imported file that is not a tick",
    UNSTORABLE: "the database refuses the row",
}


def names(flags: int) -> list[str]:
    """Say which bits are set."""
    return [name for bit, name in NAMES.items() if flags & bit]
