"""What goes wrong around the hub: a plain sentence with the remedy, the right exit code, nothing lost."""

import json
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from examples.postgres import LocalPostgres
from tests.acceptance.conftest import MakeDatabase
from tests.acceptance.legacy_shop import Shop, execute, open_shop
from tests.conftest import _missing
from tests.oracle import journal
from tests.receiver import Receiver


@pytest.fixture(scope="module")
def slot() -> str:
    return f"bad_{uuid.uuid4().hex[:8]}"


@pytest.fixture(scope="module")
def legacy(make_database: MakeDatabase, slot: str) -> str:
    """The application that nothing but refusals happen to."""
    url = make_database()
    open_shop(url, slot)
    execute(
        url,
        f"CREATE ROLE {slot}_bare LOGIN PASSWORD 'secret'",
        f"GRANT SELECT ON customers TO {slot}_bare",
    )
    return url


@pytest.fixture
def shop(legacy: str, slot: str, tmp_path: Path) -> Shop:
    return Shop(tmp_path / "project", legacy, slot)


@pytest.fixture
def own_server() -> Iterator[Callable[..., LocalPostgres]]:
    """Starts a Postgres with settings of its own."""
    with tempfile.TemporaryDirectory(prefix="hub-bad-input-") as directory:
        Path(directory).chmod(0o755)
        started: list[LocalPostgres] = []

        def start(**settings: str) -> LocalPostgres:
            started.append(LocalPostgres(Path(directory) / str(len(started)), "debian", settings))
            started[-1].start()
            return started[-1]

        yield start
        for server in started:
            server.stop(immediate=True)


def _user(url: str, user: str, password: str) -> str:
    return url.replace("postgres:postgres@", f"{user}:{password}@")


def _place(url: str) -> str:
    return url.partition("@")[2].partition("/")[0]


# before anything is followed


def test_an_unreachable_source_ends_a_first_run(shop: Shop, slot: str) -> None:
    """Exit code 3 at once: no restart mends it."""
    shop.point_to("postgresql://hub:secret@127.0.0.1:1/legacy", slot)

    said = shop.says("run", ends_with=3)

    assert said == (
        "hub: The source at 127.0.0.1:1 cannot be reached: Connection refused. "
        "Check the source's url and that it runs.\n"
    )


def test_a_wrong_password(shop: Shop, slot: str, legacy: str) -> None:
    """Named with its role, never printed."""
    shop.point_to(_user(legacy, "postgres", "wr0ng"), slot)

    said = shop.says("run", ends_with=3)

    assert said == (
        f"hub: The source at {_place(legacy)} refuses the password of postgres. "
        "Put the right one into the source's url.\n"
    )


def test_missing_grants_are_said_all_at_once(shop: Shop, slot: str, legacy: str) -> None:
    """Each with the statement that gives it."""
    role = f"{slot}_bare"
    shop.point_to(_user(legacy, role, "secret"), slot)

    said = shop.says("run", ends_with=3)

    assert f'The role {role} may not replicate. ALTER ROLE "{role}" REPLICATION;' in said
    assert f'The role {role} may not read public.orders. GRANT SELECT ON "public"."orders" TO "{role}";' in said
    assert f'GRANT SELECT ON "public"."products" TO "{role}";' in said
    assert '"customers"' not in said


def test_a_missing_publication(shop: Shop, slot: str, legacy: str) -> None:
    """The remedy is the SQL for the DBA."""
    shop.point_to(legacy, f"{slot}_none")

    said = shop.says("run", ends_with=3)

    assert f"There is no publication {slot}_none. Have a DBA run the SQL of `hub source sql`." in said


def test_a_slot_that_this_store_has_never_used_is_left_alone(shop: Shop, slot: str, legacy: str) -> None:
    """Refused every time, not just the first; the slot stays."""
    execute(legacy, f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    try:
        for _ in range(2):
            said = shop.says("run", ends_with=3)
            assert f"The replication slot {slot} exists, and this store has never read from it." in said
            assert f"pg_drop_replication_slot('{slot}')" in said
    finally:
        execute(legacy, f"SELECT pg_drop_replication_slot('{slot}')")  # it fails when the hub has dropped it


def test_tables_and_columns_that_do_not_fit(shop: Shop) -> None:
    """All of them at once, each with its place and what was meant; exit code 2."""
    shop.write(
        {
            "entities/event.yaml": "entity: event\ntable: events\nkey: id\n",
            "entities/order.yaml": "entity: order\ntable: orders\ncolumns: {exclude: [state]}\n",
            "entities/product.yaml": "entity: product\ntable: product\n",
        }
    )

    said = shop.says("run", ends_with=2)

    assert "entities/event.yaml:2:1: public.events has no primary key" in said
    assert "entities/order.yaml:3:21: public.orders has no column 'state'. Did you mean 'status'?" in said
    assert "entities/product.yaml:2:1: The source has no table public.product." in said


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("entity: product\ntable: [products\n", "entities/product.yaml:3:1: A '[' is not closed"),
        ("entity: product\nbelongs_to: &a\n  x: *a\n", "entities/product.yaml:2:13: An alias refers to a value"),
        (
            "a: &a [1,1,1,1,1,1,1,1,1]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
            "d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n",
            "more than 20,000 values with its aliases written out",
        ),
        ("entity: order\ntable: orders\n", "The entity 'order' is already defined in entities/order.yaml:1."),
    ],
    ids=["broken", "inside itself", "billion laughs", "two files with one name"],
)
def test_yaml_that_cannot_be_meant(shop: Shop, yaml: str, said: str) -> None:
    """Exit code 2, with file, line, column and remedy, and no time or memory spent on it."""
    shop.write({"entities/product.yaml": yaml})

    assert said in shop.says("run", ends_with=2)


def test_servers_that_cannot_be_followed(own_server: Callable[..., LocalPostgres], tmp_path: Path) -> None:
    """wal_level is not logical; then no slot is free."""
    server = own_server(wal_level="replica", max_replication_slots="1")
    execute(server.url(), "SET client_min_messages = error", "SELECT pg_create_physical_replication_slot('other')")
    open_shop(server.url(), "hub")
    shop = Shop(tmp_path / "project", server.url(), "hub")

    said = shop.says("run", ends_with=3)
    assert "wal_level is replica, not logical. ALTER SYSTEM SET wal_level = logical; then restart the server." in said
    assert "No replication slot is free. Raise max_replication_slots, or drop one not in use." in said


def test_a_store_of_a_newer_hub(shop: Shop, slot: str) -> None:
    """Nothing is done to it; the remedy is the hub that it was used with."""
    shop.point_to("postgresql://hub:secret@127.0.0.1:1/legacy", slot)
    shop.says("run", ends_with=3)  # it makes the store before it looks for the source
    journal.change(shop.project.store, "UPDATE alembic_version SET version_num = ?", ("9999",))

    for command in (["run"], ["status"], ["store", "upgrade"]):
        said = shop.says(*command, ends_with=3)
        assert "is of version 9999, newer than this hub" in said
        assert "Install the hub that it was last used with, or a later one." in said


# while it runs


@contextmanager
def _deaf_port() -> Iterator[int]:
    """A port that nobody listens at."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_a_day_on_which_everything_happens(database: str, slot: str, tmp_path: Path) -> None:
    """Receivers that are down or talk garbage, a second run, columns that come and go, a table that is unpublished:
    each is said, holds up only what it must, and is made good by a compared snapshot."""
    open_shop(database, slot)
    shop = Shop(tmp_path / "project", database, slot)
    with shop.project.running() as run:
        run.until(lambda: "snapshot complete" in run.said(), "the snapshot is complete")

        said = shop.says("run", ends_with=3)
        assert f"is running already: pid {run.process.pid} on {socket.gethostname()} since" in said

        execute(
            database,
            "ALTER TABLE products RENAME COLUMN sku TO code",
            "ALTER TABLE orders ADD COLUMN channel text",
            "UPDATE products SET price = 2 WHERE id = 1",
            "UPDATE orders SET status = 'paid' WHERE id = 1",
        )
        run.until(shop.got(status="paid"), "the order is delivered")
        run.until(lambda: "has channel now" in run.said(), "the new column is noticed")
        said = shop.says("status", ends_with=1)
        assert "public.products no longer has sku: its documents are held as they were." in said
        assert "public.orders has channel now, which no document shows yet." in said
        assert "Mend the entity, then `hub source resnapshot`." in said
        assert shop.documents("product")["1"] == {"id": 1, "sku": "P1", "price": "1.50"}

        execute(database, f"ALTER PUBLICATION {slot} DROP TABLE orders", "UPDATE orders SET status = 'unseen'")
        run.until(lambda: f"The publication {slot} no longer has public.orders." in run.said(), "the cut is noticed")
        said = shop.says("status", ends_with=1)
        assert f"Stream main/main stands still: The publication {slot} no longer has public.orders." in said

        assert "Traceback" not in run.said(10_000)

    execute(database, f"ALTER PUBLICATION {slot} ADD TABLE orders")
    with _deaf_port() as port, Receiver(tmp_path) as receiver:
        receiver.behave(mode="garbage")
        shop.write(
            {
                "entities/product.yaml": "entity: product\ntable: products\n"
                "columns: {exclude: [weight], rename: {code: sku}}\n",
                "destinations/down.yaml": f"destination: down\nconnector: http\nurl: http://127.0.0.1:{port}/\n",
                "destinations/mad.yaml": f"destination: mad\nconnector: http\nurl: {receiver.url}\n",
                "subscriptions/down.yaml": "subscription: down\nentity: order\nto: down\n",
                "subscriptions/mad.yaml": "subscription: mad\nentity: order\nto: mad\n",
            }
        )
        with shop.project.running() as run:
            run.until(shop.got(status="unseen", channel=None), "what was missed is found, bad receivers or not")
            run.until(lambda: "Destination down is held" in _status(shop), "the dead receiver is held")
            assert "main/main: streaming" in _status(shop)
            assert shop.documents("product")["1"] == {"id": 1, "sku": "P1", "price": "2"}
            assert "Traceback" not in run.said(10_000)


def _status(shop: Shop) -> str:
    return shop.says("status", ends_with=1)


def test_what_happened_while_it_was_stopped(database: str, slot: str, tmp_path: Path) -> None:
    """A slot that moved on without the hub, changed subscriptions and entities: compared, said, refused."""
    open_shop(database, slot)
    shop = Shop(tmp_path / "project", database, slot)
    shop.project.hub("run", "--until-idle")
    execute(
        database,
        "UPDATE orders SET status = 'paid' WHERE id = 1",
        "DELETE FROM orders WHERE id = 2",
        "INSERT INTO orders VALUES (3, 2, 'new')",
        f"SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())",
        "UPDATE customers SET name = 'Robert' WHERE id = 2",
    )
    shop.write({"subscriptions/orders.yaml": "subscription: orders\nentity: order\nto: out\nmatch: {id: [1, 2]}\n"})

    said = shop.says("run", "--until-idle", ends_with=0)

    assert "orders" in said.splitlines()[0]
    assert f"the slot {slot} stands at" in said
    assert shop.documents("order") == {
        "1": {"id": 1, "customer_id": 1, "status": "paid", "customer": {"id": 1, "name": "Ann"}},
        "3": {"id": 3, "customer_id": 2, "status": "new", "customer": {"id": 2, "name": "Robert"}},
    }
    assert {(one["key"], one["event"]) for one in shop.deliveries()} == {("1", "updated"), ("2", "deleted")}

    shop.write({"entities/product.yaml": "entity: product\ntable: products\ncolumns: {include: [id, price]}\n"})
    said = shop.says("run", ends_with=2)
    assert said == (
        "hub: Entity product is not what the stored documents were made with. "
        "Put it back as it was, or run `hub source resnapshot`, which compares all documents anew.\n"
    )
    assert "a new snapshot is taken at the next start" in shop.says("source", "resnapshot", ends_with=0)
    shop.project.hub("run", "--until-idle")
    assert shop.documents("product") == {"1": {"id": 1, "price": "1.50"}}


def test_a_server_that_goes_away(own_server: Callable[..., LocalPostgres], tmp_path: Path) -> None:
    """Restarted under the hub, down at its start, its slot held by another, its slot lost: the run goes on by itself,
    and Ctrl-C ends it well."""
    server = own_server(max_slot_wal_keep_size="1MB", max_wal_size="32MB", checkpoint_timeout="1h")
    url = server.url()
    open_shop(url, "hub")
    shop = Shop(tmp_path / "project", url, "hub")
    with shop.project.running(ended_by=signal.SIGINT) as run:
        run.until(lambda: "snapshot complete" in run.said(), "the snapshot is complete")
        server.stop()
        server.start()
        execute(url, "UPDATE orders SET status = 'restarted' WHERE id = 1")
        run.until(shop.got(status="restarted"), "it goes on after the server's restart")

    execute(url, "DELETE FROM orders WHERE id = 2")
    for _ in range(4):
        execute(url, "SELECT pg_logical_emit_message(false, 'filler', '')", "SELECT pg_switch_wal()")
    execute(url, "CHECKPOINT")
    assert "The replication slot of main/main is lost" in shop.says("status", ends_with=1)
    assert "The slot hub is lost: the server had to remove log" in shop.says("doctor", ends_with=1)
    server.stop()
    with shop.project.running() as run:
        run.until(lambda: run.said().count("role ended") >= 1, "capture has tried")
        assert "cannot be reached: Connection refused. Check the source's url and that it runs." in run.said()
        assert run.role("dispatch") is not None
        server.start()
        run.until(lambda: "has lost its log (max_slot_wal_keep_size)" in run.said(), "the loss is said")
        run.until(lambda: any(one["event"] == "deleted" for one in shop.deliveries()), "the delete is found")

    with _reader(server, "hub"), shop.project.running() as run:
        run.until(lambda: "The replication slot hub is in use by the server process" in run.said(), "it is said")
        assert "Stop the other hub that reads from it" in run.said()
    assert "Traceback" not in run.said(10_000)


@contextmanager
def _reader(server: LocalPostgres, slot: str) -> Iterator[None]:
    """Somebody else reads from the slot, and confirms nothing."""
    command = [
        str(server.binaries / "pg_recvlogical"), "--dbname", server.url(), "--slot", slot, "--start", "--file", "-",
        "--status-interval", "0", "--fsync-interval", "0", "-o", "proto_version=1", "-o", f"publication_names={slot}",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            query = "SELECT active FROM pg_replication_slots WHERE slot_name = %s"
            while connection.execute(query, [slot]).fetchone() != (True,):
                assert process.poll() is None
        yield
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of two megabytes."""
    directory = Path(tempfile.mkdtemp(prefix="hub-small-disk-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", directory], capture_output=True)
    if mounted.returncode:
        shutil.rmtree(directory)
        _missing("a small file system takes root and mount")
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)
    directory.rmdir()


def test_a_full_disk(database: str, slot: str, tmp_path: Path, small_disk: Path) -> None:
    """It is said, and the run goes on by itself once there is room; every commit has its version."""
    open_shop(database, slot)
    shop = Shop(tmp_path / "project", database, slot, small_disk / "hub.db")
    with shop.project.running() as run:
        run.until(lambda: "snapshot complete" in run.said(), "the snapshot is complete")
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
            while True:
                file.write(bytes(4096))
        for number in range(3):
            execute(database, f"UPDATE orders SET status = repeat('x', 100000) || {number} WHERE id = 1")
        run.until(lambda: "The store cannot be used: database or disk is full" in run.said(), "it is said")
        assert "Free some space or raise the limit; nothing stored is lost." in run.said()
        ballast.unlink()
        run.until(shop.got(status="x" * 100000 + "2"), "it goes on")
        assert "Traceback" not in run.said(10_000)
    history = shop.project.hub("documents", "history", "order", "1", "--json").splitlines()
    assert [json.loads(line)["version"] for line in history] in ([1, 2, 3, 4], [4, 3, 2, 1])
