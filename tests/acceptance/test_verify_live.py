"""`hub verify` against a live database that `hub run` has followed."""

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import sqlalchemy as sa

from hub.store import tables
from hub.store.database import Store

PROJECT = {
    "hub.yaml": "hub: shop\nsources: {main: {url: '${SOURCE}', slot: ${SLOT}}}\nstore: sqlite:///hub.db\n",
    "entities/order.yaml": "entity: order\ntable: public.orders\n"
    "has_many:\n  lines: {table: public.lines, foreign_key: order_id}\n",
}


def _hub(directory: Path, source: str, *arguments: str, ends_with: int) -> str:
    environment = os.environ | {"SOURCE": source, "SLOT": "verify_live"}
    command = [sys.executable, "-m", "hub", "--project", str(directory), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == ends_with, f"{arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def test_verify_finds_one_value_changed_by_hand(database: str, tmp_path: Path) -> None:
    """And nothing before; a hub that is behind says so instead."""
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with psycopg.connect(database, autocommit=True) as source:
        source.execute("CREATE TABLE orders (id int PRIMARY KEY, total numeric)")
        source.execute("CREATE TABLE lines (id int PRIMARY KEY, order_id int REFERENCES orders, sku text)")
        source.execute("INSERT INTO orders SELECT g, g FROM generate_series(1, 30) g")
        source.execute("INSERT INTO lines SELECT g, g, 'a' FROM generate_series(1, 30) g")
        source.execute("CREATE PUBLICATION verify_live FOR TABLE orders, lines")

        _hub(tmp_path, database, "run", "--until-idle", ends_with=0)
        assert "30 documents compared, no difference" in _hub(tmp_path, database, "verify", ends_with=0)

        source.execute("UPDATE lines SET order_id = 8, sku = 'b' WHERE id = 7")
        assert "has not stored all" in _hub(tmp_path, database, "verify", ends_with=3)

        _hub(tmp_path, database, "run", "--until-idle", ends_with=0)
        _hub(tmp_path, database, "verify", "order", "--sample", "5", ends_with=0)

    _change_by_hand(Store(f"sqlite:///{tmp_path / 'hub.db'}"))
    assert "  9: differs\n    total" in _hub(tmp_path, database, "verify", ends_with=1)


def _change_by_hand(store: Store) -> None:
    nine = tables.document.c.key == "9"
    with store.write() as connection:
        body = connection.execute(sa.select(tables.document.c.body).where(nine)).scalar_one()
        changed = body.replace(b'"total":"9"', b'"total":"9.0"')
        assert changed != body
        connection.execute(tables.document.update().where(nine).values(body=changed))
    store.close()
