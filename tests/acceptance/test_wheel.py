"""The wheel has all that the command needs besides Python code."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("hub", "cdc", "connectors", "migrations", "examples")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built in a copy, so that nothing is left in the checkout."""
    directory = tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, directory / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, directory)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", "dist", "."]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if "No matching distribution found for setuptools" in done.stderr and not os.environ.get("CI"):
        pytest.skip("pip cannot fetch setuptools, so no wheel can be built")
    assert done.returncode == 0, done.stderr
    (built,) = (directory / "dist").glob("*.whl")
    return zipfile.ZipFile(built)


def test_every_file_of_the_packages_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    """Migrations, the converter's source, the example's project and its SQL; a new kind of file is not forgotten."""
    source = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file()
        and path.suffix not in (".pyc", ".sh", ".jar")
        and not {"__pycache__", "var"} & set(path.parts)
    }

    assert sorted(source - set(wheel.namelist())) == []
    assert "cdc/java/hub/DocumentValues.java" in source


def test_nothing_else_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    """No tests, no benchmarks."""
    tops = {name.split("/")[0] for name in wheel.namelist() if ".dist-info" not in name}
    assert tops == set(PACKAGES)
