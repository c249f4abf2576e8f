"""Which member of the group a worker in this directory was, for the next one there to sign it off.

Kafka waits a session timeout for a killed member before its partitions go to others, also when the worker has long been
started again. So a worker writes down the name that Kafka gave it, and one that starts in the same directory leaves the
group in that name. The lock on the file is held by the living worker, also while it stands still: it is never signed
off by another.
"""

import fcntl
import logging
import os
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)


class Membership:
    """The file, and the lock on it for the life of the process."""

    def __init__(self, directory: Path) -> None:
        """Read it. Where a living worker has it, there is nothing to read and nothing will be written."""
        self.former = ""  # the member that has died; "": none, or it lives
        self._file = (directory / "member").open("a+b", buffering=0)
        os.set_inheritable(self._file.fileno(), False)
        self._owned = False
        with suppress(BlockingIOError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._owned = True
            self._file.seek(0)
            self.former = self._file.read().decode(errors="replace").strip()
        if not self._owned:
            log.warning("%s is used by another worker: give each its own TICKLOOM_DATA", directory)

    def close(self) -> None:
        """Let go."""
        self._file.close()

    def remember(self, member: str) -> None:
        """Write down the name of this worker; empty: it has left the group."""
        if not self._owned:
            return
        try:
            self._file.truncate(0)
            self._file.write(member.encode())
        except OSError as error:  # a full disk: the group waits for a killed worker then, that is all
            log.warning("%s can't be written: %s", self._file.name, error)
