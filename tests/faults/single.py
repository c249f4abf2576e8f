"""A Kafka of one node whose transactions' markers can be made late.

Kafka answers a commit first and writes the markers after, by the way that its nodes talk with one another, also where
there is but one. Here that way leads through a proxy.
"""

from collections.abc import Callable
from pathlib import Path

from deploy import local
from tests.faults.proxy import Proxy
from tests.topology.processes import free_ports


class Single:
    """Started with its proxy."""

    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        """Lay it out and start it. Raises LocalStackError."""
        self._directory = directory
        self._say = say
        self._inner, self._outer = free_ports(2)
        self._proxy = Proxy({self._outer: self._inner})
        self.broker = self.start().broker

    def start(self) -> local.Stack:
        """Start it where it does not run; say where it is."""
        usual = local.SERVER_PROPERTIES
        local.SERVER_PROPERTIES = (
            usual.replace("listeners=", f"listeners=INNER://127.0.0.1:{self._inner},", 1)
            .replace("advertised.listeners=", f"advertised.listeners=INNER://127.0.0.1:{self._outer},")
            .replace("protocol.map=", "protocol.map=INNER:PLAINTEXT,")
            .replace("inter.broker.listener.name=BROKER", "inter.broker.listener.name=INNER")
        )
        try:
            return local.start(self._directory, postgres=False, say=self._say)
        finally:
            local.SERVER_PROPERTIES = usual

    def late(self, seconds: float) -> None:
        """From now on markers take so much longer to be written, and again until Kafka knows that they are."""
        self._proxy.delay(self._outer, seconds)

    def stop(self) -> None:
        """Stop it; its data stay."""
        local.stop(self._directory)

    def close(self) -> None:
        """Stop it and remove its data."""
        local.clean(self._directory)
        self._proxy.close()
