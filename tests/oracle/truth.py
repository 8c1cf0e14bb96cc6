"""What a document is: one SQL query for each entity, made from the schema and the contract alone."""

import json
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count
from typing import Any

import psycopg

from tests.oracle.entities import Embed, Entity, Node
from tests.oracle.schema import Schema, Table, quote

# The contract's value table is in UTC and ISO, whatever the server's defaults are.
SESSION = "set timezone = 'UTC'; set intervalstyle = 'iso_8601'; set datestyle = 'ISO'; set extra_float_digits = 1"

Documents = dict[str, str]  # a document's JSON text by its key


@dataclass
class _Query:
    schema: Schema
    aliases: "count[int]" = field(default_factory=lambda: count(1))

    def alias(self) -> str:
        return f"t{next(self.aliases)}"


def query(schema: Schema, entity: Entity) -> str:
    """SQL that returns the key, a JSON array of text, and the JSON document of every document there is."""
    building = _Query(schema)
    root = building.alias()
    table = schema.table(entity.node.table)
    key = ", ".join(_value(table, name, root) for name in entity.key)
    document = _object(building, entity.node, root)
    source, condition = f"{table.sql} as {root}", _present(entity.node, root)
    return f"select json_build_array({key})::text, {document}::text from {source} where {condition}"


def documents(connection: psycopg.Connection[Any], schema: Schema, entity: Entity) -> Documents:
    """All documents of an entity, as the connection's transaction sees them. The session is as SESSION sets it."""
    return {key_text(key): document for key, document in connection.execute(query(schema, entity).encode())}


def hidden(connection: psycopg.Connection[Any], schema: Schema, entity: Entity) -> int:
    """How many of the entity's root rows are there and count as absent."""
    table = schema.table(entity.node.table).sql
    found = connection.execute(f"select count(*) from {table} t where not ({_present(entity.node, 't')})".encode())
    row = found.fetchone()
    return int(row[0]) if row else 0


def key_text(array: str) -> str:
    """A document's key: a single one is its plain text, a composite one a JSON array."""
    parts = json.loads(array, parse_float=Decimal)
    return str(parts[0]) if len(parts) == 1 else json.dumps(parts, separators=(",", ":"), ensure_ascii=False)


def _column(name: str, alias: str) -> str:
    return f"{alias}.{quote(name)}"


def _value(table: Table, name: str, alias: str) -> str:
    return table.column(name).type.document(_column(name, alias))


def _object(building: _Query, node: Node, alias: str) -> str:
    table = building.schema.table(node.table)
    pairs = [(field_, _value(table, column, alias)) for column, field_ in node.fields]
    pairs += [(embed.name, _embedded(building, embed, alias)) for embed in node.embeds]
    return f"json_build_object({', '.join(f'{_literal(name)}, {value}' for name, value in pairs)})"


def _embedded(building: _Query, embed: Embed, parent: str) -> str:
    child = building.alias()
    table = building.schema.table(embed.node.table)
    document = _object(building, embed.node, child)
    source, condition = _joined(building, embed, parent, child)
    condition = f"{condition} and {_present(embed.node, child)}"
    order = ", ".join(_order(table, name, child) for name in (*embed.order_by, *table.primary_key))
    if embed.kind in ("belongs_to", "has_one"):
        return f"(select {document} from {source} where {condition} order by {order} limit 1)"
    return f"coalesce((select json_agg({document} order by {order}) from {source} where {condition}), '[]'::json)"


def _joined(building: _Query, embed: Embed, parent: str, child: str) -> tuple[str, str]:
    """What to select the child from, and on which condition."""
    key = embed.foreign_key
    table = f"{building.schema.table(embed.node.table).sql} as {child}"
    if embed.kind == "belongs_to":
        return table, _equal(key.columns, parent, key.references, child)
    if embed.related is None:
        return table, _equal(key.columns, child, key.references, parent)
    link = building.alias()
    on = _equal(embed.related.columns, link, embed.related.references, child)
    between = f"{building.schema.table(embed.link).sql} as {link}"
    return f"{table} join {between} on {on}", _equal(key.columns, link, key.references, parent)


def _equal(left: tuple[str, ...], left_alias: str, right: tuple[str, ...], right_alias: str) -> str:
    pairs = zip(left, right, strict=True)
    return " and ".join(f"{_column(one, left_alias)} = {_column(other, right_alias)}" for one, other in pairs)


def _present(node: Node, alias: str) -> str:
    return f"{_column(node.soft_delete, alias)} is null" if node.soft_delete else "true"


def _order(table: Table, name: str, alias: str) -> str:
    collate = ' collate "C"' if table.column(name).type.textual else ""
    return f"{_column(name, alias)}{collate} asc nulls last"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
