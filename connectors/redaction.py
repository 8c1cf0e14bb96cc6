"""What a receiver says is kept with the attempt and shown to operators, but no secret with it."""

from collections.abc import Iterable

DETAIL = 500  # characters that are kept
SHORTEST = 4  # characters of a secret: a shorter text would be found everywhere


class Redactor:
    """Takes secrets out of a text. Longer ones first: one may be part of another."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = sorted({one for one in secrets if len(one) >= SHORTEST}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        """On one line of at most DETAIL characters."""
        line = " ".join(text.replace("\0", " ").split())
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return line[:DETAIL]
