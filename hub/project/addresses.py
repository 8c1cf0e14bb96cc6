"""The addresses in hub.yaml: the source's, the store's, the console's, and those that connectors may reach.

Messages never show a URL: it holds a password.
"""

from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from hub.project import Console
from hub.project.suggestions import did_you_mean
from hub.project.yaml_fields import Fields

DEFAULT_STORE = "sqlite:///var/hub.db"
_POSTGRES_STORES = ("postgresql", "postgres", "postgresql+psycopg")
_PARTS = ("host", "port", "user", "password", "dbname")
# libpq's parameters that Debezium's driver has too, or that change nothing of what is captured.
SOURCE_PARAMETERS = (
    *_PARTS,
    "application_name",
    "channel_binding",
    "client_encoding",
    "connect_timeout",
    "fallback_application_name",
    "gssencmode",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "options",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslnegotiation",
    "sslpassword",
    "sslrootcert",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
)
# Words for what `network:` may allow.
NETWORKS = {
    "localhost": ("127.0.0.0/8", "::1/128"),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
}
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SHAPE = "Write postgresql://user:password@host:5432/database, special characters percent-encoded."


def source_url_fault(url: str) -> tuple[str, str] | None:
    """What is wrong with a source's URL and the remedy; None when nothing is."""
    try:
        parts = urlsplit(url)
        written = {"host": parts.hostname, "user": parts.username, "dbname": parts.path.strip("/"), "port": parts.port}
    except ValueError:
        return "is not a URL.", _SHAPE
    if parts.scheme not in ("postgresql", "postgres"):
        return "is not a Postgres URL.", _SHAPE
    parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name, word in (("host", "host"), ("user", "user"), ("dbname", "database")):
        if not (parameters.get(name) or written[name]):
            return f"names no {word}.", _SHAPE
    return _parameter_fault(parameters)


def _parameter_fault(parameters: dict[str, str]) -> tuple[str, str] | None:
    for name in parameters:
        if name not in SOURCE_PARAMETERS:
            return f"has a parameter {name!r}, which is not known.", did_you_mean(name, SOURCE_PARAMETERS)
    mode = parameters.get("sslmode", "prefer")
    if mode not in SSL_MODES:
        return f"has sslmode {mode!r}, which is not known.", did_you_mean(mode, SSL_MODES)
    return None


def store_url(fields: Fields, directory: Path) -> str:
    """The store as an SQLAlchemy URL; a relative SQLite path is below the project directory."""
    url = fields.text("store", DEFAULT_STORE)
    if url and (fault := store_url_fault(url)):
        fields.wrong("store", *fault)
    return resolve_store(url, directory)


def store_url_fault(url: str) -> tuple[str, str] | None:
    """What is wrong with a store's URL and the remedy; None when nothing is."""
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite" and separator:
        path = rest.removeprefix("/")
        if not rest.startswith("/") or not path.partition("?")[0] or path.startswith(":memory:"):
            return "names no file.", f"Write {DEFAULT_STORE}."
        return None
    if scheme in _POSTGRES_STORES and separator:
        return None
    return (
        "is neither a SQLite nor a Postgres URL.",
        f"Write {DEFAULT_STORE}, or postgresql+psycopg://user:password@host/database.",
    )


def resolve_store(url: str, directory: Path) -> str:
    """A store's URL as SQLAlchemy takes it; a relative SQLite path is below `directory`."""
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite" and separator:
        return f"sqlite:///{directory / rest.removeprefix('/')}"
    return f"postgresql+psycopg://{rest}" if scheme in _POSTGRES_STORES and separator else url


def console_address(fields: Fields) -> tuple[str, int]:
    """Host and port of `listen`, written `host:port` or `[::1]:port`."""
    default = Console()
    text = fields.text("listen")
    if not text:
        return default.host, default.port
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port[:6]) > 65535:
        fields.wrong("listen", "is not an address.", "Write host:port, 127.0.0.1:8080 for example.")
        return default.host, default.port
    return host.strip("[]"), int(port)


def allowed_networks(fields: Fields) -> tuple[IPv4Network | IPv6Network, ...]:
    """The networks of `allow`: each an address, a network, or a word of NETWORKS."""
    found: list[IPv4Network | IPv6Network] = []
    for text in fields.names("allow"):
        try:
            found += [ip_network(one) for one in NETWORKS.get(text, (text,))]
        except ValueError:
            what = f"holds {text!r}, which is no network."
            fields.wrong("allow", what, _nearest_network(text))
    return tuple(found)


def _nearest_network(text: str) -> str:
    try:
        return f"Write {ip_network(text, strict=False)}, or {text.partition('/')[0]} for that address alone."
    except ValueError:
        return f"Write addresses or networks, 10.0.0.0/8 for example, or {' or '.join(NETWORKS)}."
