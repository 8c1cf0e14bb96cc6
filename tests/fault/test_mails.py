"""A mail cannot be taken back: how often one goes out twice when dispatch is killed, and when it cannot."""

import smtplib
from collections import Counter
from pathlib import Path

import pytest

from hub.store.database import Store
from hub.subscriptions import delivery_id
from tests.integration.dispatching import Bench, start_delivering
from tests.mailbox import Mailbox

pytestmark = pytest.mark.fault

KILLS = 6
EACH = 25  # mails between two kills, about


def test_a_mail_comes_twice_only_when_its_acceptance_was_not_stored(tmp_path: Path) -> None:
    """The server took it, and dispatch was killed before the store knew: nobody can tell, so the same id goes again.

    No other mail comes twice, and none is missing.
    """
    store = Store(f"sqlite:///{tmp_path / 'hub.db'}")
    bench = Bench(store)
    unavoidable: Counter[str] = Counter()
    with Mailbox(tmp_path) as mailbox:
        settings = {"host": mailbox.host, "port": mailbox.port, "security": "none", "from": "shop@shop.example"}
        bench.subscribe("crm", settings)
        bench.commit(*map(str, range(KILLS * EACH)))
        for kill in range(1, KILLS + 1):
            worker = start_delivering(store, settings, concurrency=4)
            try:
                mailbox.wait_for(len(mailbox.log()) + (EACH if kill < KILLS else len(bench.rows())))
            finally:
                worker.kill()
                worker.wait()
            _let_it_end(mailbox)
            unavoidable.update(_waiting(bench) & {mail.id for mail in mailbox.log()})
        last = start_delivering(store, settings, concurrency=4)
        try:
            mailbox.wait_for(len(mailbox.log()) + len(bench.rows()))
        finally:
            last.kill()
            last.wait()
        mails = mailbox.log()
    store.close()

    came = Counter(mail.id for mail in mails)
    print(f"{KILLS} kills in {len(came)} mails: {sum(unavoidable.values())} came twice")
    assert len(came) == KILLS * EACH
    assert {id: count - 1 for id, count in came.items() if count > 1} == dict(unavoidable)
    assert len({(mail.id, mail.mail.get_content()) for mail in mails}) == len(came)


def _let_it_end(mailbox: Mailbox) -> None:
    """What the killed one had sent is taken or given up once the server has answered another."""
    with smtplib.SMTP(mailbox.host, mailbox.port) as client:
        for _ in range(3):
            client.noop()


def _waiting(bench: Bench) -> set[str]:
    """The Message-IDs of what the store takes for undelivered."""
    identity = bench.store.identity()
    ids = (delivery_id(identity, "crm", "order", row.key, row.version, row.turn) for row in bench.rows())
    return {f"<{id}@shop.example>" for id in ids}
