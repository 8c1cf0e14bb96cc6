"""docs/tutorial.md as its reader goes through it: one bash, one empty directory, each command and file in its turn.

A `console` block has commands behind `$ `, and below each one what it prints; the others begin with a comment that
names the file that they are. Of what is printed,

- `…` stands for anything within a line, and a line of its own for any lines;
- the widths of spaces do not count;
- nothing shown means that nothing is printed, and every command ends with exit code 0.

A command that only looks is repeated, as the page tells its reader, until it shows what the page does. What differs
from the page is where the database is, in the two URLs, and how the `hub` command got there.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(240)]

PAGE = Path(__file__).parents[2] / "docs/tutorial.md"
INSTALLED = ("make setup", ". .venv/bin/activate")  # of the page: that is where this test runs
LOOKS = re.compile(r"(cat|tail|grep) |hub (status|trace|documents|deliveries)\b")
LOOK_SECONDS = 60  # of patience: a JVM starts, on a busy machine
OWNER, PLACE = "postgres:secret", "127.0.0.1:5432/shop"  # of the page's two URLs


@dataclass(frozen=True)
class Step:
    """A file to write, or a command with what it prints."""

    line: int  # in the page
    command: str = ""
    printed: str = ""
    file: str = ""
    text: str = ""


def steps(page: str) -> list[Step]:
    """Everything that the reader does, in the page's order."""
    found: list[Step] = []
    for block in re.finditer(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        line = page.count("\n", 0, block.start(2)) + 1
        text = block[2]
        if block[1] == "console":
            assert text.startswith("$ "), f"tutorial.md:{line}: a console block begins with a command"
            found += _commands(text, line)
        else:
            named = re.match(r"(?:#|--) (\S+)\n", text)
            assert named, f"tutorial.md:{line}: the block's first line does not name a file"
            found.append(Step(line, file=named[1], text=text))
    return found


def _commands(block: str, line: int) -> Iterator[Step]:
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        yield Step(line, command, printed)
        line += part.count("\n")


def fits(shown: str, printed: str) -> bool:
    """Whether what was printed is what the page shows."""
    lines = ["(.*\n)*" if line == "…" else re.escape(line).replace("…", ".*") + "\n" for line in _plain(shown)]
    return re.fullmatch("".join(lines), "".join(f"{line}\n" for line in _plain(printed))) is not None


def _plain(text: str) -> list[str]:
    """Its lines, each with single spaces; blank ones at either end do not count."""
    return [" ".join(line.split()) for line in text.strip().splitlines()]


class Terminal:
    """A bash in `directory`; what its commands print comes from one pipe."""

    END = "--- exit code "

    def __init__(self, directory: Path) -> None:
        beside = Path(sys.executable).parent
        own = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "WEBHOOK_SECRET")}
        self.bash = psutil.Popen(
            ["bash", "--norc"],
            cwd=directory,
            env=own | {"PATH": f"{beside}:{os.environ['PATH']}"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, command: str) -> tuple[str, int]:
        """What it prints and its exit code."""
        # In braces, so that no program reads the commands that follow.
        self.bash.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\n%s%s\\n' '{self.END}' $?\n")
        self.bash.stdin.flush()
        printed = []
        for line in self.bash.stdout:
            if line.startswith(self.END):
                return "".join(printed), int(line.removeprefix(self.END))
            printed.append(line)
        raise AssertionError(f"The shell ended at `{command}`:\n{''.join(printed)}")

    def look(self, step: Step) -> tuple[str, int]:
        """Repeat a command that only looks until it shows what the page does, or patience ends."""
        end = time.monotonic() + LOOK_SECONDS
        while True:
            printed, code = self.run(step.command)
            if (code == 0 and fits(step.printed, printed)) or time.monotonic() > end:
                return printed, code
            time.sleep(0.1)

    def close(self) -> None:
        """End what the commands have left running, the shell too."""
        processes = [*self.bash.children(recursive=True), self.bash]
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, 10)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(tmp_path)
    yield opened
    opened.close()


def test_the_tutorial(terminal: Terminal, database: str, tmp_path: Path) -> None:
    """Every command ends well and prints what the page shows, and nothing runs on at its end."""
    page = PAGE.read_text("utf-8")
    assert len([step for step in steps(page) if step.command]) == len(re.findall(r"^\$ ", page, re.MULTILINE)) > 40

    for step in steps(page):
        if step.file:
            terminal.run(f"cat > {step.file} <<'--- end'\n{step.text}--- end")
        elif step.command not in INSTALLED:
            _do(terminal, step, database, tmp_path)

    assert terminal.bash.children(recursive=True) == []


def _do(terminal: Terminal, step: Step, database: str, directory: Path) -> None:
    """`database`: the owner's URL."""
    if LOOKS.match(step.command):
        printed, code = terminal.look(step)
    else:
        printed, code = terminal.run(_at(step.command, database))
    if code or not fits(step.printed, printed):
        logs = "".join(f"\n{log.name}:\n{log.read_text('utf-8')[-3000:]}" for log in directory.rglob("var/*.log"))
        shown = f"tutorial.md:{step.line}: $ {step.command}\nshows\n{step.printed}\nand printed\n{printed}"
        pytest.fail(f"{shown}\nwith exit code {code}\n{logs}", pytrace=False)


def _at(command: str, database: str) -> str:
    """The same for the database at hand, where the command says which."""
    if not re.match(r"export \w+_URL=", command):
        return command
    owner, _, place = database.removeprefix("postgresql://").rpartition("@")
    assert PLACE in command
    return command.replace(OWNER, owner).replace(PLACE, place)


def test_what_the_page_shows_is_compared() -> None:
    """Anything may stand where the page has `…`, and nothing else may differ."""
    shown = "order  1 …\n…\n\nAll is well.\n"

    assert fits(shown, "order 1 version 2\n\nAll is well.\n")
    assert fits(shown, "order 1 x\nmore\nand more\n\nAll is well.\n\n")
    assert not fits(shown, "order 2 x\n\nAll is well.\n")
    assert not fits(shown, "order 1 x\nAll is well, but.\n")
    assert not fits("", "Traceback\n")


def test_what_the_page_has_is_found() -> None:
    """Files, commands with what they print, and the lines of each."""
    page = "# T\n```console\n$ cd x\n$ ls\na\n```\ntext\n```sql\n-- b.sql\nSELECT 1;\n```\n"

    assert steps(page) == [
        Step(3, "cd x"),
        Step(4, "ls", "a\n"),
        Step(9, file="b.sql", text="-- b.sql\nSELECT 1;\n"),
    ]
