"""Who has a new address stays one member of an audience: the ready-made connector against a small Mailchimp."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest

from hub.bootstrap import find_connectors
from hub.connector import read_settings
from hub.project import Destination
from hub.store.database import Store
from tests.integration.dispatching import LOCALHOST, Bench

pytestmark = pytest.mark.integration


class Audience(ThreadingHTTPServer):
    """Members by contact id, who have an address. A path names either; by an address a PUT may make one."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.members: dict[str, str] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def id_of(self, name: str) -> str | None:
        by_address = {address: id for id, address in self.members.items()}
        return name if name in self.members else by_address.get(name)


class Handler(BaseHTTPRequestHandler):
    server: Audience

    def _name(self) -> str:
        self.server.asked.append(self.command)
        return unquote(self.path.rpartition("/")[2])

    def do_PUT(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        name = self._name()
        id = self.server.id_of(name) or (f"contact{len(self.server.asked)}" if "@" in name else None)
        if id is None:
            self._answer(404, {"title": "Resource Not Found"})
        elif self.server.id_of(body["email_address"]) not in (id, None):
            self._answer(400, {"title": "Member Exists"})
        else:
            self.server.members[id] = body["email_address"]
            self._answer(200, {"id": "the address's hash", "contact_id": id})

    def do_DELETE(self) -> None:
        id = self.server.id_of(self._name())
        self._answer(204 if id else 404, {} if id else {"title": "Resource Not Found"})
        self.server.members.pop(id or "", None)

    def _answer(self, status: int, tree: Any) -> None:
        content = b"" if status == 204 else json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None: ...


class NewsletterBench(Bench):
    """Documents of one customer with an address that the test gives."""

    def __init__(self, store: Store, audience: Audience) -> None:
        super().__init__(store)
        self.audience = audience
        self.address = ""
        settings = {"url": audience.url, "api_key": "key-us1", "list": "a1"}
        self.subscribe("crm", settings, body={"email_address": "{{ doc.email }}"}, retry=(0.2, 0.2))
        self.destinations["crm"] = replace(self.destinations["crm"], connector="mailchimp")

    def _document(self, key: str, version: int) -> dict[str, Any]:
        return super()._document(key, version) | {"body": msgspec.json.encode({"email": self.address})}

    def _opener(self, destination: Destination) -> Callable[[], Any]:
        kind = find_connectors(Path())("mailchimp")
        settings, limits = read_settings(kind, destination), replace(destination.limits, network=LOCALHOST)
        return lambda: kind.open(settings, limits)

    def send(self, address: str) -> list[str]:
        """The addresses that the audience has afterwards."""
        self.address = address
        self.commit("1", deleted=not address)
        self.run()
        assert self.rows() == []
        return list(self.audience.members.values())


@pytest.fixture
def audience() -> Iterator[Audience]:
    with Audience() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_who_has_a_new_address_stays_one_member(empty_store: Store, audience: Audience) -> None:
    """Also one who was there before; one that was deleted there is made anew, and a delete finds whoever it is."""
    audience.members["old"] = "ada@one.example"
    bench = NewsletterBench(empty_store, audience)

    assert bench.send("ada@one.example") == ["ada@one.example"]
    assert bench.send("ada@two.example") == ["ada@two.example"]
    assert list(audience.members) == ["old"]
    assert audience.asked == ["PUT", "PUT"]

    audience.members.clear()
    assert bench.send("ada@three.example") == ["ada@three.example"]
    assert bench.send("ada@four.example") == ["ada@four.example"]
    assert audience.asked[2:] == ["PUT", "PUT", "PUT"]

    assert bench.send("") == []


def test_an_address_that_goes_from_one_to_another_arrives(empty_store: Store, audience: Audience) -> None:
    """Whoever is sent first: the one that takes it is tried again, and neither becomes the other."""
    bench = NewsletterBench(empty_store, audience)
    for key, address in (("1", "ada@one.example"), ("2", "bob@one.example")):
        bench.address = address
        bench.commit(key)
    bench.run()
    before = {address: id for id, address in audience.members.items()}

    for key, address in (("1", "bob@one.example"), ("2", "bob@two.example")):
        bench.address = address
        bench.commit(key)
    bench.run()

    assert bench.rows() == []
    assert audience.members == {
        before["ada@one.example"]: "bob@one.example",
        before["bob@one.example"]: "bob@two.example",
    }
