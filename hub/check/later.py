"""What the contract has and this version does not do yet: accepted as YAML, refused by `hub check` and `hub run`.

Nothing of it is taken for something else.
"""

from collections.abc import Iterator

from hub.errors import ProjectError
from hub.project import Place, Project
from hub.project.problems import Problems

OWN_CONNECTORS = "connectors"  # the folder of a project's own

Found = tuple[Place | None, str, str]  # where, what is not done yet, what to do instead


def check_later(project: Project, problems: Problems) -> None:
    """Report each thing that this version does not do yet, at its place."""
    for place, what, remedy in _found(project):
        problems.add(place, f"This version does not have {what} yet.", remedy)


def refuse_later(project: Project) -> None:
    """ProjectError, with all of them, when the project asks for what this version does not do yet."""
    problems = Problems()
    check_later(project, problems)
    if problems.found:
        raise ProjectError(problems.in_order())


def _found(project: Project) -> Iterator[Found]:
    folder = project.directory / OWN_CONNECTORS
    for file in sorted(folder.glob("*")) if folder.is_dir() else ():
        if file.suffix in (".py", ".yaml") and not file.name.startswith((".", "_")):
            place = Place(f"{OWN_CONNECTORS}/{file.name}", 0, 0)
            yield place, "connectors of a project's own", "Take it out of the project; 'http' and 'file' are there."
