"""Which receiver stands behind a destination: a name that one has given to a document is no other's.

A destination may be pointed at another system, from a sandbox to production, with nothing but a setting. Any setting
may tell it, a key alone too, so with each change the names that were given are looked for again.
"""

from hashlib import blake2b

import msgspec

from hub.project import Destination

SIZE = 8  # bytes: too few to try keys against


def account_of(identity: str, destination: Destination) -> bytes:
    """`identity`: the store's, without which the same settings would have the same account everywhere."""
    settings = msgspec.json.encode(dict(destination.settings), order="deterministic", enc_hook=str)
    what = f"{identity}\0{destination.connector}\0".encode() + settings
    return blake2b(what, digest_size=SIZE).digest()
