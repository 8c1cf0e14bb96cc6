"""The addresses in hub.yaml."""

from pathlib import Path

import pytest

from cdc.settings import connection_settings
from hub.project.addresses import SOURCE_PARAMETERS, console_address, source_url_fault, store_url
from hub.project.problems import Problems
from hub.project.yaml_fields import Fields
from hub.project.yaml_source import read_yaml

VALUES = {"sslmode": "require", "target_session_attrs": "any", "port": "5432", "connect_timeout": "5"}


def fields(text: str, problems: Problems) -> Fields:
    node = read_yaml(text.encode(), "hub.yaml", {}, problems)
    assert node is not None
    return Fields(node, "hub.yaml", None, problems)


@pytest.mark.parametrize("name", SOURCE_PARAMETERS)
def test_the_way_in_takes_every_parameter_that_is_let_through(name: str) -> None:
    """What `hub check` accepts in a source's URL, Debezium's settings can be made of."""
    url = f"postgresql://hub:secret@db:5432/shop?{name}={VALUES.get(name, 'x')}"

    assert source_url_fault(url) is None
    assert connection_settings(url)


@pytest.mark.parametrize(
    ("url", "fits"),
    [
        ("postgresql://u:p@h/d", True),
        ("postgres://u@[::1]:5433/d", True),
        ("postgresql://u:p%40%2F@h/d", True),
        ("postgresql:///d?host=h&user=u", True),
        ("postgresql://h/d", False),
        ("postgresql://u@/d", False),
        ("postgresql://u@h", False),
        ("postgresql://u@h:port/d", False),
        ("postgresql://[u@h/d", False),
        ("host=h user=u dbname=d", False),
        ("postgresql://u:a/b@h/d", False),
    ],
)
def test_source_urls(url: str, fits: bool) -> None:
    """Host, user and database are named, in the URL or its parameters."""
    assert (source_url_fault(url) is None) is fits


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("sqlite:///var/hub.db", "sqlite:////project/var/hub.db"),
        ("sqlite:////data/hub.db", "sqlite:////data/hub.db"),
        ("sqlite:///../hub.db", "sqlite:////project/../hub.db"),
        ("postgresql://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("postgresql+psycopg://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
    ],
)
def test_store_urls(written: str, expected: str) -> None:
    """A relative path is below the project; a plain Postgres URL gets the driver that is installed."""
    problems = Problems()

    assert store_url(fields(f"store: {written}", problems), Path("/project")) == expected
    assert not problems.found


@pytest.mark.parametrize(
    "written", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:var", "oracle://x", "/var/x"]
)
def test_stores_that_are_none(written: str) -> None:
    """A store is a file or a Postgres database."""
    problems = Problems()
    store_url(fields(f"store: '{written}'", problems), Path("/project"))

    assert len(problems.found) == 1


@pytest.mark.parametrize(
    ("written", "expected"),
    [("0.0.0.0:80", ("0.0.0.0", 80)), ("[::1]:8080", ("::1", 8080)), ("hub.internal:65535", ("hub.internal", 65535))],
)
def test_console_addresses(written: str, expected: tuple[str, int]) -> None:
    """Host and port."""
    problems = Problems()

    assert console_address(fields(f"listen: '{written}'", problems)) == expected
    assert not problems.found


@pytest.mark.parametrize("written", ["localhost", ":80", "h:65536", "h:-1", "h:x", "h:²"])
def test_console_addresses_that_are_none(written: str) -> None:
    """Anything else is a problem."""
    problems = Problems()
    console_address(fields(f"listen: '{written}'", problems))

    assert len(problems.found) == 1
