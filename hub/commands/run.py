"""`hub run`: every role under supervision, or one role by itself."""

import asyncio
import logging
import os
import signal
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from hub.commands.context import ProjectOption, pass_project
from hub.errors import InputError, OutsideError
from hub.logs import configure

if TYPE_CHECKING:
    from hub.project import Project
    from hub.store.database import Store


log = logging.getLogger(__name__)

CONSOLE_NICENESS = 10  # looking must not cost those who work
DISPATCH_AGAIN = 2.0  # seconds until a dispatch worker that lost its store or its lease begins again
SHARE_SECONDS = 0.5  # between two looks at which streams are this worker's


@click.command()
@click.option(
    "--role", type=click.Choice(["capture", "dispatch", "console"]), help="Run this role alone, without supervision."
)
@click.option("--stream", help="With --role capture: which stream, as source/stream. Needed when there are several.")
@click.option(
    "--worker", default="", help="With --role capture on Kafka: a name that stays over restarts of this worker."
)
@click.option("--until-idle", is_flag=True, help="End once caught up and settled, fan-outs included.")
@click.option("--supervised", is_flag=True, hidden=True, help="End when stdin ends.")
@click.option("--shared", is_flag=True, hidden=True, help="The stream was given to this worker by the group.")
@pass_project
def run(
    option: ProjectOption,
    role: str | None,
    stream: str | None,
    worker: str,
    until_idle: bool,
    supervised: bool,
    shared: bool,
) -> None:
    """Follow the source and deliver, until SIGTERM or Ctrl-C.

    \b
    hub run                       all roles on this machine
    hub run --until-idle          catch up, deliver, end
    hub run --role dispatch       one role
    hub run --role capture        on Kafka: one of the workers that share the streams
    hub run --role console        health and metrics, where `console:` of hub.yaml says
    """

    project = option.project
    configure(role or "run")
    if supervised:
        _end_with_stdin()
    if role == "capture" and stream is None and all(source.kafka for source in project.sources.values()):
        _share(option, worker, until_idle)
    elif role == "capture":
        _capture(project, _stream(project, stream), until_idle, shared, supervised)
    elif role == "dispatch":
        os.chdir(project.directory)  # a connector's paths are relative to the project, wherever `hub` is called
        _dispatch(project, until_idle, supervised)
    elif role == "console":
        _console(project, until_idle)
    else:
        _supervise(option, until_idle)


def _end_with_stdin() -> None:
    """Our supervisor holds the other end: when it dies, so do we."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _stream(project: "Project", stream: str | None) -> str:
    from hub.bootstrap import stream_names
    from hub.commands.context import known

    names = stream_names(project)
    if stream is not None:
        return known(stream, names, "stream")
    if len(names) != 1:
        raise InputError(f"There are {len(names)} streams: {', '.join(names)}.", "Name one with --stream.")
    return names[0]


def _supervise(option: ProjectOption, until_idle: bool) -> None:
    from hub.bootstrap import build_dispatcher, require_engine, stream_names
    from hub.locks import hold
    from hub.store.database import Store
    from hub.store.migrate import create_if_missing, require_current
    from hub.supervisor import Child, Supervisor

    project = option.project
    require_engine(project)
    store = Store(project.store)
    create_if_missing(store)
    require_current(store)
    lock = hold(store, "run")
    build_dispatcher(project, store)  # its problems are the project's: better now than in a child
    _require_sources(project, store)
    _say_changes(project, store)
    base = ["--project", str(option.directory), "run", "--supervised", *(["--until-idle"] if until_idle else [])]
    children = [
        Child(f"capture {name}", [*base, "--role", "capture", "--stream", name]) for name in stream_names(project)
    ]
    children.append(Child("dispatch", [*base, "--role", "dispatch"]))
    if not until_idle:
        # Its address may be taken, which must hold back no delivery; and a start costs more than it is worth to hurry.
        children.append(Child("console", [*base, "--role", "console"], essential=False, longest_pause=60.0))
    try:
        Supervisor(children, until_idle, daily=lambda: _prune(store, project)).run()
    finally:
        lock.release()


def _share(option: ProjectOption, worker: str, until_idle: bool) -> None:
    """One of the workers that share the streams: a process for each that is this one's."""
    if until_idle:
        raise InputError("A worker that shares streams is never idle.", "Name a stream with --stream.")
    from hub.bootstrap import build_group, require_worker, streams_of_topics
    from hub.store.database import open_store
    from hub.supervisor import Child, Supervisor

    project = option.project
    store = open_store(project.store)
    require_worker(store)
    _say_changes(project, store)
    names = streams_of_topics(project)
    group = build_group(project, worker)
    base = ["--project", str(option.directory), "run", "--supervised", "--shared", "--role", "capture"]

    def share() -> list[Child]:
        mine = sorted(names[topic] for topic in group.topics(SHARE_SECONDS))
        return [Child(f"capture {name}", [*base, "--stream", name]) for name in mine]

    try:
        Supervisor([], share=share, daily=lambda: _prune(store, project)).run()
    finally:
        group.close()


def _require_sources(project: "Project", store: "Store") -> None:
    """Refuse what no restart mends: a project that does not fit, and a source that has never been followed.

    Where the store has documents, deliveries go on while capture tries again.
    """
    from hub.bootstrap import build_outside, retired_streams, stream_names
    from hub.capture.role import decide, settle_moves
    from hub.store.streams import load_stream

    names = stream_names(project)
    for name in (*names, *retired_streams(project, store)):
        settle_moves(store, project, name)
    has_documents = any((state := load_stream(store, name)) and state.position for name in names)
    for name in names:
        try:
            decide(store, project, name, build_outside(project, name))
        except OutsideError:
            if not has_documents:
                raise


def _prune(store: "Store", project: "Project") -> None:
    """The day's retention, unless another worker is at it. What fails is tried again the next day."""
    import psycopg
    from sqlalchemy.exc import DBAPIError

    from hub.store.database import now
    from hub.store.retention import prune

    try:
        prune(store, project.retention, now())
    except (OutsideError, DBAPIError, psycopg.Error) as error:
        log.warning("retention was not applied", extra={"reason": str(error)})


def _say_changes(project: "Project", store: "Store") -> None:
    """What is not as it was at the last start. It is for capture to say, which goes by the sets."""
    from hub.store.definitions import remember

    for sentence in remember(store, project):
        click.echo(sentence, err=True)


def _capture(project: "Project", stream: str, until_idle: bool, shared: bool, supervised: bool) -> None:
    from hub.bootstrap import reach_topic
    from hub.changes import Missed, TakenOver
    from hub.locks import await_turn, hold
    from hub.store.database import open_store
    from hub.store.streams import ask_resnapshot, note_problem

    store = open_store(project.store)
    if not supervised:
        _say_changes(project, store)
    if shared:  # a worker that is cut off from Kafka takes no stream from one that is not
        reach_topic(project, stream)
    # What the group gives to this worker, one that hangs may have the lock of still.
    lock = (await_turn if shared else hold)(store, f"capture {stream}")
    try:
        _follow(project, store, stream, until_idle)
    except TakenOver:
        raise
    except OutsideError as error:
        note_problem(store, stream, str(error))
        if isinstance(error, Missed):
            ask_resnapshot(store, stream)
        raise
    finally:
        lock.release()


def _follow(project: "Project", store: "Store", stream: str, until_idle: bool) -> None:
    from hub.bootstrap import build_feed, build_outside, compile_subscription
    from hub.capture.role import Role, begin
    from hub.store.streams import note_problem

    outside = build_outside(project, stream)
    state, entities, plan = begin(store, project, stream, outside)
    by_name = {entity.name: entity for entity in entities}
    subscriptions = [compile_subscription(c, by_name) for c in project.subscriptions.values() if c.entity in by_name]
    role = Role(store, state, entities, subscriptions, project.fan_out, store.listen(f"capture {stream}"))
    stopped = threading.Event()
    feed = build_feed(project, store, stream, state.catalogue, plan.columns)
    try:
        feed.start(plan)
        note_problem(store, stream, "")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopped.set())
        role.run(feed, stopped.is_set, outside.mark() if until_idle else None)
    finally:
        feed.close()


def _dispatch(project: "Project", until_idle: bool, supervised: bool) -> None:
    import psycopg
    from sqlalchemy.exc import DBAPIError

    from hub.locks import hold
    from hub.store.database import open_store

    store = open_store(project.store, durable=False)
    lock = hold(store, "dispatch") if store.is_sqlite else None
    while True:
        try:
            _deliver(project, store, finish=until_idle and not supervised)
            break
        except (OutsideError, DBAPIError, psycopg.OperationalError) as error:
            if store.is_sqlite or until_idle:
                raise
            log.warning("dispatch begins again", extra={"reason": str(error).strip().splitlines()[0]})
            time.sleep(DISPATCH_AGAIN)
    if lock:
        lock.release()


def _deliver(project: "Project", store: "Store", *, finish: bool) -> None:
    """The dispatch role, until a signal ends it; `finish`: until all is settled."""
    import uvloop

    from hub.bootstrap import build_dispatcher

    async def role() -> None:
        dispatcher = build_dispatcher(project, store)
        # Where the two compete for a processor, capture goes first: what waits for dispatch waits in the hub's own
        # store, what waits for capture waits in the source's log.
        dispatcher.give_way()
        stop, finished = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        loop.add_signal_handler(signal.SIGUSR1, finished.set)
        if finish:
            finished.set()
        await dispatcher.run(stop, finished)

    uvloop.run(role())


# libpq's settings for a question that somebody waits for, also when the source's machine is gone.
_BRIEF = {
    "connect_timeout": 3,
    "tcp_user_timeout": 5000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}


def _console(project: "Project", until_idle: bool) -> None:
    from hub.bootstrap import log_end, stream_names
    from hub.console.server import serve
    from hub.store.database import open_store

    if until_idle:
        raise InputError("The console is never idle.", "Leave out --until-idle.")
    store = open_store(project.store)
    with suppress(OSError):
        os.nice(CONSOLE_NICENESS)
    serve(store, project, stream_names(project), lambda stream: log_end(project, stream, **_BRIEF))


COMMANDS = [run]
