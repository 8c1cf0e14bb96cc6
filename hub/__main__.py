"""The `hub` command as a process."""

import os
import sys

from hub.commands import main


def run() -> None:
    """Run the command, and end with its exit code."""
    try:
        main(prog_name="hub")
    except SystemExit as ended:
        if "jpype" not in sys.modules:
            raise
        # At once: an orderly end would wait for threads of the JVM that hang, or let them call into what is no more.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 1)


if __name__ == "__main__":
    run()
