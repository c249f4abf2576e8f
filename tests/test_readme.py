"""What README.md shows is true: its Python runs, its files exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_driver_example_runs() -> None:
    [example] = [block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "TopologyDriver" in block]
    exec(compile(example, "README.md", "exec"), {})


def test_every_link_and_named_test_exists() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    tests = re.findall(r"`(tests/[\w/]+(?:\.py)?/?)`", README)
    assert len(links) > 5
    for name in [*links, *tests]:
        assert (ROOT / name).exists(), name


def test_the_way_of_a_tick_names_files_that_exist() -> None:
    table = (ROOT / "docs" / "how-a-tick-flows.md").read_text()
    for name in re.findall(r"`((?:connectors|topology|schemas)/[\w/.]+)`", table):
        assert (ROOT / name).exists(), name
