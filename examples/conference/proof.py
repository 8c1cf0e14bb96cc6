"""What the documents must be, said a second time: by plain SQL over the legacy schema, written by hand.

It shares nothing with the hub, neither its entities' YAML nor the code of `hub verify`.
"""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import psycopg

ORDERS = """
select 'order', o.id::text, json_build_object(
    'id', o.id, 'reference', o.reference::text, 'attendee_id', o.attendee_id, 'status', o.status::text,
    'total', o.total::text, 'currency', rtrim(o.currency::text), 'billing_address', o.billing_address,
    'placed_at', to_json(o.placed_at at time zone 'UTC') #>> '{}' || 'Z',
    'paid_at', to_json(o.paid_at at time zone 'UTC') #>> '{}' || 'Z',
    'customer', (
        select json_build_object(
            'id', a.id, 'name', a.name, 'email', a.email, 'company_id', a.company_id,
            'company', (
                select json_build_object('id', c.id, 'name', c.name, 'country', rtrim(c.country::text))
                  from companies c where c.id = a.company_id))
          from attendees a where a.id = o.attendee_id and a.deleted_at is null),
    'lines', (
        select coalesce(json_agg(json_build_object(
            'id', l.id, 'order_id', l.order_id, 'line_number', l.line_number, 'session_id', l.session_id,
            'quantity', l.quantity, 'unit_price', l.unit_price::text,
            'session', json_build_object('id', s.id, 'code', s.code, 'title', s.title, 'kind', s.kind::text)
        ) order by l.line_number, l.id), '[]')
          from order_lines l join sessions s on s.id = l.session_id where l.order_id = o.id),
    'invoice', (
        select json_build_object(
            'id', i.id, 'order_id', i.order_id, 'number', i.number, 'amount', i.amount::text,
            'issued_on', i.issued_on::text)
          from invoices i where i.order_id = o.id),
    'tags', (
        select coalesce(json_agg(json_build_object('id', t.id, 'name', t.name) order by t.id), '[]')
          from order_tags r join tags t on t.id = r.tag_id where r.order_id = o.id)
)::text from orders o
"""

ATTENDEES = """
select 'attendee', a.id::text, json_build_object(
    'id', a.id, 'company_id', a.company_id, 'name', a.name, 'email', a.email, 'newsletter', a.newsletter,
    'interests', a.interests, 'preferences', a.preferences, 'born_on', a.born_on::text,
    'created_at', to_json(a.created_at at time zone 'UTC') #>> '{}' || 'Z', 'deleted_at', null,
    'company', (
        select json_build_object('id', c.id, 'name', c.name, 'country', rtrim(c.country::text))
          from companies c where c.id = a.company_id),
    'registrations', (
        select coalesce(json_agg(json_build_object(
            'id', r.id, 'attendee_id', r.attendee_id, 'session_id', r.session_id, 'checked_in', r.checked_in,
            'registered_at', to_json(r.registered_at at time zone 'UTC') #>> '{}' || 'Z',
            'session', json_build_object(
                'id', s.id, 'code', s.code, 'title', s.title,
                'starts_at', to_json(s.starts_at at time zone 'UTC') #>> '{}' || 'Z')
        ) order by r.registered_at, r.id), '[]')
          from registrations r join sessions s on s.id = r.session_id where r.attendee_id = a.id)
)::text from attendees a where a.deleted_at is null
"""

SESSIONS = """
select 'session', s.id::text, json_build_object(
    'id', s.id, 'code', s.code, 'title', s.title, 'kind', s.kind::text, 'room', s.room,
    'starts_at', to_json(s.starts_at at time zone 'UTC') #>> '{}' || 'Z',
    'duration', s.duration::text, 'capacity', s.capacity, 'price', s.price::text,
    'speakers', (
        select coalesce(json_agg(
            json_build_object('id', p.id, 'name', p.name, 'biography', p.biography) order by p.id), '[]')
          from session_speakers r join speakers p on p.id = r.speaker_id where r.session_id = s.id)
)::text from sessions s
"""

Documents = Mapping[tuple[str, str], Any]  # by entity and key: the document's tree


def wanted(url: str) -> Documents:
    """Every document as the source has it now."""
    with psycopg.connect(url, options="-c intervalstyle=iso_8601 -c default_transaction_read_only=on") as connection:
        rows = [row for sql in (ORDERS, ATTENDEES, SESSIONS) for row in connection.execute(sql)]
    return {(entity, key): json.loads(text, parse_float=Decimal) for entity, key, text in rows}


def differences(found: Documents, wanted: Documents) -> list[str]:
    """One sentence for each document that is not what SQL says; a document that is None counts as absent."""
    present = {name: tree for name, tree in found.items() if tree is not None}
    return [
        _difference(" ".join(name), present.get(name), wanted.get(name))
        for name in sorted(present.keys() | wanted.keys())
        if present.get(name) != wanted.get(name)
    ]


def _difference(name: str, found: Any, wanted: Any) -> str:
    if found is None:
        return f"{name} is in the source and has no document."
    if wanted is None:
        return f"{name} has a document and is not in the source."
    fields = sorted(field for field in found.keys() | wanted.keys() if found.get(field) != wanted.get(field))
    first = fields[0] if fields else ""
    return f"{name} differs in {', '.join(fields)}: {found.get(first)!r}, and SQL says {wanted.get(first)!r}."
