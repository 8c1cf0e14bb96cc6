"""`python -m migrations MESSAGE` drafts the next migration: what hub/store/tables.py has and the migrations have not.

The draft is to be read and corrected before it is committed: a renamed column, for one, is drafted as a loss.
"""

import sys
import tempfile
from pathlib import Path

from alembic import command

from hub.store.database import Store
from hub.store.migrate import alembic_config, revisions, upgrade


def draft(message: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        store = Store(f"sqlite:///{Path(directory) / 'draft.db'}")
        if revisions():
            upgrade(store)
        with store.write() as connection:
            command.revision(
                alembic_config(connection), message, autogenerate=True, rev_id=f"{len(revisions()) + 1:04}"
            )
        store.close()


if __name__ == "__main__":
    draft(" ".join(sys.argv[1:]) or sys.exit("usage: python -m migrations MESSAGE"))
