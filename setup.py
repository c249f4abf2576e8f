"""Compile with mypyc what is done for every record, where a C compiler is present; plain Python otherwise.

The same source runs both ways and gives the same bytes; compiled it is about thirty times as fast.
TICKLOOM_PURE=1 leaves it plain.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import setup

CORE = [
    "connectors/archive/file.py",
    "connectors/archive/histdata.py",
    "connectors/archive/lean.py",
    "connectors/archive/merge.py",
    "connectors/archive/number.py",
    "connectors/archive/plain.py",
    "connectors/archive/truefx.py",
    "connectors/runtime/history.py",
    "connectors/runtime/producer.py",
    "schemas/avro.py",
    "schemas/codec.py",
    "schemas/record.py",
    "schemas/topics.py",
    "topology/batch.py",
    "topology/fetched.py",
    "topology/stages/best_price.py",
    "topology/stages/candle.py",
    "topology/stages/dedup.py",
    "topology/stages/feed.py",
    "topology/stages/liveness.py",
    "topology/stages/partition.py",
    "topology/stages/pipeline.py",
    "topology/stages/spike.py",
    "topology/stages/stamp.py",
    "topology/stages/validity.py",
    "topology/storage/rows.py",
    "topology/storage/ticks.py",
    "topology/task.py",
]


def why_not() -> str:
    """Say why nothing can be compiled here; empty: it can."""
    if os.environ.get("TICKLOOM_PURE"):
        return "TICKLOOM_PURE is set"
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    compiler = os.environ.get("CC", compiler)
    if shutil.which(compiler) is None and shutil.which("gcc") is None:
        return f"no C compiler ({compiler}) is installed"
    with tempfile.TemporaryDirectory() as directory:
        source = Path(directory, "probe.c")
        source.write_text("#include <Python.h>\n")
        include = sysconfig.get_paths()["include"]
        command = [shutil.which(compiler) or "gcc", "-fsyntax-only", f"-I{include}", str(source)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return "Python's C headers are not installed"
    return ""


reason = why_not()
if reason:
    print(f"tickloom: the core is not compiled, as {reason}: plain Python, a thirtieth as fast", file=sys.stderr)
    setup()
else:
    from mypyc.build import mypycify

    # The group is named so that the shared library lies in a package, where an editable install finds it too.
    setup(ext_modules=mypycify(CORE, opt_level="2", group_name="topology.core"))
