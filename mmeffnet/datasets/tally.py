"""What loading workers have met, counted in one place and named in the log of the main process."""
from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from multiprocessing.context import get_spawning_popen

WAITING = 50  # lines that a pipe surely holds; while nobody reads them more are counted alone

SHARED = {'_count', '_waiting', '_lines'}  # attributes of a tally that processes share


def starting_a_process() -> bool:
    """Whether what is pickled now goes to a process that multiprocessing is starting."""
    return get_spawning_popen() is not None


class Tally:
    """A count and lines that processes share. It is made before the workers are started.

    A copy is the same tally: what holds one may be copied, and is counted once. So is what a
    process is started with; what is pickled otherwise, such as into a file, counts from 0 by
    itself, for what processes share reaches none that was not started with it.
    """

    def __init__(self):
        self._begin()

    def _begin(self) -> None:
        context = multiprocessing.get_context('spawn')  # its locks serve forked workers too
        self._count, self._waiting = context.Value('l', 0), context.Value('l', 0)
        self._lines = context.SimpleQueue()

    def __copy__(self) -> Tally:
        return self

    def __deepcopy__(self, memo: dict) -> Tally:
        return self

    def __getstate__(self) -> dict:
        if starting_a_process():
            return self.__dict__
        return {key: value for key, value in self.__dict__.items() if key not in SHARED}

    def __setstate__(self, state: dict) -> None:
        if not state.keys() >= SHARED:
            self._begin()
        self.__dict__.update(state)

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

    def go_on_from(self, count: int) -> None:
        """Count on from there."""
        self._count.value = count

    def lines(self) -> Iterator[tuple[int, str]]:
        """Numbers and lines that were not given yet."""
        while not self._lines.empty():
            found = self._lines.get()
            with self._count.get_lock():
                self._waiting.value -= 1
            yield found
