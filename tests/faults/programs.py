"""Real processes of the system and of the suite, which are killed, stopped, held and started again."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Program:
    """A Python program under test: `tickloom worker`, the feed, …"""

    def __init__(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str], log: Path, tree: Path = ROOT
    ) -> None:
        """Start it; ``tree``: the directory that its code comes from."""
        self.name = name
        self.log = log
        self.held = False
        self.wanted = True  # False: it was told to end
        self._begun = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                env={**os.environ, **environment, "PYTHONPATH": str(tree)},
                cwd=tree,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the suite, which ends them in order
            )
        self.pid = self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def kill(self) -> None:
        """SIGKILL, as a lost machine."""
        self.wanted = False
        self._process.kill()
        self._process.wait()

    def hold(self) -> None:
        """SIGSTOP."""
        self.held = True
        os.kill(self.pid, signal.SIGSTOP)

    def release(self) -> None:
        """SIGCONT."""
        self.held = False
        os.kill(self.pid, signal.SIGCONT)

    def ask_to_end(self) -> None:
        """SIGTERM."""
        self.wanted = False
        self._process.terminate()

    def is_ready(self) -> bool:
        """Whether it has come so far that it handles signals: before that, SIGTERM just ends it."""
        return "[^Worker]: Starting" in self.log.read_bytes()[self._begun :].decode(errors="replace")

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
