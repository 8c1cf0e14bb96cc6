"""What the containers are given is what the commands print."""

import os
import subprocess
import sys

import psycopg
import pytest

from stack.settings import ROOT

pytestmark = pytest.mark.integration

EXAMPLE = ROOT / "examples" / "conference"


def test_the_dbas_sql_is_what_the_command_prints(pypi_database: str) -> None:
    """examples/conference/source.sql, which the example's database begins with, follows the project."""
    with psycopg.connect(pypi_database) as owner:
        owner.execute((EXAMPLE / "schema.sql").read_bytes())
    environ = {
        "LEGACY_URL": "postgresql://hub:secret@legacy-db:5432/conference",
        "HUB_STORE": "postgresql+psycopg://hub:secret@store:5432/hub",
        "KAFKA_BOOTSTRAP": "kafka:9092",
        "KAFKA_CONNECT": "http://connect:8083",
        "RECEIVER_URL": "http://receiver:8091",
        "WEBHOOK_SECRET": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    }
    command = [sys.executable, "-m", "hub", "--project", str(EXAMPLE / "distributed"), "source", "sql"]
    printed = subprocess.run(
        [*command, "--url", pypi_database], env=os.environ | environ, capture_output=True, text=True, check=False
    )

    assert printed.returncode == 0, printed.stderr
    assert printed.stdout == (EXAMPLE / "source.sql").read_text()
