"""How a request says who asks: fixed headers, or an OAuth2 token that is renewed before it ends and after a 401."""

import asyncio
import base64
import time
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import msgspec
from yarl import URL

from connectors.declarative.definition import Authentication
from connectors.declarative.rendering import rendered_text
from connectors.transport import Wire, WireError

Headers = list[tuple[str, str]]
EARLY = 60.0  # seconds before its end that a token is renewed
LIFETIME = 1800.0  # seconds that a token is used for whose end is not told


class NotAuthenticated(WireError):
    """No token was given: one sentence."""


class Credentials(Protocol):
    secrets: set[str]  # texts that no detail may show

    async def headers(self) -> Headers: ...

    async def renew(self, refused: Headers) -> bool:
        """After a 401 to `refused`: whether another try may do."""
        ...


class Fixed:
    def __init__(self, headers: Headers) -> None:
        self._headers = headers
        self.secrets = {part for _, value in headers for part in (value, value.rpartition(" ")[2])}

    async def headers(self) -> Headers:
        return self._headers

    async def renew(self, refused: Headers) -> bool:
        return False


class OAuth2:
    """Client credentials. All attempts share one token, and one of them renews it."""

    def __init__(self, wire: Wire, values: Mapping[str, str]) -> None:
        self._wire = wire
        self._values = values
        self._turn = asyncio.Lock()
        self._token = ""
        self._until = 0.0  # time.monotonic
        self.secrets = {values["client_secret"]}

    async def headers(self) -> Headers:
        """NotAuthenticated, or another WireError, when there is no token to be had."""
        async with self._turn:
            if not self._token or time.monotonic() >= self._until:
                await self._fetch()
            return _bearer(self._token)

    async def renew(self, refused: Headers) -> bool:
        async with self._turn:
            if _bearer(self._token) == refused:
                await self._fetch()
        return True

    async def _fetch(self) -> None:
        form = {"grant_type": "client_credentials", "scope": self._values.get("scope", "")}
        headers = [("content-type", "application/x-www-form-urlencoded"), ("accept", "application/json")]
        client = self._values["client_id"], self._values["client_secret"]
        if self._values.get("credentials") == "basic":
            headers.append(("authorization", basic(quote(client[0], ""), quote(client[1], ""))))
        else:
            form |= {"client_id": client[0], "client_secret": client[1]}
        content = urlencode({name: value for name, value in form.items() if value}).encode()
        answer = await self._wire.exchange("POST", URL(self._values["token_url"], encoded=True), headers, content)
        try:
            given = msgspec.json.decode(answer.content, type=dict[str, Any])
            token, lifetime = given["access_token"], float(given.get("expires_in") or LIFETIME)
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            raise NotAuthenticated(f"The token's address answers {answer.status} without a token.") from None
        self.secrets = {self._values["client_secret"], self._token, str(token)}  # the last one may still be shown
        self._token = str(token)
        self._until = time.monotonic() + max(lifetime - EARLY, lifetime / 2)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def _bearer(token: str) -> Headers:
    return [("authorization", f"Bearer {token}")]


def open_credentials(authentication: Authentication | None, settings: Mapping[str, Any], wire: Wire) -> Credentials:
    if authentication is None:
        return Fixed([])
    values = {
        key: rendered_text(part, {"settings": settings}, f"'{key}' of the authentication")
        for key, part in authentication.values.items()
        if part is not None
    }
    match authentication.kind:
        case "bearer":
            return Fixed(_bearer(values["token"]))
        case "header":
            return Fixed([(values["name"].lower(), values["value"])])
        case "basic":
            return Fixed([("authorization", basic(values["user"], values["password"]))])
    return OAuth2(wire, values)
