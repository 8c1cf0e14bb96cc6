"""Statements that make versions of derived entities: documents that receivers forward, with where they came from.

Whichever dispatch worker gets the answer makes them, in the store transaction of its outcome. On Postgres one at a
time makes those of an entity, so that numbers go on and deliveries come in the order of versions.
"""

from collections.abc import Collection, Mapping, Sequence

import sqlalchemy as sa

from hub.capture.versions import Heads, Published, Versions
from hub.changes import Commit
from hub.delivery import Forward, Forwarded
from hub.documents import decode
from hub.store import tables
from hub.store.database import now
from hub.store.images import StoredImages, append, write_documents

_LINEAGE = (
    "entity_id", "key", "version", "hops", "from_subscription_id", "from_entity_id", "from_key", "from_version",
    "from_turn",
)  # fmt: skip


def hold_forwards(connection: sa.Connection, entity_ids: Collection[int]) -> None:
    """No version of these entities is made by others before the transaction ends; none that was made is unseen.

    Before deliveries are locked, and after captures are held, by all who do: nobody waits in a circle. On SQLite a
    writer is alone anyway.
    """
    name = tables.name
    query = sa.select(name.c.id).where(name.c.kind == "entity", name.c.id.in_(entity_ids)).order_by(name.c.id)
    connection.execute(query.with_for_update()).all()


class Forwards:
    def __init__(self, published: Mapping[str, Published]) -> None:
        """`published`: the derived entities, by name, with who subscribes to them."""
        self._published = published

    @property
    def entity_ids(self) -> list[int]:
        return [one.id for one in self._published.values()]

    def hold(self, connection: sa.Connection, forwarded: Sequence[Forwarded]) -> None:
        names = {document.entity for one in forwarded for document in one.documents}
        hold_forwards(connection, [self._published[name].id for name in names])

    def write(self, connection: sa.Connection, forwarded: Sequence[Forwarded]) -> bool:
        """Their versions, deliveries and lineage, in order; `hold` comes first. True when there are new deliveries.

        A document that is what it was already gives none: so an answer that comes twice is followed once.
        """
        made_at = now()
        versions = Versions(self._published, StoredImages(connection), Heads(), made_at)
        lineage = []
        for one in forwarded:
            # It goes back to a commit at the source, and is of this moment itself.
            commit = Commit(one.origin.lsn, one.origin.transaction, made_at)
            for document in one.documents:
                tree = None if document.data is None else decode(document.data)
                if versions.make(document.entity, document.key, tree, commit):
                    lineage.append(self._lineage(one, document, versions.newest(document.entity, document.key)))
        write_documents(connection, versions.documents, versions.deliveries)
        append(connection, "lineage", _LINEAGE, lineage)
        return bool(versions.deliveries)

    def _lineage(self, one: Forwarded, document: Forward, version: int) -> tuple[int | str, ...]:
        delivery = one.delivery
        return (
            self._published[document.entity].id,
            document.key,
            version,
            one.origin.hops + 1,
            delivery.subscription_id,
            delivery.entity_id,
            delivery.key,
            delivery.version,
            delivery.turn,
        )
