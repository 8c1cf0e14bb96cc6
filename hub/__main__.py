"""The `hub` command as a process."""

import os
import sys
import traceback
from contextlib import suppress

from hub.commands import main


def run() -> None:
    """Run the command, and end with its exit code.

    A process with a JVM in it ends at once: an orderly end would wait for threads of the JVM that hang, or let them
    call into what is no more.
    """
    code = 1
    try:
        main(prog_name="hub")
    except SystemExit as ended:
        if not _has_jvm():
            raise
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        if not _has_jvm():
            raise
        traceback.print_exc()
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _has_jvm() -> bool:
    return "jpype" in sys.modules


if __name__ == "__main__":
    run()
