"""`hub connector`: from nothing to a connector that passes the kit, as its author does it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# By form: what is made wrong in it, and how.
FAULT = {
    ".yaml": ("{status: 429, outcome: throttle, wait: [header retry-after, 10s]}", "{status: 403, outcome: refused}"),
    ".py": ("Outcome(OutcomeKind.HELD, ", "Outcome(OutcomeKind.REFUSED, "),
}


def hub(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hub", "--project", str(directory), "connector", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("form", [(), ("--python",)], ids=["yaml", "python"])
def test_a_new_connector_passes_at_once(tmp_path: Path, form: tuple[str, ...]) -> None:
    """And is listed as the project's; with a fault in it the kit says so and exits with 1."""

    made = hub(tmp_path, "new", "my-crm", *form)
    assert (made.returncode, made.stderr) == (0, "")
    file = tmp_path / made.stdout.splitlines()[0]

    tried = hub(tmp_path, "test", "my-crm")
    assert (tried.returncode, tried.stdout.splitlines()[-1].endswith(" passed, 0 failed")) == (0, True), tried.stdout
    listed = [json.loads(line) for line in hub(tmp_path, "list", "--json").stdout.splitlines()]
    assert {one["connector"]: one["from"] for one in listed}["my-crm"] == "project"

    file.write_text(file.read_text().replace(*FAULT[file.suffix]))
    broken = hub(tmp_path, "test", "my-crm")
    assert (broken.returncode, broken.stdout.splitlines()[-1].endswith(", 0 failed")) == (1, False)

    again = hub(tmp_path, "new", "my-crm", *form)
    assert (again.returncode, again.stderr) == (2, "hub: There is a connector 'my-crm' already. Take another name.\n")


def test_a_new_service_passes_its_tests(tmp_path: Path) -> None:
    """Which are its owner's from then on."""

    made = hub(tmp_path, "new", "scoring", "--service")
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "destinations/scoring.yaml").exists()

    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "services/test_scoring.py"]
    tested = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "5 passed" in tested.stdout, tested.stdout
