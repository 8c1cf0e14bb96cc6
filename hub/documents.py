"""The nouns of the middle: documents and their versions."""

import enum
from decimal import Decimal
from typing import Any

import msgspec

from hub.catalogue import Kind


class Event(enum.Enum):
    """What happened to a document, in the journal or in a subscription's set."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"

    __hash__ = object.__hash__  # members are looked up by for every delivery; Enum's own hashes the name


class Cause(enum.Enum):
    """Why it happened."""

    ROW = "row"  # the root row was inserted or deleted; for updates always
    FILTER = "filter"  # only the set's condition turned
    SNAPSHOT = "snapshot"  # the initial load
    RESYNC = "resync"  # a later snapshot found a difference
    BACKFILL = "backfill"
    REPLAY = "replay"

    __hash__ = object.__hash__


class Version(msgspec.Struct, frozen=True):
    """One version of a document, as the journal holds it."""

    entity: str
    key: str  # plain text, or a JSON array for a composite key
    version: int  # 1, 2, 3 …; never restarted
    event: Event
    cause: Cause
    lsn: int  # of the commit
    transaction: int  # its transaction id at the source
    committed_at: int  # microseconds since 1970, UTC
    body: bytes | None  # the document as JSON; None when it was deleted
    source: str = ""
    merged: tuple[int, ...] = ()  # transaction ids of earlier commits that this version stands for too


_decoder = msgspec.json.Decoder(float_hook=Decimal)
_encoder = msgspec.json.Encoder(decimal_format="number")


def decode(body: bytes) -> Any:
    """A document's tree: numbers are int or Decimal, so that no digit is lost."""
    return _decoder.decode(body)


def encode(tree: Any) -> bytes:
    """Compact JSON; the inverse of `decode`. Decimals are written as numbers, msgspec.Raw verbatim."""
    return _encoder.encode(tree)


class Field(msgspec.Struct, frozen=True):
    """One column's field in a document."""

    kind: Kind
    array: bool = False


class Shape(msgspec.Struct, frozen=True):
    """What a document, or an element that it embeds, looks like: how to compare its values and pair its elements."""

    fields: dict[str, Field]
    embeds: dict[str, "Embed"] = {}
    key: tuple[str, ...] = ()  # the fields that name an element among its siblings; () when they are left out


class Embed(msgspec.Struct, frozen=True):
    shape: Shape
    many: bool  # a list, or one element or null
