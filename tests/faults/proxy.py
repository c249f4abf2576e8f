"""A TCP proxy that adds delay and cuts connections: a slow or torn network between clients and a broker."""

import asyncio
import threading
from collections.abc import Coroutine, Mapping
from typing import Any

CHUNK = 1 << 16
WAITING = 256  # chunks under way in one direction


class Proxy:
    """Forwards ports of 127.0.0.1, in a thread of its own."""

    def __init__(self, ports: Mapping[int, int]) -> None:
        """``ports``: where to listen, and where to connect to for each."""
        self._ports = dict(ports)
        self._delays = dict.fromkeys(ports, 0.0)
        self._open: dict[int, set[asyncio.StreamWriter]] = {port: set() for port in ports}
        self._loop = asyncio.new_event_loop()
        self._servers: list[asyncio.Server] = []
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._do(self._listen())

    def delay(self, port: int, seconds: float) -> None:
        """From now on all that passes comes so much later, in each direction."""
        self._delays[port] = seconds

    def cut(self, port: int) -> int:
        """Reset every connection; say how many there were."""
        return int(self._do(self._cut(port)))

    def close(self) -> None:
        """End."""
        for port in self._ports:
            self._do(self._cut(port))
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        for port in self._ports:
            self._servers.append(await asyncio.start_server(self._handler(port), "127.0.0.1", port))

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _cut(self, port: int) -> int:
        found = list(self._open[port])
        for writer in found:
            writer.transport.abort()
        return len(found) // 2

    def _handler(self, port: int) -> Any:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                upstream, onward = await asyncio.open_connection("127.0.0.1", self._ports[port])
            except OSError:
                writer.transport.abort()  # as if the broker itself refused
                return
            pair = {writer, onward}
            self._open[port] |= pair
            ways = ((reader, onward), (upstream, writer))
            tasks = [asyncio.create_task(work) for way in ways for work in self._pass(port, *way)]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)  # cut, or one of the two has ended
            finally:
                self._open[port] -= pair
                for task in tasks:
                    task.cancel()
                for each in pair:
                    each.transport.abort()
                await asyncio.gather(*tasks, return_exceptions=True)

        return connected

    def _pass(
        self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> list[Coroutine[Any, Any, None]]:
        """Forward one direction: everything later by the delay of the moment at which it came."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(WAITING)

        async def receive() -> None:
            chunk = b"-"
            while chunk:
                chunk = await reader.read(CHUNK)
                await waiting.put((self._loop.time() + self._delays[port], chunk))
            await self._loop.create_future()  # the last is still under way: sending it ends both

        async def send() -> None:
            while True:
                due, chunk = await waiting.get()
                if (left := due - self._loop.time()) > 0:
                    await asyncio.sleep(left)
                if not chunk:
                    return
                writer.write(chunk)
                await writer.drain()

        return [receive(), send()]
