"""The addresses in hub.yaml: the source's, the store's, the console's.

Messages never show a URL: it holds a password.
"""

from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from hub.project import Console
from hub.suggestions import did_you_mean
from hub.yaml_fields import Fields

DEFAULT_STORE = "sqlite:///var/hub.db"
# The parameters that libpq and pgjdbc both have, under libpq's name.
SOURCE_PARAMETERS = (
    "application_name",
    "channel_binding",
    "connect_timeout",
    "gssencmode",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "options",
    "sslcert",
    "sslcrl",
    "sslkey",
    "sslmode",
    "sslpassword",
    "sslrootcert",
    "target_session_attrs",
    "tcp_user_timeout",
)
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SHAPE = "Write postgresql://user:password@host:5432/database, special characters percent-encoded."


def source_url_fault(url: str) -> tuple[str, str] | None:
    """What is wrong with a source's URL and the remedy; None when nothing is."""
    try:
        parts = urlsplit(url)
        host, user, _ = parts.hostname, parts.username, parts.port
    except ValueError:
        return "is not a URL.", _SHAPE
    if parts.scheme not in ("postgresql", "postgres"):
        return "is not a Postgres URL.", _SHAPE
    if not host or not user or not parts.path.strip("/"):
        missing = "host" if not host else "user" if not user else "database"
        return f"names no {missing}.", _SHAPE
    return _parameter_fault(dict(parse_qsl(parts.query, keep_blank_values=True)))


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
    scheme, separator, rest = url.partition("://")
    if scheme == "sqlite" and separator:
        path = rest.removeprefix("/")
        if not rest.startswith("/") or not path.partition("?")[0] or path.startswith(":memory:"):
            fields.wrong("store", "names no file.", f"Write {DEFAULT_STORE}.")
        return f"sqlite:///{directory / path}"
    if scheme in ("postgresql", "postgres", "postgresql+psycopg") and separator:
        return f"postgresql+psycopg://{rest}"
    if url:
        fields.wrong(
            "store",
            "is neither a SQLite nor a Postgres URL.",
            f"Write {DEFAULT_STORE}, or postgresql+psycopg://user:password@host/database.",
        )
    return url


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
