"""Copies of the tree in plain Python, to run code that is spoiled on purpose; the tree itself is never touched."""

import shutil
from pathlib import Path

from tests.faults.programs import ROOT

#: What the processes of the suite need.
FOLDERS = ("schemas", "topology", "connectors", "deploy", "tests/faults")


def copy_tree(target: Path) -> None:
    """Copy the code, without what mypyc has compiled."""
    shutil.rmtree(target, ignore_errors=True)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
