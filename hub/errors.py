"""The errors that a user meets, each one plain sentence with its remedy.

HubError                  catch it at the command's edge; exit_code says what kind it is
├── InputError            bad input: YAML, arguments, an unknown name                    exit code 2
│   └── ProjectError      all the problems of a project directory at once
├── OutsideError          something outside is not there or refuses: source, store, port exit code 3
└── FaultError            it ran and found a fault                                       exit code 1
"""

from collections.abc import Sequence
from dataclasses import dataclass


class HubError(Exception):
    exit_code = 1

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(f"{what} {remedy}".strip())
        self.what = what
        self.remedy = remedy


class InputError(HubError):
    exit_code = 2


class OutsideError(HubError):
    exit_code = 3


class FaultError(HubError):
    exit_code = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a project, and where."""

    file: str  # relative to the project directory
    line: int  # from 1; 0 when the whole file is meant
    column: int  # from 1; 0 when the whole line is meant
    what: str  # one sentence
    remedy: str = ""  # what to do about it, one sentence
    warning: bool = False  # worth a line, but nothing is refused for it

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        return f"{place}: {self.what} {self.remedy}".rstrip()


class ProjectError(InputError):
    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)
