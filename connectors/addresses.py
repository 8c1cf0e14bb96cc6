"""Which addresses a connector may connect to, judged where it connects, so that no answer of DNS comes between.

Destinations' names are resolved by somebody's DNS, and what that says may change from one moment to the next. So it is
the address of the very connection that is checked: each socket is made by `Guard`, which makes none for an address
that is neither public nor allowed by hub.yaml.
"""

import asyncio
import errno
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from hub.project import Network

Address = IPv4Address | IPv6Address
AddressInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[str | int | bytes, ...]]

NAT64 = IPv6Network("64:ff9b::/96")  # its last 32 bits are the IPv4 address that is reached
PUBLIC = IPv6Network("2000::/3")  # all that is given out of IPv6; the rest is reserved

# The IANA registries of special addresses, for what a receiver on the internet never has.
SPECIAL: tuple[tuple[IPv4Network | IPv6Network, str], ...] = tuple(
    (ip_network(network), what)
    for network, what in (
        ("0.0.0.0/8", "an unspecified address"),
        ("10.0.0.0/8", "a private address"),
        ("100.64.0.0/10", "an address behind a carrier's NAT"),
        ("127.0.0.0/8", "a loopback address"),
        ("169.254.0.0/16", "a link-local address"),
        ("172.16.0.0/12", "a private address"),
        ("192.0.0.0/24", "a reserved address"),
        ("192.0.2.0/24", "an address for documentation"),
        ("192.88.99.0/24", "a 6to4 relay's address"),
        ("192.168.0.0/16", "a private address"),
        ("198.18.0.0/15", "an address for benchmarks"),
        ("198.51.100.0/24", "an address for documentation"),
        ("203.0.113.0/24", "an address for documentation"),
        ("224.0.0.0/4", "a multicast address"),
        ("240.0.0.0/4", "a reserved address"),
        ("::/128", "an unspecified address"),
        ("::1/128", "a loopback address"),
        ("2001::/32", "a Teredo address"),
        ("2001::/23", "a reserved address"),
        ("2001:db8::/32", "an address for documentation"),
        ("2002::/16", "a 6to4 address"),
        ("3fff::/20", "an address for documentation"),
        ("fc00::/7", "a private address"),
        ("fe80::/10", "a link-local address"),
        ("fec0::/10", "a site-local address"),
        ("ff00::/8", "a multicast address"),
    )
)

# Where clouds give credentials to whoever asks. No network that is allowed includes them: each has to be named alone.
METADATA = frozenset(
    map(
        ip_address,
        (
            "169.254.169.254",  # nearly all of them
            "169.254.170.2",  # Amazon's containers
            "169.254.170.23",
            "168.63.129.16",  # Azure, from its public range
            "100.100.100.200",  # Alibaba
            "192.0.0.192",  # Oracle
            "fd00:ec2::254",  # Amazon
            "fd00:ec2::23",
            "fd20:ce::254",  # Google
        ),
    )
)


class Refused(OSError):
    """No connection is made to that address; `strerror` says why, with the remedy."""


class Guard:
    """Makes the sockets of a connector's connections, each for one address: aiohttp's `socket_factory`."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def __call__(self, info: AddressInfo) -> socket.socket:
        """A non-blocking socket to connect to that address with. Refused when that must not be."""
        family, kind, protocol, _, place = info
        host = str(place[0])
        what = fault(host, self._network)
        if what:
            remedy = "If it is meant, add it to `network: {allow: […]}` in hub.yaml."
            raise Refused(errno.EACCES, f"{host} is {what}. {remedy}")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made

    async def connect(self, host: str, port: int) -> socket.socket:
        """A connection to the first address of `host` that takes one. OSError when none does."""
        loop = asyncio.get_running_loop()
        faults: list[OSError] = []
        for info in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                made = self(info)
            except OSError as error:
                faults.append(error)
                continue
            try:
                await loop.sock_connect(made, info[4])
                return made
            except OSError as error:
                made.close()
                faults.append(error)
            except BaseException:
                made.close()
                raise
        raise next((fault for fault in faults if isinstance(fault, Refused)), faults[0])


def fault(text: str, network: Network) -> str:
    """What keeps an address from being connected to, "a private address" for example; "" when nothing does.

    Other ways to write one than the plain one (decimal, octal, hexadecimal, shortened) are no address here: who hands
    them on to the system would reach whatever that makes of them.
    """
    try:
        address = reached(ip_address(text))
    except ValueError:
        return "no IP address as it is plainly written"
    if address in METADATA:
        return "" if _is_named(address, network.allow) else "a cloud's metadata service"
    if any(address in allowed for allowed in network.allow):
        return ""
    found = next((what for special, what in SPECIAL if address in special), "")
    return found or ("a reserved address" if address.version == 6 and address not in PUBLIC else "")


def reached(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, where it is IPv4-mapped or of NAT64; else itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in NAT64:
        return IPv4Address(address.packed[-4:])
    return address.ipv4_mapped or address


def _is_named(address: Address, allow: Iterable[IPv4Network | IPv6Network]) -> bool:
    return any(address in network and network.num_addresses == 1 for network in allow)
