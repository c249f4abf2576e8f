"""Who may import whom: connectors -> schemas <- topology, and the stages know neither Faust nor clocks."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {"schemas": {"schemas"}, "connectors": {"connectors", "schemas"}, "topology/stages": {"schemas", "topology"}}
OURS = {"schemas", "connectors", "topology", "deploy", "tests"}


@pytest.mark.parametrize("layer", ALLOWED)
def test_a_layer_imports_only_what_it_may(layer: str) -> None:
    for path in (ROOT / layer).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                top = name.split(".")[0]
                assert top not in OURS or top in ALLOWED[layer], f"{path} imports {name}"
                if layer == "topology/stages" and top == "topology":
                    assert name.startswith("topology.stages"), f"{path} imports {name}"


def test_the_stages_run_without_faust_kafka_or_an_event_loop() -> None:
    code = "import sys, topology.stages.partition\nprint(*sys.modules)"
    listed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(listed.stdout.split())
    assert not loaded & {"faust", "aiokafka", "confluent_kafka", "asyncio", "psycopg", "aiohttp"}


@pytest.mark.parametrize("path", sorted((ROOT / "topology" / "stages").glob("*.py")), ids=lambda path: path.name)
def test_no_stage_reads_a_clock_or_chance(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
            assert not set(modules) & {"time", "random", "logging", "os", "asyncio"}, path
        if isinstance(node, ast.Attribute):
            assert node.attr not in ("now", "utcnow", "today") or path.name != "calendar.py", path
