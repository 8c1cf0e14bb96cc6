"""Row changes without a log: what one commit did to the tables, told from their rows before and after it.

With it `hub.capture` can be judged by the oracle without Debezium, in one process and in a second. A value that is
stored out of line and did not change is left out of an update, as the log leaves it out.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psycopg

from hub.changes import Operation, RowChange
from tests.oracle import values
from tests.oracle.schema import Column, Schema, Table, quote

Row = dict[str, Any]
JSON_TYPES = ("json", "jsonb", "hstore", "jsonb[]")  # their row images are JSON text


@dataclass
class TableChanges:
    connection: psycopg.Connection[Any]
    schema: Schema
    rows: dict[str, dict[str, Row]] = field(default_factory=dict)  # by table, then by primary key

    def since(self, operation: Operation = Operation.INSERT) -> list[RowChange]:
        """What has changed since the last call; `operation` is what a new row is said to come from."""
        before, self.rows = self.rows, {table.name: self._read(table) for table in self.schema.tables}
        return [change for table in self.schema.tables for change in self._changes(table, before, operation)]

    def _read(self, table: Table) -> dict[str, Row]:
        columns = ", ".join(f"({column.type.document(quote(column.name))})::text" for column in table.columns)
        found = self.connection.execute(f"select {columns} from {table.sql}".encode()).fetchall()
        rows = [{c.name: _value(c, v) for c, v in zip(table.columns, row, strict=True)} for row in found]
        return {json.dumps([row[name] for name in table.primary_key]): row for row in rows}

    def _changes(self, table: Table, before: dict[str, dict[str, Row]], operation: Operation) -> Iterator[RowChange]:
        old, new = before.get(table.name, {}), self.rows[table.name]
        name = table.name if "." in table.name else f"public.{table.name}"
        for key in old.keys() - new.keys():
            yield RowChange(name, Operation.DELETE, {column: old[key][column] for column in table.primary_key})
        for key, row in new.items():
            if key not in old:
                yield RowChange(name, operation, row)
            elif row != old[key]:
                yield RowChange(name, Operation.UPDATE, _logged(table, old[key], row))


def _value(column: Column, text: str | None) -> Any:
    return text if text is None or column.type.sql in JSON_TYPES else json.loads(text)


def _logged(table: Table, old: Row, new: Row) -> Row:
    out_of_line = {column.name for column in table.columns if column.type in values.BULK}
    return {name: value for name, value in new.items() if name not in out_of_line or value != old[name]}
