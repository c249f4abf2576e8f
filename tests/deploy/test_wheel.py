"""What `pip install .` gives a user: everything that is in the checkout, and it starts."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("connectors", "deploy", "schemas", "topology")
#: Of the checkout only: what is compiled, and caches.
MADE = (".so", ".pyc")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plain wheel, unpacked where pip would put it; built from a copy, as a build leaves files behind."""
    directory = tmp_path_factory.mktemp("wheel")
    copy = directory / "copy"
    for name in (*checkout(), "pyproject.toml", "setup.py", "README.md"):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        ".",
        "./copy",
    ]
    subprocess.run(command, cwd=directory, env=os.environ | {"TICKLOOM_PURE": "1"}, check=True)
    [wheel] = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(directory / "site")
    return directory / "site"


def checkout() -> set[str]:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*")]
    return {str(path.relative_to(ROOT)) for path in files if path.is_file() and not path.name.endswith(MADE)}


def test_the_wheel_holds_all_files(installed: Path) -> None:
    held = {str(path.relative_to(installed)) for package in PACKAGES for path in (installed / package).rglob("*.*")}
    assert held == checkout()


def test_what_is_installed_starts_and_finds_its_data(installed: Path, tmp_path: Path) -> None:
    code = (
        "import schemas, topology.cli; from schemas.instrument import load; from schemas.codec import Codec;"
        "assert load()['EURUSD']; Codec(); print(schemas.__file__); topology.cli.main(['--help'])"
    )
    environment = os.environ | {"PYTHONPATH": str(installed)}
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith(str(installed))
    assert "worker" in found.stdout
