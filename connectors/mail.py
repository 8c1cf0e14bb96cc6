"""A delivery's body as a mail: who gets it, and its bytes, plain and HTML.

The body is the subscription's, a map whose values are rendered already:

    to, cc, bcc    an address, with or without a name, or a list of them
    subject        one line
    text, html     the content; at least one of them, both for readers of either kind
    reply_to       an address
    headers        more of them, by name
"""

import re
from datetime import datetime
from email.errors import NonASCIILocalPartDefect
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8, EmailPolicy
from email.utils import format_datetime

import msgspec

from hub.delivery import Message

RECIPIENTS = 100  # of one mail: what every server has to take
SEVEN_BIT = SMTP.clone(cte_type="7bit")  # not every server takes more
_HEADER = re.compile(r"[!-9;-~]+")
OURS = frozenset(
    {
        "auto-submitted",
        "bcc",
        "cc",
        "content-transfer-encoding",
        "content-type",
        "date",
        "from",
        "message-id",
        "mime-version",
        "reply-to",
        "sender",
        "subject",
        "to",
    }
)


class NoMail(Exception):
    """The body does not say a mail that can be sent. One sentence with the remedy."""


class Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    to: str | list[str]
    subject: str
    text: str = ""
    html: str = ""
    cc: str | list[str] = []
    bcc: str | list[str] = []
    reply_to: str = ""
    headers: dict[str, str] = {}


class Mail(msgspec.Struct, frozen=True):
    """Ready to be handed to a server."""

    recipients: tuple[str, ...]  # each once
    content: bytes
    utf8: bool  # an address is outside ASCII: the server has to offer SMTPUTF8


def make_mail(message: Message, sender: Address, domain: str, now: datetime) -> Mail:
    """The same delivery always has the same Message-ID, so that what comes twice can be told. NoMail if it is none."""
    body = _read(message)
    to, cc, bcc = (_addresses(name, getattr(body, name)) for name in ("to", "cc", "bcc"))
    recipients = tuple(dict.fromkeys(one.addr_spec for one in (*to, *cc, *bcc)))
    if not recipients:
        raise NoMail("The mail has no recipient: `to` is empty.")
    if len(recipients) > RECIPIENTS:
        raise NoMail(f"The mail has {len(recipients)} recipients, more than {RECIPIENTS}. Send to a list's address.")
    utf8 = not all(one.isascii() for one in (*recipients, sender.addr_spec))
    made = EmailMessage(policy=SMTPUTF8 if utf8 else SEVEN_BIT)
    made["Message-ID"] = f"<{message.id}@{domain}>"
    made["Date"] = format_datetime(now)
    made["From"] = sender
    made["To"] = to
    if cc:
        made["Cc"] = cc
    if body.reply_to:
        made["Reply-To"] = _addresses("reply_to", body.reply_to)
    made["Subject"] = _line("subject", body.subject)
    made["Auto-Submitted"] = "auto-generated"  # so that no absence notice comes back
    for name, value in body.headers.items():
        made[_header_name(name)] = _line(name, value)
    _fill(made, body)
    return Mail(recipients, made.as_bytes(), utf8)


def parse_address(text: str) -> Address:
    """One address, `Name <local@domain>` or without a name; NoMail for anything else."""
    if any(not character.isprintable() for character in text):
        raise NoMail(f"{text!r} is no address: it has a line break or a control character.")
    header = EmailPolicy(utf8=True).header_factory("to", text)
    found = header.addresses
    defects = [one for one in header.defects if not isinstance(one, NonASCIILocalPartDefect)]
    if defects or len(found) != 1 or not (found[0].username and found[0].domain):
        raise NoMail(f"{text!r} is not one address. Write local@domain or Name <local@domain>; several as a list.")
    return _ascii_domain(found[0])


def _ascii_domain(address: Address) -> Address:
    try:
        domain = address.domain.encode("idna").decode()
    except UnicodeError as error:
        raise NoMail(f"{address.domain!r} is no domain.") from error
    return Address(address.display_name, address.username, domain)


def _read(message: Message) -> Body:
    try:
        return msgspec.json.decode(message.content, type=Body)
    except msgspec.DecodeError as error:
        what = str(error).replace("`", "")
        raise NoMail(
            f"The body is no mail: {what}. Give the subscription a `body:` with to, subject and text or html."
        ) from error


def _addresses(name: str, given: str | list[str]) -> list[Address]:
    texts = [given] if isinstance(given, str) else given
    try:
        return [parse_address(text) for text in texts]
    except NoMail as error:
        raise NoMail(f"`{name}`: {error}") from error


def _line(name: str, value: str) -> str:
    if any(character in value for character in "\r\n\0"):
        raise NoMail(f"`{name}` has a line break. Write it on one line.")
    return value


def _header_name(name: str) -> str:
    if not _HEADER.fullmatch(name):
        raise NoMail(f"`headers`: {name!r} is no header name. Use letters, digits and hyphens.")
    if name.lower() in OURS:
        raise NoMail(f"`headers`: {name} is set by the hub. Leave it out.")
    return name


def _fill(made: EmailMessage, body: Body) -> None:
    if not (body.text or body.html):
        raise NoMail("The mail is empty: it has neither `text` nor `html`.")
    if body.text:
        made.set_content(body.text)
    if body.text and body.html:
        made.add_alternative(body.html, subtype="html")
    elif body.html:
        made.set_content(body.html, subtype="html")
