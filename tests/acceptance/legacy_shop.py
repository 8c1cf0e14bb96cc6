"""A small legacy application and the project that follows it, to make mistakes with."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from tests.oracle.command import HUB, Project

SCHEMA = """
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL);
CREATE TABLE orders (id int PRIMARY KEY, customer_id int REFERENCES customers, status text);
CREATE TABLE products (id int PRIMARY KEY, sku text, price numeric, weight int);
CREATE TABLE events (id int, what text);
INSERT INTO customers VALUES (1, 'Ann'), (2, 'Bob');
INSERT INTO orders VALUES (1, 1, 'new'), (2, 2, 'new');
INSERT INTO products VALUES (1, 'P1', 1.50, 5);
"""


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def open_shop(url: str, slot: str) -> None:
    """The schema, and a publication that leaves one column out."""
    tables = "customers, orders, products (id, sku, price)"
    execute(url, SCHEMA, f"CREATE PUBLICATION {slot} FOR TABLE {tables}")


class Shop:
    """A hub project that follows the application at `url`, and what it delivers to a file."""

    def __init__(self, directory: Path, url: str, slot: str, store: Path | None = None) -> None:
        directory.mkdir(exist_ok=True)
        self.path = store or directory / "hub.db"
        self.project = Project(directory, f"sqlite:///{self.path}")
        self.delivered = directory / "delivered.jsonl"
        self.point_to(url, slot)
        self.write(
            {
                "entities/order.yaml": "entity: order\ntable: orders\n"
                "belongs_to: {customer: {table: customers, foreign_key: customer_id}}\n",
                "entities/product.yaml": "entity: product\ntable: products\ncolumns: {exclude: [weight]}\n",
                "destinations/out.yaml": f"destination: out\nconnector: file\npath: {self.delivered}\n",
                "subscriptions/orders.yaml": "subscription: orders\nentity: order\nto: out\n",
                "subscriptions/products.yaml": "subscription: products\nentity: product\nto: out\n",
            }
        )

    def point_to(self, url: str, slot: str) -> None:
        settings = {
            "hub": "shop",
            "sources": {"main": {"url": url, "slot": slot}},
            "store": self.project.store,
            "console": {"listen": "127.0.0.1:0"},
            "network": {"allow": ["localhost"]},
        }
        self.write({"hub.yaml": json.dumps(settings)})

    def write(self, files: dict[str, str]) -> None:
        self.project.write(files)

    def says(self, *arguments: str, ends_with: int) -> str:
        """All that a command prints, which is no traceback."""
        command = [str(HUB), "--project", str(self.project.directory), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        said: str = done.stdout + done.stderr
        assert done.returncode == ends_with, f"{arguments} ended with {done.returncode}\n{said}"
        assert "Traceback" not in said
        return said

    def documents(self, entity: str) -> dict[str, Any]:
        """By key, the newest documents in the journal."""
        listed = self.project.hub("documents", "list", entity, "--json").splitlines()
        return {(one := json.loads(line))["key"]: one["document"] for line in listed}

    def deliveries(self) -> list[Any]:
        if not self.delivered.exists():
            return []
        return [json.loads(line) for line in self.delivered.read_text("utf-8").splitlines()]

    def got(self, **fields: Any) -> Callable[[], bool]:
        """Whether a document with these fields has been delivered."""

        def look() -> bool:
            documents = [one["body"]["data"]["document"] or {} for one in self.deliveries()]
            return any(fields.items() <= document.items() for document in documents)

        return look
