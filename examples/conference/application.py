"""The legacy application's middle tier: a web API over its Postgres. It knows nothing of the hub.

    python -m examples.conference.application --url postgresql://… [--port 8090]

Every changing call is one database transaction. Answers are JSON; a call that cannot be done says why with
`{"error": …}` and status 400, 404 or 409. The first line on stdout is the address that it listens on.
"""

import argparse
import asyncio
import html
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any

import psycopg
from aiohttp import web
from psycopg.rows import DictRow, dict_row

CONNECTIONS = 4

Connection = psycopg.AsyncConnection[DictRow]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

routes = web.RouteTableDef()


class Refused(Exception):
    """The caller asked for something that the business does not allow."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Database:
    """A handful of connections, lent one transaction at a time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: asyncio.Queue[Connection] = asyncio.Queue()

    async def open(self) -> None:
        for _ in range(CONNECTIONS):
            self._idle.put_nowait(await self._connect())

    async def close(self) -> None:
        while not self._idle.empty():
            await self._idle.get_nowait().close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        connection = await self._idle.get()
        try:
            if connection.closed:
                connection = await self._connect()
            async with connection.transaction():
                yield connection
        finally:
            self._idle.put_nowait(connection)

    async def _connect(self) -> Connection:
        return await psycopg.AsyncConnection.connect(
            self._url, autocommit=True, row_factory=dict_row, application_name="conference"
        )


DATABASE = web.AppKey("database", Database)


async def one(connection: Connection, what: str, sql: str, **values: Any) -> DictRow:
    """The single row that a statement returns; Refused with 404 when there is none."""
    row = await (await connection.execute(sql, values)).fetchone()
    if row is None:
        raise Refused(404, f"There is no such {what}.")
    return row


def number(request: web.Request, name: str = "id") -> int:
    return int(request.match_info[name])


def answer(row: DictRow, status: int = 200) -> web.Response:
    return web.json_response(row, status=status, dumps=lambda value: json.dumps(value, default=str))


async def total_up(connection: Connection, order: int) -> None:
    await connection.execute(
        "update orders set total = coalesce("
        "  (select sum(quantity * unit_price) from order_lines where order_id = %(order)s), 0) where id = %(order)s",
        {"order": order},
    )


@routes.post("/companies")
async def found_company(request: web.Request) -> web.Response:
    body = await request.json()
    async with request.app[DATABASE].transaction() as connection:
        sql = "insert into companies (name, country) values (%(name)s, %(country)s) returning id, name, country"
        return answer(await one(connection, "company", sql, name=body["name"], country=body["country"]), 201)


@routes.patch(r"/companies/{id:\d+}")
async def rename_company(request: web.Request) -> web.Response:
    body = await request.json()
    async with request.app[DATABASE].transaction() as connection:
        sql = "update companies set name = %(name)s where id = %(id)s returning id, name"
        return answer(await one(connection, "company", sql, id=number(request), name=body["name"]))


@routes.post("/attendees")
async def sign_up(request: web.Request) -> web.Response:
    body = await request.json()
    values = {"company_id": None, "newsletter": False, "interests": [], "preferences": {}} | body
    values["preferences"] = json.dumps(values["preferences"])
    async with request.app[DATABASE].transaction() as connection:
        sql = (
            "insert into attendees (company_id, name, email, newsletter, interests, preferences) values"
            " (%(company_id)s, %(name)s, %(email)s, %(newsletter)s, %(interests)s, %(preferences)s) returning id, name"
        )
        return answer(await one(connection, "attendee", sql, **values), 201)


@routes.patch(r"/attendees/{id:\d+}")
async def change_attendee(request: web.Request) -> web.Response:
    body = await request.json()
    current = "select name, company_id, newsletter, interests from attendees where id = %(id)s for update"
    sql = (
        "update attendees set name = %(name)s, company_id = %(company_id)s, newsletter = %(newsletter)s,"
        " interests = %(interests)s where id = %(id)s returning id, name, newsletter, interests"
    )
    async with request.app[DATABASE].transaction() as connection:
        values = await one(connection, "attendee", current, id=number(request))
        return answer(await one(connection, "attendee", sql, **(values | body | {"id": number(request)})))


@routes.delete(r"/attendees/{id:\d+}")
async def leave(request: web.Request) -> web.Response:
    """An attendee who leaves stays as a row, marked; the application shows such rows to nobody."""
    async with request.app[DATABASE].transaction() as connection:
        sql = "update attendees set deleted_at = now() where id = %(id)s and deleted_at is null returning id"
        return answer(await one(connection, "attendee", sql, id=number(request)))


@routes.post("/registrations")
async def register(request: web.Request) -> web.Response:
    body = await request.json()
    places = "select capacity from sessions where id = %(session)s for share"
    taken = "select count(*) as taken from registrations where session_id = %(session)s"
    sql = (
        "insert into registrations (attendee_id, session_id) values (%(attendee)s, %(session)s)"
        " returning id, attendee_id, session_id"
    )
    async with request.app[DATABASE].transaction() as connection:
        capacity = (await one(connection, "session", places, session=body["session_id"]))["capacity"]
        if (await one(connection, "session", taken, session=body["session_id"]))["taken"] >= capacity:
            raise Refused(409, "The session is full.")
        registration = await one(
            connection, "registration", sql, attendee=body["attendee_id"], session=body["session_id"]
        )
        return answer(registration, 201)


@routes.post(r"/registrations/{id:\d+}/transfer")
async def transfer_registration(request: web.Request) -> web.Response:
    """Give a place to a colleague: the row moves from one attendee to another."""
    body = await request.json()
    async with request.app[DATABASE].transaction() as connection:
        sql = "update registrations set attendee_id = %(to)s where id = %(id)s returning id, attendee_id"
        return answer(await one(connection, "registration", sql, id=number(request), to=body["attendee_id"]))


@routes.delete(r"/registrations/{id:\d+}")
async def unregister(request: web.Request) -> web.Response:
    async with request.app[DATABASE].transaction() as connection:
        sql = "delete from registrations where id = %(id)s returning id"
        return answer(await one(connection, "registration", sql, id=number(request)))


@routes.patch(r"/sessions/{id:\d+}")
async def reschedule(request: web.Request) -> web.Response:
    body = await request.json()
    current = "select room, starts_at, title from sessions where id = %(id)s for update"
    sql = (
        "update sessions set room = %(room)s, starts_at = %(starts_at)s, title = %(title)s"
        " where id = %(id)s returning id, room, starts_at, title"
    )
    async with request.app[DATABASE].transaction() as connection:
        values = await one(connection, "session", current, id=number(request))
        return answer(await one(connection, "session", sql, **(values | body | {"id": number(request)})))


@routes.put(r"/sessions/{id:\d+}/speakers/{speaker:\d+}")
async def invite_speaker(request: web.Request) -> web.Response:
    async with request.app[DATABASE].transaction() as connection:
        sql = "insert into session_speakers values (%(session)s, %(speaker)s) returning session_id, speaker_id"
        values = {"session": number(request), "speaker": number(request, "speaker")}
        return answer(await one(connection, "speaker", sql, **values), 201)


@routes.post("/orders")
async def place_order(request: web.Request) -> web.Response:
    """The order with its lines and tags, all in one transaction."""
    body = await request.json()
    sql = (
        "insert into orders (attendee_id, billing_address) values (%(attendee)s, %(address)s) returning id, attendee_id"
    )
    async with request.app[DATABASE].transaction() as connection:
        address = json.dumps(body.get("billing_address", {}))
        order = await one(connection, "attendee", sql, attendee=body["attendee_id"], address=address)
        for line_number, line in enumerate(body["lines"], start=1):
            await add_line(connection, order["id"], line_number, line)
        for tag in body.get("tags", []):
            await tag_order(connection, order["id"], tag)
        await total_up(connection, order["id"])
        sql = "select id, attendee_id, status, total from orders where id = %(id)s"
        return answer(await one(connection, "order", sql, id=order["id"]), 201)


async def add_line(connection: Connection, order: int, line_number: int, line: dict[str, int]) -> None:
    sql = (
        "insert into order_lines (order_id, line_number, session_id, quantity, unit_price)"
        " select %(order)s, %(line_number)s, id, %(quantity)s, price from sessions where id = %(session)s returning id"
    )
    values = {"order": order, "line_number": line_number, "session": line["session_id"], "quantity": line["quantity"]}
    await one(connection, "session", sql, **values)


async def tag_order(connection: Connection, order: int, tag: str) -> DictRow:
    sql = "insert into order_tags select %(order)s, id from tags where name = %(tag)s returning order_id, tag_id"
    return await one(connection, "tag", sql, order=order, tag=tag)


@routes.post(r"/orders/{id:\d+}/payment")
async def pay(request: web.Request) -> web.Response:
    sql = (
        "update orders set status = 'paid', paid_at = now() where id = %(id)s and status = 'placed'"
        " returning id, status, total"
    )
    invoice = (
        "insert into invoices (order_id, number, amount)"
        " select id, 'INV-' || to_char(id, 'FM00000'), total from orders where id = %(id)s"
    )
    async with request.app[DATABASE].transaction() as connection:
        order = await one(connection, "unpaid order", sql, id=number(request))
        await connection.execute(invoice, {"id": order["id"]})
        return answer(order)


@routes.post(r"/orders/{id:\d+}/cancellation")
async def cancel(request: web.Request) -> web.Response:
    async with request.app[DATABASE].transaction() as connection:
        sql = "update orders set status = 'cancelled' where id = %(id)s and status <> 'cancelled' returning id, status"
        return answer(await one(connection, "open order", sql, id=number(request)))


@routes.delete(r"/orders/{id:\d+}")
async def delete_order(request: web.Request) -> web.Response:
    """Its lines, tags and invoice go with it by the schema's cascades."""
    async with request.app[DATABASE].transaction() as connection:
        return answer(
            await one(connection, "order", "delete from orders where id = %(id)s returning id", id=number(request))
        )


@routes.put(r"/orders/{id:\d+}/tags/{tag}")
async def add_tag(request: web.Request) -> web.Response:
    async with request.app[DATABASE].transaction() as connection:
        return answer(await tag_order(connection, number(request), request.match_info["tag"]), 201)


@routes.post(r"/orders/{id:\d+}/lines/{line:\d+}/move")
async def move_line(request: web.Request) -> web.Response:
    """Move a line to the end of another order; both totals follow."""
    target = int((await request.json())["order_id"])
    sql = (
        "update order_lines set order_id = %(to)s,"
        "  line_number = 1 + (select coalesce(max(line_number), 0) from order_lines where order_id = %(to)s)"
        " where order_id = %(order)s and line_number = %(line)s returning id, order_id, line_number"
    )
    async with request.app[DATABASE].transaction() as connection:
        await one(connection, "order", "select id from orders where id = %(to)s for update", to=target)
        line = await one(connection, "line", sql, to=target, order=number(request), line=number(request, "line"))
        await total_up(connection, number(request))
        await total_up(connection, target)
        return answer(line)


@routes.get("/orders")
async def orders(request: web.Request) -> web.Response:
    async with request.app[DATABASE].transaction() as connection:
        sql = "select id, attendee_id, status, total from orders order by id desc limit 50"
        return web.json_response(
            await (await connection.execute(sql)).fetchall(), dumps=lambda rows: json.dumps(rows, default=str)
        )


@routes.get("/")
async def front_page(request: web.Request) -> web.Response:
    sql = (
        "select o.id, a.name, o.status, o.total from orders o join attendees a on a.id = o.attendee_id"
        " order by o.id desc limit 50"
    )
    async with request.app[DATABASE].transaction() as connection:
        rows = await (await connection.execute(sql)).fetchall()
    cells = "".join(
        "<tr>" + "".join(f"<td>{html.escape(shown(v))}</td>" for v in row.values()) + "</tr>" for row in rows
    )
    page = f"<!doctype html><title>Conference</title><h1>Latest orders</h1><table cellpadding=4>{cells}</table>"
    return web.Response(text=page, content_type="text/html")


def shown(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, Decimal) else str(value)


@web.middleware
async def say_why(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refusals, broken input and violated constraints as a JSON sentence."""
    try:
        return await handler(request)
    except Refused as refused:
        return web.json_response({"error": str(refused)}, status=refused.status)
    except (KeyError, TypeError, ValueError) as error:
        return web.json_response({"error": f"The request cannot be read: {error!r}."}, status=400)
    except psycopg.errors.IntegrityError as error:
        return web.json_response({"error": str(error).splitlines()[0]}, status=409)


def application(url: str) -> web.Application:
    """The web application over the database at `url`, a libpq URL."""
    app = web.Application(middlewares=[say_why])
    app[DATABASE] = Database(url)
    app.add_routes(routes)

    async def connected(app: web.Application) -> AsyncIterator[None]:
        await app[DATABASE].open()
        yield
        await app[DATABASE].close()

    app.cleanup_ctx.append(connected)
    return app


def main() -> None:
    from examples.conference.serving import serve

    parser = argparse.ArgumentParser(description="The conference's web API.")
    parser.add_argument("--url", help="its Postgres, as a libpq URL; by default what DATABASE_URL says")
    parser.add_argument("--port", type=int, default=8090, help="0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen at; 0.0.0.0 in a container")
    options = parser.parse_args()
    url = options.url or os.environ.get("DATABASE_URL")
    if not url:
        parser.error("--url or DATABASE_URL is needed")
    serve(application(url), options.port, options.host)


if __name__ == "__main__":
    main()
