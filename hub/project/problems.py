"""What was found wrong in a project so far: readers and checks report here and go on."""

from dataclasses import dataclass, field

from hub.errors import Problem
from hub.project import Place


@dataclass(slots=True)
class Problems:
    found: list[Problem] = field(default_factory=list)

    def add(self, place: Place | None, what: str, remedy: str = "", *, warning: bool = False) -> None:
        """One more, unless it is known. Without a place it is about hub.yaml as a whole."""
        where = place or Place("hub.yaml", 0, 0)
        problem = Problem(where.file, where.line, where.column, what, remedy, warning)
        if problem not in self.found:
            self.found.append(problem)

    def note(self, place: Place | None, what: str, remedy: str = "") -> None:
        """Worth a line, but nothing is refused for it."""
        self.add(place, what, remedy, warning=True)

    def in_order(self) -> list[Problem]:
        """By place."""
        return sorted(self.found, key=lambda one: (one.file, one.line, one.column))
