"""Processes that load batches, when one of them is gone."""
import re
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.runner import Runner

from mmeffnet.errors import RunError


@contextmanager
def named_when_dead(runner: Runner) -> Iterator[None]:
    """A block in which the death of a loading worker raises RunError with the way out."""
    # PyTorch tells of each death wherever the main process is, in the handling of another too.
    with _named(runner), _named(runner):
        yield


@contextmanager
def _named(runner: Runner) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not _worker_died(error):
            raise
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # nothing more about the others
        raise RunError(
            f'a loading worker was killed at iteration {runner.iter + 1}, most often because '
            'the memory was full: set train_dataloader.num_workers lower and go on with '
            '--resume') from error


def _worker_died(error: Exception) -> bool:
    """Whether an error says that a loading worker is gone, in one of PyTorch's three ways."""
    if re.search('DataLoader worker .*(exited unexpectedly|is killed by signal)', str(error)):
        return True
    # A batch was being handed over.
    return isinstance(error, (ConnectionError, EOFError)) and any(
        'multiprocessing' in frame.filename for frame in traceback.extract_tb(error.__traceback__))
