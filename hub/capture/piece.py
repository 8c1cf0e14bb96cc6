"""How much of a long work goes into one store transaction."""

WRITE_TARGET = 0.030  # seconds that a store transaction should hold the write lock


class PieceSize:
    """Follows the time that writes take: `value` is for the next one."""

    def __init__(self, first: int, smallest: int, largest: int) -> None:
        self.value = first
        self._smallest = smallest
        self._largest = largest

    def took(self, seconds: float) -> None:
        """What the last write took. A little beside the target changes nothing."""
        if seconds > 1.3 * WRITE_TARGET:
            self.value = max(self._smallest, self.value * 3 // 4)
        elif seconds < 0.7 * WRITE_TARGET:
            self.value = min(self._largest, self.value * 5 // 4)
