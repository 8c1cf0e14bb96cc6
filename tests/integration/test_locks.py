"""The locks of roles, on both stores."""

import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from hub.errors import OutsideError
from hub.locks import await_turn, hold, owner, owners
from hub.store.database import Store
from tests.integration.conftest import sqlalchemy_url

pytestmark = pytest.mark.integration


def test_a_lock_names_its_owner_until_it_is_released(store: Store) -> None:
    """A second one is refused by that name; roles do not touch each other."""
    lock = hold(store, "capture main/main")
    try:
        named = owners(store, ["capture main/main", "dispatch"])
        assert f"pid {os.getpid()} on " in str(named["capture main/main"])
        assert named["dispatch"] is None
        with pytest.raises(OutsideError, match=f"is running already: pid {os.getpid()} on "):
            hold(store, "capture main/main")
        hold(store, "dispatch").release()
    finally:
        lock.release()

    assert owner(store, "capture main/main") is None


def test_who_looks_for_the_owner_is_not_taken_for_it(tmp_path: Path) -> None:
    """A look holds the file for a moment: a role that starts in that moment gets its lock all the same."""
    store = Store(f"sqlite:///{tmp_path / 'hub.db'}")
    with (tmp_path / "hub.db-dispatch.lock").open("w") as looked_at:
        fcntl.flock(looked_at, fcntl.LOCK_SH)
        end_of_look = threading.Timer(0.05, fcntl.flock, (looked_at, fcntl.LOCK_UN))
        end_of_look.start()
        hold(store, "dispatch").release()
        end_of_look.join()


def test_who_awaits_its_turn_has_the_lock_once_its_owner_has_ended(database: str) -> None:
    """A worker was given a stream whose former one hangs: it works at once, and is named as soon as that has ended."""
    store = Store(sqlalchemy_url(database))
    hanging = hold(store, "capture main/main")
    waiting = await_turn(store, "capture main/main")
    impatient = await_turn(store, "capture main/main")
    impatient.release()  # it has no turn to wait for any more
    assert owner(store, "capture main/main")

    hanging.release()
    end = time.monotonic() + 10
    while not owner(store, "capture main/main"):
        assert time.monotonic() < end
        time.sleep(0.02)
    with pytest.raises(OutsideError, match="is running already"):
        hold(store, "capture main/main")

    waiting.release()
    hold(store, "capture main/main").release()
    store.close()
