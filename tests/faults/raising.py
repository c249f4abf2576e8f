"""`tickloom` with a stage that raises at a magic record; only in a copy in plain Python (copies.py).

python -m tests.faults.raising worker                       the worker
python -m tests.faults.raising compare SUBJECT ANSWER       the comparison, with the same stage
"""

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

MAGIC = 666_666_666  # bid_size of a quote


def spoil() -> None:
    """Make the spike stage raise. The stages before it have run, and changed their state."""
    from topology.stages.pipeline import Symbol

    whole = Symbol._judge

    def judge(self: Any, feed: Any, tick: Any, *arguments: Any) -> None:
        if getattr(tick, "bid_size", 0) == MAGIC:
            raise RuntimeError("a defect of a stage, made by the fault suite")
        whole(self, feed, tick, *arguments)

    Symbol._judge = judge  # type: ignore[method-assign]


def compare(asked: Path, answer: Path) -> None:
    """Compare a run; beside the answer, the dead letters by reason."""
    from schemas import topics
    from schemas.instrument import load
    from tests.faults import log
    from tests.faults.compare import Subject
    from tests.faults.compare import compare as compare_run

    given = json.loads(asked.read_text())
    given["subject"]["instruments"] = load(Path(given["subject"]["instruments"]))
    subject = Subject(**given["subject"])
    digests = {int(number): text for number, text in given["digests"].items()}
    answer.write_bytes(msgspec.json.encode(compare_run(subject, digests)))
    reasons: dict[str, int] = {}
    for number in range(subject.partitions):
        for record in log.read(subject.broker, topics.named(topics.DEAD_LETTER.name, subject.run), number):
            reason = dict(record.headers)["reason"].decode()
            reasons[reason] = reasons.get(reason, 0) + 1
    answer.with_name(f"{answer.name}.reasons").write_text(json.dumps(reasons))


def main() -> None:
    """Be one of the two."""
    import topology.stages.pipeline as stage

    if not str(stage.__file__).endswith(".py"):
        sys.exit(f"{stage.__file__} is compiled: this needs plain Python")
    spoil()
    if sys.argv[1] == "compare":
        compare(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    from topology.cli import main as tickloom

    tickloom(prog_name="tickloom")


if __name__ == "__main__":
    main()
