"""The locks of roles, on both stores."""

import fcntl
import os
import threading
from pathlib import Path

import pytest

from hub.errors import OutsideError
from hub.locks import hold, owner, owners
from hub.store.database import Store

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
