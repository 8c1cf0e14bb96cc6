"""What a connector makes of answers that are not as they should be, to each of its requests."""

from hub.connector import NotTried, Reply
from hub.kit import server
from hub.kit.bench import (
    BUSY,
    DELIVERED,
    HELD,
    REFUSED,
    RETRY,
    Bench,
    Check,
    expect,
    expect_no_secret,
    expect_wait,
    telling,
)

THROTTLE = "{status: 429, outcome: throttle, wait: 10s}"


async def takes_no_body(bench: Bench) -> None:
    """2xx without a body"""
    expect(await bench.outcomes(server.says(Reply(204))), DELIVERED, RETRY)


async def refuses_conflicts(bench: Bench) -> None:
    """409 for all"""
    expect(await bench.outcomes(server.says(Reply(409))), REFUSED, RETRY)


async def waits_for_seconds(bench: Bench) -> None:
    """429 with seconds"""
    await _waits(bench, "seconds")


async def waits_for_a_date(bench: Bench) -> None:
    """429 with a date"""
    await _waits(bench, "date")


async def waits_for_a_moment(bench: Bench) -> None:
    """429 with seconds since 1970"""
    await _waits(bench, "epoch")


async def _waits(bench: Bench, form: str) -> None:
    headers = [header for header in bench.trial.waits if header.form == form]
    if not headers:
        raise NotTried("no header of a 429 tells it so")
    for header in headers:
        told = telling(header)
        remedy = "Read that header, in YAML by the `wait:` of a 429 under `outcomes`, before any other time."
        expect_wait(await bench.outcomes(server.says(Reply(429, told))), told, remedy)


async def waits_for_a_busy_server(bench: Bench) -> None:
    """503 with Retry-After"""
    told = {"retry-after": str(BUSY)}
    expect_wait(await bench.outcomes(server.says(Reply(503, told))), told, "Read that header.")


async def slows_down(bench: Bench) -> None:
    """429 without a time"""
    outcomes = await bench.outcomes(server.says(Reply(429)))
    expect(outcomes, RETRY)
    if bench.trial.throttles:
        burns = any(outcome.after is None for outcome in outcomes)
        assert not burns, f"Each 429 burns an attempt, until the document is parked. Add {THROTTLE} to `outcomes`."


async def blames_the_destination(bench: Bench) -> None:
    """403, 502, 503 and 504 are not the document's fault"""
    for status in (403, 502, 503, 504):
        expect(await bench.outcomes(server.says(Reply(status))), HELD, RETRY)


async def retries_faults(bench: Bench) -> None:
    """other 5xx"""
    for status in (500, 501, 507, 599):
        expect(await bench.outcomes(server.says(Reply(status))), RETRY, HELD)


async def outlives_a_reset(bench: Bench) -> None:
    """the connection is cut in the middle of the answer"""
    await _not_taken(bench, server.resets)


async def takes_no_page_for_an_answer(bench: Bench) -> None:
    """200 with a page of HTML"""
    page = Reply(200, {"content-type": "text/html"}, b"<html>Please log in</html>")
    await _not_taken(bench, server.says(page))


async def takes_no_broken_json(bench: Bench) -> None:
    """200 with JSON that is not whole"""
    broken = Reply(200, {"content-type": "application/json"}, b'{"results": [{"id": "1"')
    await _not_taken(bench, server.says(broken))


async def _not_taken(bench: Bench, behaviour: server.Behaviour) -> None:
    kinds = (RETRY, HELD) if bench.trial.nothing_written else (RETRY, HELD, DELIVERED)
    expect(await bench.outcomes(behaviour), *kinds)


async def shows_no_secret(bench: Bench) -> None:
    """what it was told is shown without secrets"""
    expect_no_secret(bench, await bench.outcomes(server.echoes))


ANSWERS: tuple[Check, ...] = (
    *(takes_no_body, refuses_conflicts, waits_for_seconds, waits_for_a_date, waits_for_a_moment),
    *(waits_for_a_busy_server, slows_down, blames_the_destination, retries_faults, outlives_a_reset),
    *(takes_no_page_for_an_answer, takes_no_broken_json, shows_no_secret),
)
