"""CPU time: of processes with all that they have started, and how busy the machine is."""

from collections.abc import Iterable

import psutil


def spent(processes: Iterable[psutil.Process]) -> float:
    """Seconds of CPU so far, user and system, of the processes and their descendants, ended ones included."""
    return sum(_of_tree(process) for process in processes)


def _of_tree(process: psutil.Process) -> float:
    return sum(_of_one(one) for one in (process, *process.children(recursive=True)))


def _of_one(process: psutil.Process) -> float:
    """Its own, and that of its children which have ended. One that ends just now is its parent's by the next look."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system + times.children_user + times.children_system)


class Busy:
    """The machine's cores since it was made."""

    def __init__(self) -> None:
        self._before = psutil.cpu_times()

    def share(self) -> float:
        """Of all cores' time that was not idle: 0 to 1, whoever used it."""
        before, after = self._before, psutil.cpu_times()
        idle = after.idle + after.iowait - before.idle - before.iowait
        return 1 - idle / max(1e-9, sum(after[:8]) - sum(before[:8]))  # guests are in user already
