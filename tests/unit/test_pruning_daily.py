"""`hub run` prunes its store once a day, and outlives a day on which the store is away."""

from pathlib import Path

import pytest

from hub.commands.run import _prune
from hub.project import Project
from hub.store.database import Store


def test_a_store_that_is_away_is_pruned_another_day(caplog: pytest.LogCaptureFixture) -> None:
    """It is said, and nothing ends."""
    store = Store("postgresql+psycopg://hub@127.0.0.1:1/nowhere")

    _prune(store, Project("shop", Path(), {}, {}, {}, {}, ""))

    assert [record.message for record in caplog.records] == ["retention was not applied"]
