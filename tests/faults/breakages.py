"""Deliberate breakages: each takes away one thing that the promise rests on, and must make a scenario fail.

They are applied to a copy of the tree in plain Python (copies.py), never to the tree itself. A window that is a few
milliseconds wide in the real code is made wider here, so that a few faults are enough to fall into it: what is shown
is that the suite sees the damage. A pattern that is not found in the code exactly once is an error: who changes that
code says here what the breakage is now.
"""

from pathlib import Path
from typing import Final

import msgspec

SLOWLY: Final = {"TICKLOOM_COMMIT_SECONDS": "2"}  # a crash finds something that is not committed


class BreakageError(Exception):
    """A breakage can't be applied: the code it changes is not there any more."""


class Edit(msgspec.Struct, frozen=True):
    """Replace a text, which stands in the file exactly once."""

    path: str
    old: str
    new: str


class Breakage(msgspec.Struct, frozen=True):
    """What is broken, and the scenario that must notice."""

    name: str
    why: str
    edits: tuple[Edit, ...]
    scenario: str
    delivery: str = "exactly_once"
    environment: dict[str, str] = {}

    def apply(self, tree: Path) -> None:
        """Edit a copy. Raises BreakageError."""
        for edit in self.edits:
            path = tree / edit.path
            text = path.read_text()
            if text.count(edit.old) != 1:
                raise BreakageError(
                    f"{self.name}: {edit.path} has {text.count(edit.old)} times, not once, the text\n{edit.old}"
                )
            path.write_text(text.replace(edit.old, edit.new))


NO_GUARD: Final = (
    Edit("topology/stages/partition.py", '        if offset <= self.offset:\n            return ""\n', ""),
    Edit("topology/stages/partition.py", '        if offset <= symbol.offset:\n            return ""\n', ""),
)

ACK_BATCH: Final = "            for taken in batch:\n                taken.event.ack()\n"

BREAKAGES: Final = (
    Breakage("no guard", "what the state has applied is applied again", NO_GUARD, "kill", environment=SLOWLY),
    Breakage(
        "no guard, at least once",
        "what the state has applied is applied again",
        NO_GUARD,
        "kill",
        "at_least_once",
        SLOWLY,
    ),
    Breakage(
        "no going back",
        "what the saved states lack is not worked into them again",
        (
            Edit(
                "topology/app.py",
                "return self.tickloom.restart(tp.partition) if tp.topic == self.tickloom.raw else None",
                "return None",
            ),
        ),
        "kill",
    ),
    Breakage(
        "outputs twice",
        "what was delivered before the crash is made again",
        (Edit("topology/task.py", "if offset > self.delivered:\n", "if offset > -1:\n"),),
        "kill",
    ),
    Breakage(
        "state outside the transaction",
        "the state is durable while the outputs it stands for are undone",
        (
            Edit(
                "topology/delivery.py",
                "        ends = await self._deliver(made)\n"
                "        if commits and self._transactional:\n"
                "            await self._producers[0].commit_transaction()\n"
                "            self._producers.rotate()\n"
                "            self._open = False\n",
                "        ends = await self._deliver([each for each in made if each[0] == self._changelog])\n"
                "        if commits and self._transactional:\n"
                "            await self._producers[0].commit_transaction()\n"
                "            self._producers.rotate()\n"
                "            self._open = False\n"
                "        await self._deliver([each for each in made if each[0] != self._changelog])\n",
            ),
        ),
        "kill",
    ),
    Breakage(
        "state before outputs, at least once",
        "the state is durable before the outputs it stands for are",
        (
            Edit(
                "topology/delivery.py",
                "                await self._deliver(made)\n                self._delivered = commits\n",
                "                for commit in commits:\n"
                "                    early = Records()\n"
                "                    for key, value in commit.state:\n"
                "                        early.add(key, value, self._headers)\n"
                "                    await self._deliver([(self._changelog, commit.lane.task.number, early)])\n"
                "                await asyncio.sleep(0.5)\n"
                "                await self._deliver(made)\n"
                "                self._delivered = commits\n",
            ),
        ),
        "kill",
        "at_least_once",
    ),
    Breakage(
        "given up before the markers",
        "who comes next can't see yet what was committed, and makes it again",
        (
            Edit(
                "topology/agents.py",
                "                await _stop(await self._fence(self._id))\n",
                "                await asyncio.sleep(0)\n",
            ),
        ),
        "markers",
    ),
    Breakage(
        "no fencing",
        "a worker that stood still commits what another has done meanwhile",
        (
            Edit(
                "topology/agents.py",
                "        await _stop(await self._fence(other))\n",
                "        await asyncio.sleep(0)\n",
            ),
        ),
        "zombie",
    ),
    Breakage(
        "sink: offsets before rows",
        "the database says that it has what it has not",
        (
            Edit(
                "topology/storage/writer.py",
                "            async with connection.transaction():\n"
                "                await self._copy(connection, blocks)\n",
                "            early = [list(each) for each in zip(*offsets, strict=True)] or [[], []]\n"
                "            await connection.execute(\n"
                "                _PUT_OFFSETS, [self._run, self._group, *early, [*offsets.values()]]\n"
                "            )\n"
                "            async with connection.transaction():\n"
                "                await self._copy(connection, blocks)\n",
            ),
        ),
        "sink",
    ),
    Breakage(
        "sink: ack before commit",
        "the group says that the database has what it has not, and nobody sees that or sets it back",
        (
            Edit(
                "topology/sink.py",
                ACK_BATCH,
                "",
            ),
            Edit(
                "topology/sink.py",
                "            await self._commit(batch)\n",
                f"{ACK_BATCH}            await self._commit(batch)\n",
            ),
            Edit("topology/storage/resume.py", "        _set_back(client, settings.run, connection)\n", ""),
            Edit("topology/sink.py", "            if (topic, number) not in empty:\n", "            if False:\n"),
        ),
        "sink",
    ),
)
