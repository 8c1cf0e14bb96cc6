"""Which receiver stands behind a destination: a name that one has given to a document is no other's.

A destination may be pointed at another system, from a sandbox to production, with nothing but a setting. Any setting
may tell it, a key alone too, so with each change the names that were given are looked for again.
"""

from hashlib import scrypt

import msgspec

from hub.project import Destination

SIZE = 8  # bytes
COST = {"n": 1 << 14, "r": 8, "p": 1}  # some 50 ms and 16 MB: who reads the store tries no passwords by it


def account_of(identity: str, destination: Destination) -> bytes:
    """`identity`: the store's, without which the same settings would have the same account everywhere."""
    settings = msgspec.json.encode(dict(destination.settings), order="deterministic", enc_hook=str)
    return scrypt(destination.connector.encode() + b"\0" + settings, salt=identity.encode(), dklen=SIZE, **COST)
