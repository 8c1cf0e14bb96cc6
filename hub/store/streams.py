"""A stream's place in the store: how far it has come, its snapshot run, its pending fan-outs and its spool."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from hub.catalogue import Catalogue
from hub.changes import NO_CURSOR, Commit, RowChange, TakenOver
from hub.documents import Cause
from hub.store.database import Store, now
from hub.store.images import statements, write_many
from hub.store.tables import (
    CAUSES,
    document,
    fan_out,
    fan_out_item,
    row_image,
    row_reference,
    spool,
    stream,
    table_state,
)
from hub.store.tables import name as names

SNAPSHOT = "snapshot"  # a snapshot is being taken, or was cut short
STREAMING = "streaming"
RESNAPSHOT = "resnapshot"  # an operator, a lost slot or a gap asked for a new snapshot
EVERY = (-1, "")  # the fan-out item that means every document of the entity

_decode_changes = msgspec.json.Decoder(list[RowChange]).decode


class Held(msgspec.Struct, frozen=True):
    """One entity in a stream."""

    definition: object  # as of the stream's snapshot
    made: bool = False  # documents of it have been made, here or in another stream before
    gone: bool = False  # it is in another stream since, or in none: this one makes no version of it any more


class StreamState(msgspec.Struct, frozen=True):
    id: int
    name: str  # "source/stream"
    position: int  # commit LSN of the last transaction applied, or spooled whole
    state: str  # SNAPSHOT, STREAMING or RESNAPSHOT
    run: int  # number of the snapshot run that rows are written with; 0: none yet
    catalogue: Catalogue
    entities: dict[str, Held]  # by name: those that it makes, and those that it has made
    problem: str  # why it stands still; "" when it does not
    seen_at: int
    imaged: int | None  # the images of tables that the journal holds are as of this document; None: as of now
    cursor: int  # where reading goes on in a topic, or NO_CURSOR
    epoch: int  # of the process that has the stream

    def holds(self) -> dict[str, object]:
        """Definitions, as of the stream's snapshot, of the entities that it makes versions of."""
        return {name: held.definition for name, held in self.entities.items() if not held.gone}


_decode_entities = msgspec.json.Decoder(dict[str, Held]).decode


class FanOut(msgspec.Struct, frozen=True):
    """Documents that are still to be made, because of one commit."""

    id: int
    commit: Commit
    cause: Cause
    spooled: bool  # row changes in the spool come first
    made: int


class FanOutItem(msgspec.Struct, frozen=True):
    entity_id: int
    node: int
    key: str
    cursor: str | None


class Place(msgspec.Struct, frozen=True):
    """How far a fan-out's items have been gone through."""

    entity_id: int
    node: int
    after: str | None = None  # the last key that is done; None: none is


def load_stream(store: Store, name: str) -> StreamState | None:
    found = _load(store, names.c.name == name)
    return found[0] if found else None


def load_streams(store: Store) -> list[StreamState]:
    """All that the store knows, those included that the project has no more."""
    return _load(store, sa.true())


def _load(store: Store, wanted: sa.ColumnElement[bool]) -> list[StreamState]:
    query = sa.select(names.c.name, stream).join(names, names.c.id == stream.c.stream_id).where(wanted)
    with store.read() as connection:
        return [_state(row) for row in connection.execute(query.order_by(names.c.name)).mappings()]


def _state(row: sa.RowMapping) -> StreamState:
    return StreamState(
        id=row["stream_id"],
        name=row["name"],
        position=row["position"],
        state=row["state"],
        run=row["run"],
        catalogue=msgspec.json.decode(row["catalogue"], type=Catalogue),
        entities=_decode_entities(row["entities"]),
        problem=row["problem"],
        seen_at=row["seen_at"],
        imaged=row["imaged"],
        cursor=row["cursor"],
        epoch=row["epoch"],
    )


def begin_snapshot(
    store: Store, name: str, catalogue: Catalogue, entities: Mapping[str, object], cursor: int = NO_CURSOR
) -> StreamState:
    """Number a new run; what a run before it left in the spool or pending is void.

    `cursor`: where the snapshot's records begin, in a topic. TakenOver when another process takes the stream meanwhile.
    """
    id = store.name_id("stream", name)
    before = load_stream(store, name)
    held = _held(load_streams(store), before, entities)
    values = {
        "position": before.position if before else 0,
        "state": SNAPSHOT,
        "run": (before.run if before else 0) + 1,
        "catalogue": msgspec.json.encode(catalogue),
        "entities": msgspec.json.encode(held),
        "problem": "",
        "seen_at": now(),
        "imaged": None,  # the snapshot brings them all
        "cursor": cursor,
        "epoch": (before.epoch if before else 0) + 1,
    }
    with store.write() as connection:
        if before:
            mine = sa.and_(stream.c.stream_id == id, stream.c.epoch == before.epoch)
            if not connection.execute(stream.update().where(mine).values(values)).rowcount:
                raise TakenOver(name)
        else:
            try:
                connection.execute(stream.insert().values(stream_id=id, **values))
            except IntegrityError:
                raise TakenOver(name) from None
        _void(connection, id)
    state = load_stream(store, name)
    assert state is not None
    return state


def _held(known: Iterable[StreamState], before: StreamState | None, entities: Mapping[str, object]) -> dict[str, Held]:
    """What a stream holds from a snapshot of `entities` on; the others that it held are gone."""
    made = {name for state in known for name, held in state.entities.items() if held.made}
    gone = {
        name: msgspec.structs.replace(held, gone=True) for name, held in (before.entities if before else {}).items()
    }
    return gone | {name: Held(definition, name in made) for name, definition in entities.items()}


def _void(connection: sa.Connection, stream_id: int) -> None:
    """Forget what is pending."""
    mine = sa.select(fan_out.c.id).where(fan_out.c.stream_id == stream_id)
    connection.execute(fan_out_item.delete().where(fan_out_item.c.fan_out_id.in_(mine)))
    connection.execute(fan_out.delete().where(fan_out.c.stream_id == stream_id))
    connection.execute(spool.delete().where(spool.c.stream_id == stream_id))


def restart_snapshot(connection: sa.Connection, stream_id: int, run: int) -> None:
    """The source begins a snapshot by itself, which is the run of this number."""
    values = {"state": SNAPSHOT, "run": run, "imaged": None}
    connection.execute(stream.update().where(stream.c.stream_id == stream_id).values(values))
    _void(connection, stream_id)


def take_over(store: Store, state: StreamState) -> StreamState:
    """Have the stream: who had it before can write no more. TakenOver when another process was faster."""
    with store.write() as connection:
        mine = sa.and_(stream.c.stream_id == state.id, stream.c.epoch == state.epoch)
        taken = connection.execute(stream.update().where(mine).values(epoch=state.epoch + 1)).rowcount
    if not taken:
        raise TakenOver(state.name)
    found = load_stream(store, state.name)
    assert found is not None
    return found


def take_entities(store: Store, name: str, entities: Collection[str]) -> None:
    """See to it that no stream but `name` makes versions of these any more, whoever runs it by which project.

    A process that does cannot write from here on. What it had pending of them is void: the one that takes them
    compares them whole.
    """
    with store.write() as connection:
        query = sa.select(names.c.name, stream).join(names, names.c.id == stream.c.stream_id)
        rows = connection.execute(query.order_by(stream.c.stream_id).with_for_update(of=stream)).mappings().all()
        for state in map(_state, rows):
            if state.name != name:
                _give_up(connection, state, entities)


def give_up_entities(store: Store, state: StreamState, entities: Collection[str]) -> None:
    """See to it that the stream makes no version of these any more. TakenOver when another process has it since."""
    with store.write() as connection:
        require_epoch(connection, state)
        _give_up(connection, state, entities)


def _give_up(connection: sa.Connection, state: StreamState, entities: Collection[str]) -> None:
    leaving = {name: held for name, held in state.entities.items() if name in entities and not held.gone}
    if not leaving:
        return
    held = state.entities | {name: msgspec.structs.replace(one, gone=True) for name, one in leaving.items()}
    mine = stream.c.stream_id == state.id
    values = {"entities": msgspec.json.encode(held), "epoch": state.epoch + 1}
    connection.execute(stream.update().where(mine).values(values))
    ids = sa.select(names.c.id).where(names.c.kind == "entity", names.c.name.in_(leaving))
    pending = sa.select(fan_out.c.id).where(fan_out.c.stream_id == state.id)
    of_these = sa.and_(fan_out_item.c.entity_id.in_(ids), fan_out_item.c.fan_out_id.in_(pending))
    connection.execute(fan_out_item.delete().where(of_these))
    if all(one.gone for one in held.values()):  # nobody may run it any more
        _void(connection, state.id)
        drop_unused(connection, state.name, (), ())


def follow_topic(store: Store, state: StreamState, cursor: int) -> None:
    """From now on what follows the position is in a topic, from `cursor` on; an engine that still runs cannot write."""
    with store.write() as connection:
        mine = sa.and_(stream.c.stream_id == state.id, stream.c.epoch == state.epoch)
        values = {"cursor": cursor, "epoch": state.epoch + 1}
        if not connection.execute(stream.update().where(mine).values(values)).rowcount:
            raise TakenOver(state.name)


def require_epoch(connection: sa.Connection, state: StreamState) -> None:
    """TakenOver when another process has the stream since; none can take it before the transaction ends."""
    sql = statements(connection)
    query = f"SELECT epoch FROM stream WHERE stream_id = {sql.mark}{'' if sql.sqlite else ' FOR NO KEY UPDATE'}"
    if connection.exec_driver_sql(query, (state.id,)).scalar() != state.epoch:
        raise TakenOver(state.name)


def hold_captures(connection: sa.Connection) -> None:
    """No version is made before the transaction ends, and all that were made are there to be read.

    Always in the order of streams, so that no two who do this wait for each other. On SQLite a writer is alone anyway.
    """
    connection.execute(sa.select(stream.c.stream_id).order_by(stream.c.stream_id).with_for_update(key_share=True)).all()


def ask_resnapshot(store: Store, name: str) -> bool:
    """Ask capture for a new, compared snapshot. False when the store does not know the stream."""
    id = store.find_name("stream", name)
    if id is None:
        return False
    with store.write() as connection:
        done = connection.execute(stream.update().where(stream.c.stream_id == id).values(state=RESNAPSHOT)).rowcount
        store.ring(f"capture {name}", connection)
    return bool(done)


def save_position(connection: sa.Connection, stream_id: int, position: int, cursor: int) -> None:
    mark = statements(connection).mark
    columns = f"position = {mark}, cursor = {mark}, seen_at = {mark}, problem = ''"
    sql = f"UPDATE stream SET {columns} WHERE stream_id = {mark}"
    connection.exec_driver_sql(sql, (position, cursor, now(), stream_id))


def note_problem(store: Store, name: str, problem: str) -> None:
    """Why a stream stands still, for `hub status`; "" when it does not. Nothing for a stream that never began."""
    id = store.find_name("stream", name)
    with store.write() as connection:
        connection.execute(stream.update().where(stream.c.stream_id == id).values(problem=problem))


def complete_snapshot(
    connection: sa.Connection, state: StreamState, run: int, position: int, cursor: int, table_ids: Iterable[int]
) -> frozenset[str]:
    """From here on rows of older runs are absent, and what a table's columns were before is forgotten.

    The entities of which documents had been made before.
    """
    mine = stream.c.stream_id == state.id
    entities = _decode_entities(connection.execute(sa.select(stream.c.entities).where(mine)).scalar_one())
    made = {name: msgspec.structs.replace(held, made=True) for name, held in entities.items() if not held.gone}
    values = {"position": position, "cursor": cursor, "state": STREAMING, "seen_at": now(), "problem": ""}
    connection.execute(stream.update().where(mine).values(entities=msgspec.json.encode(entities | made), **values))
    for table_id in table_ids:
        save_floor(connection, table_id, run)
        connection.execute(table_state.update().where(table_state.c.table_id == table_id).values(drift=""))
    return frozenset(name for name, held in entities.items() if held.made)


# tables


def load_tables(store: Store) -> dict[int, tuple[int, int, str]]:
    """By table id: (floor, swept, drift)."""
    columns = (table_state.c.table_id, table_state.c.floor, table_state.c.swept, table_state.c.drift)
    with store.read() as connection:
        return {id: (floor, swept, drift) for id, floor, swept, drift in connection.execute(sa.select(*columns))}


def _save_table(connection: sa.Connection, table_id: int, **values: object) -> None:
    found = connection.execute(table_state.update().where(table_state.c.table_id == table_id).values(values)).rowcount
    if not found:
        everything: dict[str, object] = {"floor": 0, "swept": 0, "drift": "", **values}
        connection.execute(table_state.insert().values(table_id=table_id, **everything))


def save_floor(connection: sa.Connection, table_id: int, floor: int) -> None:
    _save_table(connection, table_id, floor=floor)


def save_swept(connection: sa.Connection, table_id: int, swept: int) -> None:
    _save_table(connection, table_id, swept=swept)


def add_drift(connection: sa.Connection, table_id: int, sentence: str) -> None:
    """Add to what has changed in a table's columns; what is known already is seen anew with every start."""
    query = sa.select(table_state.c.drift).where(table_state.c.table_id == table_id)
    known = connection.execute(query).scalar() or ""
    if sentence not in known:
        _save_table(connection, table_id, drift=f"{known} {sentence}".strip())


def save_run(connection: sa.Connection, stream_id: int, run: int) -> None:
    connection.execute(stream.update().where(stream.c.stream_id == stream_id).values(run=run))


def _after(column: sa.ColumnElement[str], after: str | None) -> sa.ColumnElement[bool]:
    """None is the beginning: an empty text is a key like any other."""
    return sa.true() if after is None else column > after


def page_of_images(
    connection: sa.Connection, table_id: int, after: str | None, limit: int
) -> Sequence[tuple[str, int, bytes]]:
    """(key, run, image) in the order of keys."""
    query = (
        sa.select(row_image.c.key, row_image.c.run, row_image.c.image)
        .where(row_image.c.table_id == table_id, _after(row_image.c.key, after))
        .order_by(row_image.c.key)
        .limit(limit)
    )
    return [(key, run, image) for key, run, image in connection.execute(query)]


def delete_images(
    connection: sa.Connection, table_id: int, keys: Collection[str], references: Sequence[tuple[int, str, str]]
) -> None:
    sql = statements(connection)
    write_many(connection, sql.delete("row_image", ("table_id", "key")), [(table_id, key) for key in keys])
    write_many(connection, sql.delete("row_reference", ("lookup_id", "value", "row_key")), references)


# tables and lookups that no entity uses any more


_DROPPED_TABLE, _DROPPED_LOOKUP = _DROPPED = "dropped table", "dropped lookup"  # kinds of names


def drop_unused(
    connection: sa.Connection, stream_name: str, table_ids: Collection[int], lookup_ids: Collection[int]
) -> None:
    """Part with the tables and lookups of a stream that are not among these; what they hold is removed in pieces.

    A table that comes back gets another number, so that it begins empty.
    """
    of_stream = sa.and_(names.c.kind == "table", names.c.name.startswith(f"{stream_name}/", autoescape=True))
    tables = connection.execute(sa.select(names.c.id).where(of_stream)).scalars().all()
    of_tables = [sa.and_(names.c.kind == "lookup", names.c.name.startswith(f"{id}(")) for id in tables]
    lookups = connection.execute(sa.select(names.c.id).where(sa.or_(sa.false(), *of_tables))).scalars().all()
    for kind, ids in ((_DROPPED_TABLE, {*tables} - {*table_ids}), (_DROPPED_LOOKUP, {*lookups} - {*lookup_ids})):
        renamed = {"kind": kind, "name": names.c.name + "#" + sa.cast(names.c.id, sa.Text)}
        connection.execute(names.update().where(names.c.id.in_(ids)).values(renamed))
    connection.execute(table_state.delete().where(table_state.c.table_id.in_({*tables} - {*table_ids})))


def dropped(connection: sa.Connection) -> list[int]:
    """The numbers of the tables and lookups that hold something still."""
    query = sa.select(names.c.id).where(names.c.kind.in_(_DROPPED))
    return list(connection.execute(query.order_by(names.c.id)).scalars())


def remove_dropped(connection: sa.Connection, id: int, limit: int) -> bool:
    """Remove `limit` rows of a dropped table or lookup at most. True when that was the last of it."""
    kind = connection.execute(sa.select(names.c.kind).where(names.c.id == id)).scalar()
    if kind not in _DROPPED:  # another stream's process was faster
        return True
    of, number, key = (
        (row_image, row_image.c.table_id, (row_image.c.key,))
        if kind == _DROPPED_TABLE
        else (row_reference, row_reference.c.lookup_id, (row_reference.c.value, row_reference.c.row_key))
    )
    page = sa.select(*key).where(number == id).limit(limit)
    removed = connection.execute(of.delete().where(number == id, sa.tuple_(*key).in_(page))).rowcount
    if removed < limit:
        connection.execute(names.delete().where(names.c.id == id))
    return removed < limit


# images that follow the journal


def last_document(connection: sa.Connection, after: int = 0, limit: int | None = None) -> int | None:
    """The seq of the newest document, or of the last one on the page of `limit` past `after`; None when none is."""
    query = sa.select(document.c.seq).where(document.c.seq > after).order_by(document.c.seq)
    page = query.limit(limit).subquery()
    return connection.execute(sa.select(sa.func.max(document.c.seq if limit is None else page.c.seq))).scalar()


def save_imaged(connection: sa.Connection, stream_id: int, imaged: int | None) -> None:
    connection.execute(stream.update().where(stream.c.stream_id == stream_id).values(imaged=imaged))


# The plus keeps SQLite from the index on entities: the page's own seqs are few.
_FOLLOW = sa.text(
    "INSERT INTO row_image (table_id, key, run, image) "
    "SELECT :table_id, d.key, :run, d.body FROM document d "
    "WHERE d.seq > :after AND d.seq <= :last AND +d.entity_id = :entity_id AND d.body IS NOT NULL AND d.version = "
    "(SELECT max(n.version) FROM document n WHERE n.entity_id = d.entity_id AND n.key = d.key) ORDER BY d.key "
    "ON CONFLICT (table_id, key) DO UPDATE SET run = excluded.run, image = excluded.image"
)


def images_from_documents(
    connection: sa.Connection, table_id: int, entity_id: int, run: int, after: int, last: int
) -> None:
    """Take the bodies of an entity's documents from `after` to `last` as row images, where none is newer."""
    values = {"table_id": table_id, "entity_id": entity_id, "run": run, "after": after, "last": last}
    connection.execute(_FOLLOW, values)


# the spool


def save_part(
    connection: sa.Connection, stream_id: int, part: int, transaction: int, changes: Sequence[RowChange]
) -> None:
    connection.execute(
        spool.insert().values(
            stream_id=stream_id, part=part, transaction=transaction, changes=msgspec.json.encode(changes)
        )
    )


def load_part(connection: sa.Connection, stream_id: int, part: int) -> list[RowChange]:
    query = sa.select(spool.c.changes).where(spool.c.stream_id == stream_id, spool.c.part == part)
    return _decode_changes(connection.execute(query).scalar_one())


def delete_part(connection: sa.Connection, stream_id: int, part: int) -> None:
    connection.execute(spool.delete().where(spool.c.stream_id == stream_id, spool.c.part == part))


def spool_parts(store: Store, stream_id: int) -> Sequence[int]:
    """The numbers of the parts that are still to be applied, in order."""
    with store.read() as connection:
        return (
            connection.execute(sa.select(spool.c.part).where(spool.c.stream_id == stream_id).order_by("part"))
            .scalars()
            .all()
        )


# fan-outs


def save_fan_out(
    connection: sa.Connection, stream_id: int, commit: Commit, cause: Cause, *, spooled: bool = False
) -> FanOut:
    id = connection.execute(
        fan_out.insert()
        .values(
            stream_id=stream_id,
            lsn=commit.lsn,
            transaction=commit.transaction,
            committed_at=commit.committed_at,
            cause=CAUSES.index(cause),
            spooled=int(spooled),
            made=0,
        )
        .returning(fan_out.c.id)
    ).scalar_one()
    return FanOut(id, commit, cause, spooled, 0)


def save_items(connection: sa.Connection, fan_out_id: int, items: Iterable[tuple[int, int, str]]) -> None:
    """`items`: (entity id, node, key)"""
    columns = ("entity_id", "node", "key", "fan_out_id")
    sql = statements(connection).insert("fan_out_item", columns, "ON CONFLICT DO NOTHING")
    write_many(connection, sql, [(*item, fan_out_id) for item in items])


def load_fan_outs(connection: sa.Connection, stream_id: int) -> list[FanOut]:
    """In the order in which they began."""
    query = sa.select(fan_out).where(fan_out.c.stream_id == stream_id).order_by(fan_out.c.id)
    return [
        FanOut(
            row.id,
            Commit(row.lsn, row.transaction, row.committed_at),
            CAUSES[row.cause],
            bool(row.spooled),
            row.made,
        )
        for row in connection.execute(query)
    ]


def next_items(connection: sa.Connection, fan_out_id: int, limit: int, place: Place | None = None) -> list[FanOutItem]:
    """The next items in the order of keys, all of one entity and node; `place` saves the search for where to go on.

    The deepest node comes first, since it leads to the others. What is added behind `place` comes last.
    """
    if place is not None and (items := _items_after(connection, fan_out_id, place, limit)):
        return items
    i = fan_out_item.c
    query = sa.select(i.entity_id, i.node).where(i.fan_out_id == fan_out_id).order_by(i.node.desc(), i.entity_id)
    first = connection.execute(query.limit(1)).first()
    return [] if first is None else _items_after(connection, fan_out_id, Place(first.entity_id, first.node), limit)


def _items_after(connection: sa.Connection, fan_out_id: int, place: Place, limit: int) -> list[FanOutItem]:
    i = fan_out_item.c
    query = sa.select(i.entity_id, i.node, i.key, i.cursor).where(
        i.entity_id == place.entity_id, i.node == place.node, i.fan_out_id == fan_out_id
    )
    if place.after is not None:
        query = query.where(i.key > place.after)
    return [FanOutItem(*row) for row in connection.execute(query.order_by(i.key).limit(limit))]


def _item(fan_out_id: int, item: FanOutItem) -> sa.ColumnElement[bool]:
    i = fan_out_item.c
    return sa.and_(i.fan_out_id == fan_out_id, i.entity_id == item.entity_id, i.node == item.node, i.key == item.key)


def save_cursor(connection: sa.Connection, fan_out_id: int, item: FanOutItem, cursor: str) -> None:
    connection.execute(fan_out_item.update().where(_item(fan_out_id, item)).values(cursor=cursor))


def finish_items(connection: sa.Connection, fan_out_id: int, items: Iterable[FanOutItem]) -> None:
    sql = statements(connection).delete("fan_out_item", ("entity_id", "node", "key", "fan_out_id"))
    write_many(connection, sql, [(item.entity_id, item.node, item.key, fan_out_id) for item in items])


def count_made(connection: sa.Connection, fan_out_id: int, made: int) -> None:
    connection.execute(fan_out.update().where(fan_out.c.id == fan_out_id).values(made=fan_out.c.made + made))


def spool_applied(connection: sa.Connection, fan_out_id: int) -> None:
    connection.execute(fan_out.update().where(fan_out.c.id == fan_out_id).values(spooled=0))


def finish_fan_out(connection: sa.Connection, fan_out_id: int) -> None:
    connection.execute(fan_out.delete().where(fan_out.c.id == fan_out_id))


def items_among(
    connection: sa.Connection, entity_id: int, keys: Collection[tuple[int, str]]
) -> Sequence[tuple[int, int, str, str | None]]:
    """(fan-out id, node, key, cursor) of the pending items at one of these (node, key), or that mean every document."""
    sql = statements(connection)
    return connection.exec_driver_sql(sql.items, (*sql.pairs([*keys, EVERY]), entity_id)).fetchall()


def page_of_references(
    connection: sa.Connection, lookup_id: int, value: str, after: str | None, limit: int
) -> Sequence[str]:
    """Row keys that a value leads to, in their order."""
    query = (
        sa.select(row_reference.c.row_key)
        .where(row_reference.c.lookup_id == lookup_id, row_reference.c.value == value)
        .where(_after(row_reference.c.row_key, after))
        .order_by(row_reference.c.row_key)
        .limit(limit)
    )
    return connection.execute(query).scalars().all()


def page_of_keys(connection: sa.Connection, entity_id: int, after: str | None, limit: int) -> Sequence[str]:
    """Keys of which the journal has documents, in their order."""
    query = (
        sa.select(document.c.key)
        .where(document.c.entity_id == entity_id, _after(document.c.key, after))
        .distinct()
        .order_by(document.c.key)
        .limit(limit)
    )
    return connection.execute(query).scalars().all()
