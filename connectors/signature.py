"""Standard Webhooks signatures: HMAC-SHA256 of `id.timestamp.body`, one for each secret, so that secrets can rotate."""

import base64
import binascii
import hmac
from collections.abc import Sequence
from hashlib import sha256

PREFIX = "whsec_"


def signing_key(secret: str) -> bytes:
    """The key that a secret stands for: base64 after `whsec_`, else its text. ValueError when that is not base64."""
    if not secret.startswith(PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError("a secret that starts with whsec_ must go on in base64") from error


class Signer:
    """Signs with every key. The keyed hashes are made once: setting one up costs more than hashing a body."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keyed = [hmac.new(key, digestmod=sha256) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._keyed)

    def header(self, id: str, timestamp: int, body: bytes) -> str:
        """`v1,…` for each key, in their order, space between; `timestamp` in seconds since 1970."""
        signed = f"{id}.{timestamp}.".encode() + body
        return " ".join("v1," + base64.b64encode(_digest(keyed, signed)).decode() for keyed in self._keyed)


def _digest(keyed: hmac.HMAC, signed: bytes) -> bytes:
    fresh = keyed.copy()
    fresh.update(signed)
    return fresh.digest()
