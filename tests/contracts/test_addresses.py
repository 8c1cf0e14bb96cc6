"""Request forgery: whatever a destination's address is written as, or its DNS says, nothing inside is reached."""

import asyncio
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from connectors.addresses import METADATA, Guard, Refused, fault
from connectors.transport import Answer, Broken, Unreachable, Wire
from hub.project import Limits, Network
from tests.certificates import Authority

INSIDE = "127.0.0.1"  # what must not be reached
OUTSIDE = "127.0.0.2"  # stands for the internet: allowed
NOBODY = Network()
ONE = Network((ip_network(OUTSIDE),))


class Inside:
    """A server that must hear nothing."""

    def __init__(self) -> None:
        self.port = 0
        self.heard = 0  # connections
        self.bytes = 0

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard += 1
        self.bytes += len(await reader.read())
        writer.close()


@asynccontextmanager
async def inside() -> AsyncIterator[Inside]:
    """On every local address of both families, so that any form that leads here is noticed."""
    made = Inside()
    both = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    made.port = both.getsockname()[1]
    async with await asyncio.start_server(made.accept, sock=both):
        yield made


@asynccontextmanager
async def outside(answer: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server at OUTSIDE that answers each request so, and ends the connection. Gives its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, OUTSIDE, 0, ssl=tls)
    async with server:
        yield server.sockets[0].getsockname()[1]


class Fickle(AbstractResolver):
    """DNS that gives one answer after the other, the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in found
        ]

    async def close(self) -> None:
        return None


async def get(url: str, network: Network, resolver: Fickle | None = None, **arguments: object) -> Answer:
    """One request over a connection of its own."""
    wire = Wire(Limits(timeout=2.0, network=network), resolver=resolver, **arguments)  # type: ignore[arg-type]
    try:
        async with asyncio.timeout(5):
            return await wire.exchange("POST", URL(url), [], b"{}")
    finally:
        await wire.close()


FORMS = (
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",  # decimal
    "0x7f000001",  # hexadecimal
    "0x7f.0.0.1",
    "0x7f.1",
    "017700000001",  # octal
    "0177.0.0.1",
    "0177.0.0.01",
    "00000177.00.00.01",
    "127.0.0.1.",
    "localhost",
    "LOCALHOST.",
    "１２７.０.０.１",  # full-width digits
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",  # ideographic full stops
    "0",
    "0.0.0.0",
    "127.255.255.254",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::]",
    "[::127.0.0.1]",  # IPv4-compatible
    "[::ffff:127.0.0.1]",  # IPv4-mapped
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:0001]",
    "[::ffff:0:127.0.0.1]",  # IPv4-translated
    "[64:ff9b::127.0.0.1]",  # NAT64
    "[64:ff9b:1::127.0.0.1]",
    "[2002:7f00:1::]",  # 6to4
    "[2001:0:7f00:1::80ff:fffe]",  # Teredo
)


@pytest.mark.parametrize("form", FORMS)
def test_no_form_of_a_local_address_connects(form: str) -> None:
    """Refused where it would connect, or no host at all; the server inside hears nothing."""

    async def run() -> int:
        async with inside() as server:
            with pytest.raises((Unreachable, ValueError)):
                await get(f"http://{form}:{server.port}/", NOBODY)
            return server.heard

    assert asyncio.run(run()) == 0


def test_the_forms_would_connect_if_nobody_looked() -> None:
    """So the list is one of forms that the system really takes."""
    taken = set()
    for form in FORMS:
        host = URL(f"http://{form}/").host or ""
        try:
            infos = socket.getaddrinfo(host, 80, type=socket.SOCK_STREAM)
        except OSError:
            continue
        taken |= {form for info in infos if str(info[4][0]).startswith(("127.", "::", "0.0.0.0"))}

    assert {"127.1", "2130706433", "0x7f000001", "017700000001", "[::ffff:127.0.0.1]", "localhost"} <= taken


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("10.1.2.3", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("100.64.0.1", "carrier"),
        ("169.254.1.1", "link-local"),
        ("169.254.169.254", "metadata"),
        ("::ffff:169.254.169.254", "metadata"),
        ("64:ff9b::a9fe:a9fe", "metadata"),
        ("168.63.129.16", "metadata"),
        ("100.100.100.200", "metadata"),
        ("fd00:ec2::254", "metadata"),
        ("0.0.0.0", "unspecified"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("255.255.255.255", "reserved"),
        ("240.0.0.1", "reserved"),
        ("192.0.0.1", "reserved"),
        ("198.18.0.1", "benchmarks"),
        ("203.0.113.9", "documentation"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("fc00::1", "private"),
        ("fe80::1", "link-local"),
        ("fe80::1%lo", "link-local"),
        ("fec0::1", "site-local"),
        ("ff02::1", "multicast"),
        ("2001:db8::1", "documentation"),
        ("2002:a00:1::", "6to4"),
        ("2001::1", "Teredo"),
        ("64:ff9b::10.0.0.1", "private"),
        ("64:ff9b:1::1", "reserved"),
        ("::ffff:10.0.0.1", "private"),
        ("::10.0.0.1", "reserved"),
        ("0177.0.0.1", "plainly written"),
        ("2130706433", "plainly written"),
        ("127.1", "plainly written"),
    ],
)
def test_special_addresses_are_refused(address: str, what: str) -> None:
    """Each with what it is."""
    assert what in fault(address, NOBODY)


@pytest.mark.parametrize(
    "address",
    [
        "93.184.216.34",
        "172.32.0.1",
        "100.128.0.1",
        "192.0.1.1",
        "2606:2800:220:1::",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
    ],
)
def test_public_addresses_are_not(address: str) -> None:
    """Not the neighbours of special ones either."""
    assert fault(address, NOBODY) == ""


def test_what_is_allowed_is_reached() -> None:
    """A network, in whatever family the address comes; metadata only when it is named alone."""
    private = Network((ip_network("10.0.0.0/8"), ip_network("fc00::/7"), ip_network("169.254.0.0/16")))
    named = Network((ip_network("169.254.169.254"),))

    assert [fault(one, private) for one in ("10.9.9.9", "::ffff:10.0.0.1", "fd12::1", "169.254.7.7")] == [""] * 4
    assert "private" in fault("192.168.0.1", private)
    assert all(fault(str(one), Network((ip_network("0.0.0.0/0"), ip_network("::/0")))) for one in METADATA)
    assert fault("169.254.169.254", named) == ""


def test_an_answer_of_dns_that_changes_does_not_get_through() -> None:
    """Public at the first look, inside at the next: what is connected to is what was checked."""

    async def run() -> tuple[int, int]:
        async with inside() as server, outside(b"HTTP/1.1 204 X\r\nconnection: close\r\n\r\n") as port:
            changing = Fickle([OUTSIDE], [INSIDE])
            answer = await get(f"http://crm.test:{port}/", ONE, changing)
            for there in (port, server.port):
                with pytest.raises(Unreachable, match=r"127\.0\.0\.1 is a loopback address"):
                    await get(f"http://crm.test:{there}/", ONE, changing)
            return answer.status, server.heard

    assert asyncio.run(run()) == (204, 0)


def test_a_mixed_answer_of_dns_gets_the_allowed_address() -> None:
    """In whatever order it comes."""

    async def run(*found: str) -> int:
        async with outside(b"HTTP/1.1 204 X\r\n\r\n") as port:
            return (await get(f"http://crm.test:{port}/", ONE, Fickle(list(found)))).status

    assert [asyncio.run(run(INSIDE, OUTSIDE, "::1")), asyncio.run(run("::1", OUTSIDE))] == [204, 204]


def test_a_redirect_inside_is_not_followed() -> None:
    """It is an answer like others."""

    async def run() -> tuple[int, int]:
        async with inside() as server:
            there = f"HTTP/1.1 307 X\r\nlocation: http://127.0.0.1:{server.port}/\r\ncontent-length: 0\r\n\r\n"
            async with outside(there.encode()) as port:
                return (await get(f"http://{OUTSIDE}:{port}/", ONE)).status, server.heard

    assert asyncio.run(run()) == (307, 0)


def test_a_proxy_inside_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """One from the environment is not used at all."""

    async def run() -> tuple[int, int]:
        async with inside() as server, outside(b"HTTP/1.1 204 X\r\n\r\n") as port:
            monkeypatch.setenv("HTTP_PROXY", f"http://{INSIDE}:{server.port}")
            answer = await get(f"http://{OUTSIDE}:{port}/", ONE)
            with pytest.raises(Unreachable, match="loopback"):
                await get(f"http://{OUTSIDE}:{port}/", ONE, proxy=URL(f"http://{INSIDE}:{server.port}"))
            return answer.status, server.heard

    assert asyncio.run(run()) == (204, 0)


def test_a_proxy_that_is_configured_and_allowed_is_used() -> None:
    """The name is the proxy's to resolve."""

    async def run() -> int:
        async with outside(b"HTTP/1.1 204 X\r\n\r\n") as port:
            return (await get("http://nowhere.test/", ONE, proxy=URL(f"http://{OUTSIDE}:{port}"))).status

    assert asyncio.run(run()) == 204


def test_tls_is_checked_by_name_at_the_checked_address(tmp_path: Path) -> None:
    """The connection goes to the address, the certificate has to be for the name."""
    authority = Authority(tmp_path)
    client = ssl.create_default_context(cafile=authority.certificate)

    async def run(host: str) -> int:
        served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        served.load_cert_chain(authority.issue("crm.test"))
        async with outside(b"HTTP/1.1 204 X\r\n\r\n", served) as port:
            return (await get(f"https://{host}:{port}/", ONE, Fickle([OUTSIDE]), tls=client)).status

    assert asyncio.run(run("crm.test")) == 204
    said = "certificate verify failed: Hostname mismatch, certificate is not valid for 'other.test'."
    with pytest.raises(Unreachable, match=rf"^Cannot connect to other\.test:\d+: {re.escape(said)}$"):
        asyncio.run(run("other.test"))


def test_a_guarded_connection_tries_each_address() -> None:
    """For connectors that speak something else than HTTP."""

    async def run(network: Network) -> str:
        async with inside() as server:
            connection = await Guard(network).connect("localhost", server.port)
            with connection:
                return str(connection.getpeername()[0])

    assert asyncio.run(run(Network((ip_network("127.0.0.0/8"),)))) == INSIDE
    with pytest.raises(Refused, match="loopback"):
        asyncio.run(run(NOBODY))


def test_a_line_break_in_a_header_is_never_sent() -> None:
    """Whoever made the header."""

    async def run() -> int:
        async with inside() as server:
            wire = Wire(Limits(timeout=2.0, network=Network((ip_network(INSIDE),))))
            try:
                with pytest.raises(Broken):
                    await wire.exchange("POST", URL(f"http://{INSIDE}:{server.port}/"), [("x-a", "1\r\nx-b: 2")], b"")
            finally:
                await wire.close()
            return server.bytes

    assert asyncio.run(run()) == 0
