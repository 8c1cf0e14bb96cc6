"""Mail, to a real server."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from connectors.smtp import CONNECTOR, SmtpConnector, SmtpSettings
from hub.connector import read_settings
from hub.delivery import Message, Outcome, OutcomeKind
from hub.errors import ProjectError
from hub.project import Destination, Limits, Network
from hub.store.workers import Evicted
from tests.certificates import Authority
from tests.mailbox import Mailbox

WITHIN = Limits(network=Network((ip_network("127.0.0.0/8"),)))
BODY = {"to": "Ada <ada@example.org>", "subject": "Your order", "text": "It is on its way."}


@pytest.fixture(scope="module")
def mailbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mailbox]:
    with Mailbox(tmp_path_factory.mktemp("mailbox")) as server:
        yield server


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def message(number: int = 1, **body: Any) -> Message:
    content = json.dumps({**BODY, **body}).encode()
    return Message(f"msg_{number}", "welcome", "order", str(number), 1, "created", content, "application/json", 1)


def settings(mailbox: Mailbox, **more: Any) -> dict[str, Any]:
    plain = {"host": mailbox.host, "port": mailbox.port, "security": "none", "from": "Shop <shop@shop.example>"}
    return {**plain, **more}


def deliver(settings: dict[str, Any], *messages: Message, limits: Limits = WITHIN) -> list[Outcome]:
    """Open the connector, deliver once, close it."""

    async def run() -> Sequence[Outcome]:
        connector = SmtpConnector(read_settings(CONNECTOR, Destination("mail", "smtp", settings=settings)), limits)
        try:
            return await connector.deliver(messages or [message()])
        finally:
            await connector.close()

    return list(asyncio.run(run()))


def test_a_mail_has_what_the_body_says(mailbox: Mailbox) -> None:
    """Plain and HTML, names outside ASCII, blind copies in the envelope alone."""

    outcome = deliver(
        settings(mailbox),
        message(
            7,
            to=["Zoë Müller <zoe@exämple.org>", "ada@example.org"],
            bcc="audit@shop.example",
            reply_to="help@shop.example",
            subject="Größe " * 30,
            text=".dot first\n" + "long " * 500,
            html="<p>Grüße</p>",
            headers={"List-Unsubscribe": "<https://shop.example/u/1>"},
        ),
    )[0]

    got = mailbox.log()[-1]
    plain, html = got.mail.iter_parts()
    assert outcome == Outcome(OutcomeKind.DELIVERED, "250 2.0.0 Ok: queued as 4XyZ1", receiver_id="4XyZ1")
    assert got.recipients == ["zoe@xn--exmple-cua.org", "ada@example.org", "audit@shop.example"]
    assert (got.sender, got.id) == ("shop@shop.example", "<msg_7@shop.example>")
    assert [address.display_name for address in got.mail["To"].addresses] == ["Zoë Müller", ""]
    assert got.mail["Subject"] == "Größe " * 30
    assert plain.get_content().replace("\r\n", "\n") == ".dot first\n" + "long " * 500 + "\n"
    assert html.get_content().strip() == "<p>Grüße</p>"
    assert (got.mail["Reply-To"], got.mail["Bcc"], got.mail["Auto-Submitted"]) == (
        "help@shop.example",
        None,
        "auto-generated",
    )
    assert got.mail["List-Unsubscribe"] == "<https://shop.example/u/1>"
    assert got.content.isascii()


def test_an_address_outside_ascii_needs_the_servers_consent(mailbox: Mailbox) -> None:
    """SMTPUTF8, which this one offers."""

    assert deliver(settings(mailbox), message(to="zoë@example.org"))[0].kind is OutcomeKind.DELIVERED
    assert mailbox.log()[-1].recipients == ["zoë@example.org"]


def test_mails_share_a_connection_and_a_no_does_not_end_it(mailbox: Mailbox) -> None:
    """Each has its own Message-ID; what came after a refused one is sent."""

    before = len(mailbox.log())
    faults = message(2, to="550-rcpt@x.example"), message(3, to="554-data@x.example")

    outcomes = deliver(settings(mailbox), message(1), *faults, message(4))
    assert [one.kind for one in outcomes] == [
        OutcomeKind.DELIVERED,
        OutcomeKind.REFUSED,
        OutcomeKind.REFUSED,
        OutcomeKind.DELIVERED,
    ]
    assert [one.id for one in mailbox.log()[before:]] == ["<msg_1@shop.example>", "<msg_4@shop.example>"]
    assert outcomes[1].detail == "550 5.7.1 as 550-rcpt@x.example wants it (550-rcpt@x.example)"


@pytest.mark.parametrize(
    ("recipient", "kind"),
    [
        ("450-rcpt@x.example", OutcomeKind.RETRY),
        ("452-data@x.example", OutcomeKind.RETRY),
        ("550-rcpt@x.example", OutcomeKind.REFUSED),
        ("552-data@x.example", OutcomeKind.REFUSED),
        ("530-rcpt@x.example", OutcomeKind.HELD),
        ("421-rcpt@x.example", OutcomeKind.HELD),
        ("421-data@x.example", OutcomeKind.HELD),
    ],
)
def test_codes(mailbox: Mailbox, recipient: str, kind: OutcomeKind) -> None:
    """4xx waits, 5xx is a no, 421 and 530 are the server's; one recipient's no is the mail's."""

    before = len(mailbox.log())

    assert deliver(settings(mailbox), message(to=["ada@example.org", recipient]))[0].kind is kind
    assert len(mailbox.log()) == before


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ({"to": "ada@example.org, eve@example.org"}, "not one address"),
        ({"to": "ada@example.org\r\nBcc: eve@example.org"}, "line break"),
        ({"to": "ada"}, "not one address"),
        ({"to": []}, "no recipient"),
        ({"to": [f"a{number}@x.example" for number in range(101)]}, "101 recipients"),
        ({"subject": "Hello\r\nBcc: eve@example.org"}, "`subject` has a line break"),
        ({"subject": 5}, "body is no mail: Expected str, got int - at $.subject"),
        ({"text": ""}, "neither `text` nor `html`"),
        ({"tex": ""}, "unknown field tex"),
        ({"headers": {"Message-ID": "<1@x>"}}, "Message-ID is set by the hub"),
        ({"headers": {"X A": "1"}}, "no header name"),
        ({"headers": {"X-A": "1\nBcc: eve@example.org"}}, "`X-A` has a line break"),
    ],
)
def test_what_is_no_mail_is_refused(mailbox: Mailbox, body: dict[str, Any], what: str) -> None:
    """A document's text adds no recipient and no header."""

    before = len(mailbox.log())
    outcome = deliver(settings(mailbox), message(**body))[0]

    assert outcome.kind is OutcomeKind.REFUSED
    assert what in outcome.detail
    assert len(mailbox.log()) == before


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_tls_and_login(tmp_path: Path, authority: Authority, security: str) -> None:
    """The certificate has to be for the host; a wrong password holds the destination and is not shown."""
    certificate = authority.issue("localhost")
    with Mailbox(tmp_path, certificate=certificate, tls=security, login="hub:s3cr3t") as server:
        right = settings(server, host="localhost", security=security, ca_file=str(authority.certificate))
        login = {"username": "hub", "password": "s3cr3t"}

        assert deliver({**right, **login})[0].kind is OutcomeKind.DELIVERED
        assert (server.log()[0].tls, server.log()[0].login) == (True, "hub")

        wrong = deliver({**right, **login, "password": "Wr0ng"})[0]
        assert wrong.kind is OutcomeKind.HELD and "535" in wrong.detail and "Wr0ng" not in wrong.detail
        assert deliver(right)[0].kind is OutcomeKind.HELD
        assert deliver({**right, **login, "host": server.host})[0].kind is OutcomeKind.HELD
        untrusted = deliver({**right, **login, "ca_file": ""})[0]
        assert untrusted.kind is OutcomeKind.HELD and "certificate" in untrusted.detail
        assert len(server.log()) == 1


@pytest.mark.usefixtures("evicted")
def test_a_worker_that_may_not_send_any_more_sends_nothing(mailbox: Mailbox) -> None:
    """It was stopped while it spoke with the server, and another one has the delivery."""
    before = len(mailbox.log())
    with pytest.raises(Evicted):
        deliver(settings(mailbox))

    assert len(mailbox.log()) == before


def test_a_server_without_tls_is_held(mailbox: Mailbox) -> None:
    """Nothing is sent in the clear that was to be encrypted."""

    assert deliver(settings(mailbox, security="starttls"))[0].kind is OutcomeKind.HELD


def test_a_server_inside_is_not_connected_to(mailbox: Mailbox) -> None:
    """Unless hub.yaml allows it, whatever its name."""

    for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1"):
        outcome = deliver(settings(mailbox, host=host), limits=Limits())[0]
        assert outcome.kind is OutcomeKind.HELD and "network: {allow: […]}" in outcome.detail


def test_no_server_is_held() -> None:
    """It says nothing of the mail."""

    down = {"host": "127.0.0.1", "port": 9, "from": "a@shop.example"}

    assert [one.kind for one in deliver(down)] == [OutcomeKind.HELD]


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        ({"from": "shop"}, "`from`"),
        ({"host": ""}, "`host`"),
        ({"port": 70000}, "`port`"),
        ({"security": "ssl"}, "security"),
        ({"username": "a", "password": "b", "security": "none"}, "in the clear"),
        ({"username": "a"}, "belong together"),
        ({"ca_file": "/none.pem"}, "ca_file"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], what: str) -> None:
    """Before anything is sent."""
    right = {"host": "smtp.example.com", "from": "shop@shop.example"}

    with pytest.raises(ProjectError, match=what):
        read_settings(CONNECTOR, Destination("mail", "smtp", settings=right | wrong))


def test_the_message_id_is_of_the_domain_that_is_set(mailbox: Mailbox) -> None:
    """The sender's unless another is given; the same however often the delivery comes."""

    for _ in range(2):
        deliver(settings(mailbox, message_id_domain="mail.shop.example"))

    assert [one.id for one in mailbox.log()[-2:]] == ["<msg_1@mail.shop.example>"] * 2
    assert SmtpSettings("h", "a@b").message_id_domain == ""
