"""What loading workers have met, counted in one place and named in the log of the main process."""
import multiprocessing
from collections.abc import Iterator

WAITING = 50  # lines that a pipe surely holds; while nobody reads them more are counted alone


class Tally:
    """A count and lines that processes share. It is made before the workers are started."""

    def __init__(self):
        self._count, self._waiting = multiprocessing.Value('l', 0), multiprocessing.Value('l', 0)
        self._lines = multiprocessing.SimpleQueue()

    @property
    def count(self) -> int:
        """How many there were in all processes."""
        return self._count.value

    def add(self, line: str) -> int:
        """Count one more; gives its number."""
        with self._count.get_lock():
            self._count.value += 1
            number = self._count.value
            if self._waiting.value < WAITING:
                self._waiting.value += 1
                self._lines.put((number, line))
        return number

    def lines(self) -> Iterator[tuple[int, str]]:
        """Numbers and lines that were not given yet."""
        while not self._lines.empty():
            found = self._lines.get()
            with self._count.get_lock():
                self._waiting.value -= 1
            yield found
