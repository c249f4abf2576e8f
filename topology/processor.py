"""What a pipeline must offer to run on our lanes: `topology/task.py` is ours, `bench/peers/work.py` another.

One object for each partition, from assignment to revocation. It is plain code without Kafka, and what it does must
follow from the records and the state alone: after a crash records come again, and must give the same outputs.
"""

from typing import Any, Protocol

from topology.batch import Records


class Processor(Protocol):
    """The work of one partition."""

    @property
    def number(self) -> int:
        """The partition."""

    @property
    def offset(self) -> int:
        """Of the last record processed; -1: none."""

    @property
    def waiting(self) -> int:
        """How many outputs were made and not taken."""

    @property
    def unsaved(self) -> int:
        """How many states have changed since they were saved."""

    def process(self, records: list[Any]) -> None:
        """Apply fetched records (`topology.fetched.Fetched`) in their order, but for those that the state has applied.

        Those after the state that were processed before a crash change the state again, and nothing is made of them:
        it was delivered. An exception ends the worker.
        """

    def take(self) -> list[Records]:
        """Hand over the outputs made since the last time, by topic in the order of those that `Tasks` was given."""

    def save(self, share: float) -> list[tuple[bytes, bytes]]:
        """Part of what has changed since it was saved, as (key, value) for the changelog; all of it for a share of 1.

        A value begins with the offset that it has applied (eight bytes, big-endian): of two of a key the higher one
        stands. The last of them is the partition's own: its key is `#` and the number, its offset the one reached;
        then come a byte, the version (`pipeline.VERSION`), and the offset up to which what has been saved so far is
        complete: there a restart begins.
        """

    def states(self) -> list[tuple[bytes, bytes]]:
        """All states but the partition's own, as they are saved; nothing is unsaved."""

    def load(self, key: bytes, value: bytes) -> None:
        """Take over one saved record, before the first call of `process`."""
