"""Hold the tick that jumps away until something confirms or denies it."""

from dataclasses import dataclass

from schemas import flags
from schemas.instrument import Rules
from schemas.record import Quote
from tests.reference.model import MINUTE, Arrived, Held, Source, Symbol
from tests.reference.validity import x_of


@dataclass(frozen=True)
class Decision:
    """What becomes of one tick: ``accept``, ``release``, ``hold``, or ``reject`` with its numbers."""

    deed: str
    source: Source
    arrived: Arrived
    reason: str = ""
    numbers: tuple[int, int, int] = (0, 0, 0)


def middle(values: list[int]) -> int:
    """The median as the rules define it."""
    return sorted(values)[len(values) // 2]


def band_of(source: Source, rules: Rules) -> tuple[int, int]:
    """The median and the half width of what is believed without question."""
    window, spreads = source.window[-50:], source.spreads[-50:]
    median = middle(window)
    deviation = middle([abs(x - median) for x in window])
    spread = middle(spreads) if spreads else 0
    return median, max(rules.spike_mad * deviation, rules.spike_ticks * 10, rules.spike_spreads * spread)


def must_reseed(source: Source, recv: int) -> bool:
    """Whether what was remembered says nothing any more about this tick."""
    if source.session_closed:
        return True
    return source.spike_recv is not None and recv - source.spike_recv > 10 * MINUTE


def reseed(source: Source) -> list[Decision]:
    """Forget the window; what was held is rejected."""
    refused = refuse_held(source, flags.SPIKE)
    source.window, source.spreads, source.good = [], [], 0
    source.level, source.agreed = None, 0
    return refused


def refuse_held(source: Source, reason: str) -> list[Decision]:
    """Reject everything held, in order."""
    refused = [
        Decision("reject", source, held.arrived, reason, (held.x, held.median, held.band)) for held in source.held
    ]
    source.held = []
    return refused


def time_out(source: Source) -> list[Decision]:
    """Nothing confirmed the held in time: reject them, but remember where they were and how many."""
    level, agreed = source.held[0].x, source.carried + len(source.held)
    refused = refuse_held(source, flags.SPIKE_TIMEOUT)
    source.level, source.agreed = level, agreed
    return refused


def take(source: Source, arrived: Arrived) -> None:
    """Add an accepted tick to the window."""
    tick = arrived.tick
    source.window.append(x_of(tick))
    if isinstance(tick, Quote):
        source.spreads.append((tick.ask - tick.bid) * 10)
    source.spike_recv, source.session_closed = max(tick.ts_recv, source.spike_recv or 0), False


def confirm_held(source: Source) -> list[Decision]:
    """The held are the new level."""
    ticks = [held.arrived for held in source.held]
    source.held, source.window, source.spreads = [], [], []
    source.level, source.agreed = None, 0
    for arrived in ticks:
        take(source, arrived)
    return [Decision("release", source, arrived) for arrived in ticks]


def peers_that_agree(symbol: Symbol, source: Source, x: int, band: int) -> tuple[bool, list[Source]]:
    """Whether another live source is at x, and those whose held ticks are there too."""
    live = [other for other in symbol.by_name() if other is not source and other.status == "live"]
    trading = [other for other in live if other.window and abs(other.window[-1] - x) <= band]
    holding = [other for other in live if other.held and abs(other.held[0].x - x) <= band]
    return bool(trading or holding), holding


def step(symbol: Symbol, source: Source, arrived: Arrived) -> list[Decision]:
    """Decide about a clean tick, and with it about ticks held before."""
    x = x_of(arrived.tick)
    if len(source.window[-50:]) < 5:
        take(source, arrived)
        return [Decision("accept", source, arrived)]
    median, band = band_of(source, symbol.instrument.rules)
    if abs(x - median) <= band:
        refused = refuse_held(source, flags.SPIKE)
        source.level, source.agreed = None, 0
        take(source, arrived)
        return [*refused, Decision("accept", source, arrived)]
    refused = []
    if source.held and abs(x - source.held[0].x) > band:
        refused = refuse_held(source, flags.SPIKE)
    agreed, holding = peers_that_agree(symbol, source, x, band)
    others = [decision for other in holding for decision in confirm_held(other)]
    if not source.held and agreed:
        source.window, source.spreads, source.level, source.agreed = [], [], None, 0
        take(source, arrived)
        return [*refused, Decision("accept", source, arrived), *others]
    if not source.held:
        if source.level is None or abs(x - source.level) > band:
            source.level, source.agreed = None, 0
        source.carried = source.agreed
    source.held.append(Held(arrived, x, median, band))
    if agreed or source.carried + len(source.held) >= 4:
        return [*refused, *confirm_held(source), *others]
    return [*refused, Decision("hold", source, arrived)]
