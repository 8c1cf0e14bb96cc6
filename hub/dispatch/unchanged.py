"""`skip_unchanged`: whether sending a delivery would change nothing at its receiver.

    the receiver was last sent        this delivery             is it sent?
    the same content, and took it     created, updated          no
    other content, or a delete        created, updated          yes
    anything                          deleted                   yes
    anything                          an attempt may have       yes
                                      begun; a replay, an
                                      operator or a receiver
                                      asked for it

An attempt that was not accepted may have changed the receiver all the same: what it has is open from then on, until it
accepts something again.
"""

from hashlib import blake2b

from hub.delivery import Delivery, Held
from hub.documents import Event
from hub.subscriptions.bodies import Body

SIZE = 16  # bytes of a hash


def content_of(destination: str, event: Event, body: Body) -> bytes:
    """A hash of what the receiver has once it accepts this; b"" of a delete.

    Of a CloudEvent it is the document's, of a subscription's own body all of it: one that shows `version` or `meta`
    is never the same twice. A subscription that goes to another destination has sent nothing there.
    """
    if event is Event.DELETED:
        return b""
    hashed = blake2b(f"{destination}\0{body.content_type}\0".encode(), digest_size=SIZE)
    hashed.update(body.kept)
    return hashed.digest()


def is_unchanged(one: Delivery, content: bytes, held: Held | None, *, begun: bool) -> bool:
    """`content`: as of `content_of`; `begun`: an attempt may have begun, or an operator wants it sent."""
    if begun or one.turn or one.replay_id is not None:
        return False
    return bool(content) and held is not None and held.content == content
