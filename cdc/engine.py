"""The embedded way in: Debezium's engine in this process, with a consumer of our own.

Debezium calls `handleBatch` on a thread of the JVM. There the batch's values are joined in Java to one JSON array, the
array crosses into Python as bytes, and the call returns, so that Debezium converts the next batch while `take` decodes
this one. A short queue between the two holds Debezium back when the store is slower.

The slot follows the store: `Batch.stored` notes the batch as durable, and the next `handleBatch` (heartbeats see to
it that there is one) tells Debezium, which then confirms its commit LSN to Postgres. Offsets are kept in memory only:
after a restart Debezium begins where the slot stands, and the store drops what it has already.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from cdc.envelope import decode, holds_unavailable, table_readers
from cdc.jvm import give_way, start_jvm
from cdc.settings import StreamSettings, engine_settings
from cdc.source import Watch, check_start, drop_slot, explain_failure
from cdc.transactions import Assembler
from hub.changes import Arrival, Batch, FeedPlan, SnapshotCompleted, SnapshotRows
from hub.errors import OutsideError

QUEUED = 3  # batches between Debezium and the store
START_SECONDS = 120.0  # from the engine's start to its first sign of life, a heartbeat or a row
CLOSE_SECONDS = 10.0
_HEARTBEATS = "__debezium-heartbeat"


class _Joined(msgspec.Struct, frozen=True):
    """One of Debezium's batches, as it crossed."""

    payload: bytes  # a JSON array of its records' values
    reached: int  # commit LSN in the offset of the last record
    closing: int  # the first commit LSN that the heartbeats after the last row hold
    last: Any  # its last record, a Java object, which stands for the batch when it is confirmed


class EngineFeed:
    """hub.changes.Feed on the embedded engine. One a process: see cdc.jvm."""

    def __init__(self, settings: StreamSettings, directory: Path, part: int | None = None) -> None:
        """`directory`: for Debezium's log. `part`: changes of one transaction held in memory, 2,000 by default."""
        self._settings = settings
        self._directory = directory
        readers = table_readers(settings.catalogue, settings.columns)
        self._assembler = Assembler(readers) if part is None else Assembler(readers, part)
        self._queue: queue.Queue[_Joined] = queue.Queue(QUEUED)
        self._failure: OutsideError | None = None
        self._durable: Any = None  # the last record of the newest durable batch that Debezium has not been told of
        self._seen = 0  # commit LSN of the last batch that was queued
        self._closing = threading.Event()
        self._alive = threading.Event()
        self._ended = threading.Event()
        self._engine: Any = None
        self._join: Callable[[Any], bytes] | None = None
        self._watch: Watch | None = None
        self._deadline = 0.0

    def start(self, plan: FeedPlan) -> None:
        """Raises OutsideError when the source cannot be tailed; what is wrong only later is raised by `take`."""
        if plan.snapshot:
            drop_slot(self._settings.url, self._settings.slot)
        check_start(self._settings, snapshot=plan.snapshot, position=plan.position)
        jpype = start_jvm(self._directory)
        self._join = _joiner(jpype)
        self._engine = self._build(jpype, engine_settings(self._settings, snapshot=plan.snapshot))
        threading.Thread(target=self._run, name="debezium", daemon=True).start()
        self._deadline = time.monotonic() + START_SECONDS
        self._watch = Watch(self._settings)

    def take(self, timeout: float) -> Batch | None:
        end = time.monotonic() + timeout
        while True:
            if self._assembler.broken:
                raise self._assembler.broken
            if self._failure is not None and self._queue.empty():
                raise self._failure
            try:
                joined = self._queue.get(timeout=min(1.0, max(0.0, end - time.monotonic())))
            except queue.Empty:
                self._look_after()
                if drifts := self._drifts():
                    return Batch(drifts, lambda: None)
                if time.monotonic() >= end:
                    return None
                continue
            self._look_after(arrived=True)
            arrivals = self._drifts() + self._assembler.batch(
                decode(joined.payload), joined.reached, joined.closing, holds_unavailable(joined.payload)
            )
            if arrivals:
                # Without a commit in its offset Debezium would confirm a place amid the first transaction, which the
                # store is not at. A snapshot's rows are confirmed: it would be taken again after a lost connection.
                whole = joined.reached or isinstance(arrivals[-1], SnapshotRows | SnapshotCompleted)
                known = whole and not self._assembler.broken
                return Batch(arrivals, partial(self._stored, joined.last) if known else lambda: None)
            if time.monotonic() >= end:
                return None

    def _drifts(self) -> list[Arrival]:
        return [*self._watch.take_drifts()] if self._watch is not None else []

    def trouble(self) -> OutsideError | None:
        return None  # what is wrong with the engine ends it

    def close(self) -> None:
        """Debezium is asked to end; it has ten seconds. The process should end afterwards."""
        self._closing.set()
        if self._watch is not None:
            self._watch.close()
        if self._engine is not None:
            threading.Thread(target=self._close_engine, name="debezium-close", daemon=True).start()
            self._ended.wait(CLOSE_SECONDS)

    def _close_engine(self) -> None:
        with contextlib.suppress(Exception):  # it has ended already, or is wedged: the process ends either way
            self._engine.close()

    def _stored(self, record: Any) -> None:
        self._durable = record

    def _look_after(self, arrived: bool = False) -> None:
        """What the taker's thread does in passing: the watch over the slot, and the limit on a start that hangs."""
        if self._failure is None and self._watch is not None:
            self._failure = self._watch.look(arrived)
        if self._failure is None and not self._alive.is_set() and time.monotonic() > self._deadline:
            self._failure = OutsideError(
                f"Debezium gave no sign of life for {START_SECONDS:.0f} seconds.",
                f"See {self._directory / 'debezium.log'} and `hub doctor`.",
            )

    def _build(self, jpype: Any, settings: dict[str, str]) -> Any:
        properties = jpype.JClass("java.util.Properties")()
        for name, value in settings.items():
            properties.setProperty(name, value)
        consumer = jpype.JProxy(
            "io.debezium.engine.DebeziumEngine$ChangeConsumer",
            dict={"handleBatch": self._handle, "supportsTombstoneEvents": lambda: True},
        )
        callback = jpype.JProxy("io.debezium.engine.DebeziumEngine$CompletionCallback", dict={"handle": self._complete})
        builder = jpype.JClass("io.debezium.engine.DebeziumEngine").create(
            jpype.JClass("io.debezium.engine.format.Json")
        )
        return builder.using(properties).using(callback).notifying(consumer).build()

    def _run(self) -> None:
        try:
            give_way()
            self._engine.run()
        finally:
            self._ended.set()

    def _handle(self, records: Any, committer: Any) -> None:
        """On Debezium's thread."""
        self._alive.set()
        durable, self._durable = self._durable, None
        if durable is not None:
            committer.markProcessed(durable)
            committer.markBatchFinished()
        last = records.get(records.size() - 1)
        reached, closing, beats = _trailing_heartbeats(records, last)
        if beats == records.size() and reached <= self._seen:
            return
        self._seen = reached
        assert self._join is not None
        self._put(_Joined(self._join(records), reached, closing, last))

    def _put(self, joined: _Joined) -> None:
        while not self._closing.is_set():
            try:
                self._queue.put(joined, timeout=1.0)
                return
            except queue.Full:
                continue

    def _complete(self, success: bool, message: Any, error: Any) -> None:
        """On Debezium's thread, when the engine has ended."""
        if not self._closing.is_set():
            self._failure = explain_failure(_messages(message, error), self._settings, self._directory)
        self._ended.set()


def _trailing_heartbeats(records: Any, last: Any) -> tuple[int, int, int]:
    """Of the batch: the last commit LSN; the first one among the heartbeats at its end; how many those are."""
    reached = closing = _commit_lsn(last)
    beats = 0
    for index in range(records.size() - 1, -1, -1):
        record = records.get(index)
        if not str(record.destination()).startswith(_HEARTBEATS):
            break
        closing = _commit_lsn(record) or closing
        beats += 1
    return reached, closing, beats


def _commit_lsn(record: Any) -> int:
    """The commit LSN in the record's offset; 0 when it has none."""
    lsn = record.sourceRecord().sourceOffset().get("lsn_commit")
    return 0 if lsn is None else int(lsn)


def _joiner(jpype: Any) -> Callable[[Any], bytes]:
    """A function from a batch of Debezium's to its values as one JSON array: the work is done in Java."""
    handles = jpype.JClass("java.lang.invoke.MethodHandles").publicLookup()
    method_type = jpype.JClass("java.lang.invoke.MethodType").methodType
    event = jpype.JClass("io.debezium.engine.ChangeEvent").class_
    string = jpype.JClass("java.lang.String").class_
    an_object = jpype.JClass("java.lang.Object").class_
    function = jpype.JClass("java.util.function.Function").class_
    proxies = jpype.JClass("java.lang.invoke.MethodHandleProxies")
    value = proxies.asInterfaceInstance(function, handles.findVirtual(event, "value", method_type(an_object)))
    text = proxies.asInterfaceInstance(function, handles.findStatic(string, "valueOf", method_type(string, an_object)))
    collectors = jpype.JClass("java.util.stream.Collectors")

    def join(records: Any) -> bytes:
        joined = records.stream().map(value).map(text).collect(collectors.joining(",", "[", "]"))
        return bytes(joined.getBytes("UTF-8"))

    return join


def _messages(message: Any, error: Any) -> list[str]:
    """What Debezium says of its end, and all causes, outermost first."""
    found = [str(message)]
    while error is not None and len(found) < 20:
        found.append(f"{error.getClass().getName()}: {error.getMessage()}")
        error = error.getCause()
    return found
