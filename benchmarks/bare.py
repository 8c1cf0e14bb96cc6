"""The bare engine: Debezium with a consumer that does nothing, as fast as it goes, over the same log as the hub.

Run as a process of its own, `python -m benchmarks.bare URL SLOT PUBLICATION DIRECTORY END JVM`: it prints the seconds
between its first and last batch and the number of records in them, once the commit LSN `END` has come. `JVM` is
"default", or "hub" for the options that the hub starts its own with.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from cdc.catalogue import read_catalogue
from cdc.jvm import INLINING, start_jvm
from cdc.settings import StreamSettings, engine_settings
from cdc.source import connect
from hub.changes import parse_lsn


def main(url: str, slot: str, publication: str, directory: str, end: int, jvm: str) -> None:
    with connect(url) as connection:
        catalogue = read_catalogue(connection)
    tables = {name: [c.name for c in t.columns] for name, t in catalogue.tables.items() if name.startswith("bench.")}
    settings = engine_settings(StreamSettings(url, slot, tables, catalogue), snapshot=False)
    # Nothing of what the hub adds for exact values: the engine as fast as it goes.
    settings = {name: value for name, value in settings.items() if not name.startswith(("converters", "hub."))}
    settings |= {"publication.name": publication, "heartbeat.interval.ms": "500", "poll.interval.ms": "10"}
    settings |= {"max.batch.size": "8192", "max.queue.size": "32768"}
    jpype = start_jvm(Path(directory), INLINING if jvm == "hub" else ())
    properties = jpype.JClass("java.util.Properties")()
    for name, value in settings.items():
        properties.setProperty(name, value)
    seen = {"first": 0.0, "last": 0.0, "records": 0}
    done = threading.Event()

    def handle(records: Any, committer: Any) -> None:
        last = records.get(records.size() - 1)
        if not str(last.destination()).startswith("__debezium-heartbeat") or records.size() > 1:
            seen["first"] = seen["first"] or time.monotonic()
            seen["last"] = time.monotonic()
            seen["records"] += int(records.size())
        committer.markProcessed(last)
        committer.markBatchFinished()
        lsn = last.sourceRecord().sourceOffset().get("lsn_commit")
        if lsn is not None and int(lsn) >= end:
            done.set()

    consumer = jpype.JProxy(
        "io.debezium.engine.DebeziumEngine$ChangeConsumer",
        dict={"handleBatch": handle, "supportsTombstoneEvents": lambda: True},
    )
    engine = (
        jpype.JClass("io.debezium.engine.DebeziumEngine")
        .create(jpype.JClass("io.debezium.engine.format.Json"))
        .using(properties)
        .notifying(consumer)
        .build()
    )
    threading.Thread(target=engine.run, daemon=True).start()
    done.wait()
    print(json.dumps({"seconds": seen["last"] - seen["first"], "records": seen["records"]}), flush=True)
    os._exit(0)


if __name__ == "__main__":
    url, slot, publication, directory, end, jvm = sys.argv[1:]
    main(url, slot, publication, directory, parse_lsn(end), jvm)
