"""The nouns of the way out: deliveries, the messages that connectors get, and what comes of them.

A delivery's life; who moves each edge:

                       dispatch: accepted, or refused as was to be expected
    pending ───────────────────────────────────────► (gone; its attempts stay)
      │  ▲ operator: retry   ┌──► released ──┐              ▲
      │  └── dispatch ◄──────┘      ▲        │              │ operator: discard
      │ dispatch: refused,          │ operator: retry       │
      │ exhausted, expired          │        │              │
      └──────────────► parked ──────┘        │              │
                         │  dispatch: a newer version was accepted
                         └──────────► superseded ── operator: retry --force ──► released

    pending ── dispatch: the receiver asks for it later ──► rescheduled ── dispatch: it is time ──► (gone; a pending
    one of the document as it is then takes its place, where it is in the set)
"""

import enum

import msgspec


class State(enum.IntEnum):
    PENDING = 0
    PARKED = 1  # waits for an operator; its reason says why
    SUPERSEDED = 2  # was parked, and the receiver has a newer version by now
    RELEASED = 3  # an operator wants it sent; dispatch has not seen that yet
    RESCHEDULED = 4  # was accepted, and the receiver asks for the document again at `due_at`


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One document version on its way to one subscription's destination: a row of `delivery`."""

    seq: int
    subscription_id: int
    entity_id: int
    key: str
    version: int
    turn: int
    event: int  # the place in Event
    attempts: int  # that counted so far
    due_at: int  # not before; microseconds since 1970, 0: at once
    created_at: int  # microseconds since 1970
    replay_id: int | None = None
    slice: int = 0  # of the destination's documents; see hub/dispatch/slices.py


class Message(msgspec.Struct, frozen=True, gc=False):
    """What a connector gets to deliver."""

    id: str  # the delivery id: the same on every retry, so that a receiver can drop duplicates
    subscription: str
    entity: str
    key: str
    version: int
    event: str  # created, updated, deleted
    content: bytes  # the rendered body
    content_type: str
    attempt: int  # 1 at the first
    receiver_id: str = ""  # the receiver's own name for the document, where the connector goes by it and it is known


class OutcomeKind(enum.IntEnum):
    DELIVERED = 0  # the receiver has it, durably
    RETRY = 1  # not now: the next attempt may do
    RESCHEDULE = 2  # the receiver has it, and asks for it anew at a later time
    REFUSED = 3  # no: another attempt of the same would get the same
    DEAD = 4  # the receiver wants nothing of this subscription any more
    HELD = 5  # the destination cannot be reached or lets nobody in: nothing to do with this document
    UNCHANGED = 6  # nothing was sent: the receiver has this content. The hub itself says so, no connector does


class Forward(msgspec.Struct, frozen=True, gc=False):
    """A document of a derived entity, issued by the receiver of another one."""

    entity: str
    key: str
    data: bytes | None  # the document's fields as a JSON object; None deletes it


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What an attempt came to, as the connector saw it."""

    kind: OutcomeKind
    detail: str = ""  # status and the beginning of the answer, without secrets; RESCHEDULE: the receiver's reason
    # Seconds from now. RETRY: the receiver named the time, so no attempt is burnt; DELIVERED: its quota is used up
    # until then. Both are the whole destination's. RESCHEDULE: when it wants the document again.
    after: float | None = None
    receiver_id: str = ""  # the receiver's own name for it, where it gives one
    forward: tuple[Forward, ...] = ()  # with DELIVERED or RESCHEDULE: documents that the answer issues
    whole: bool = False  # with RETRY or REFUSED: it is of all that was sent together, and names no culprit
    expected: bool = False  # with REFUSED: a no that is no fault, as of an address that has unsubscribed; no alarm


class Origin(msgspec.Struct, frozen=True, gc=False):
    """What a delivered document goes back to: a commit at the source, and how many forwards lie between."""

    lsn: int
    transaction: int
    hops: int  # 0: the document is made of the source's own rows


class Forwarded(msgspec.Struct, frozen=True, gc=False):
    """What the answer to one delivery issues."""

    delivery: Delivery
    origin: Origin  # of the delivered document
    documents: tuple[Forward, ...]


Receiver = tuple[int, str, int]  # of one document by one subscription: entity_id, key, subscription_id


class Held(msgspec.Struct, frozen=True, gc=False):
    """What a receiver has of a document, as far as its answers say: a row of `ledger`."""

    version: int  # 0: nothing is known to have been accepted
    event: int  # the place in Event
    content: bytes  # a hash of what it was sent; b"": it has deleted it; b"\0": open, an attempt may have changed it
    receiver_id: str  # the receiver's own name for it; "" when it gave none
    accepted_at: int  # microseconds since 1970
    account: bytes = b""  # the receiver that named it so, as hub.dispatch.accounts has it; b"": no name


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One try of a delivery: a row of `attempt`."""

    delivery: Delivery
    number: int  # 1, 2, 3 …; one that did not count has the number of the one after it
    started_at: int  # microseconds since 1970
    duration: int  # microseconds
    outcome: OutcomeKind
    detail: str
