"""Processes that load batches, when they are asked to end, and when one of them is gone."""
import functools
import multiprocessing
import os
import re
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from mmengine.runner import Runner

from mmeffnet.errors import RunError


@dataclass
class Outlasting:
    """A worker's first function, after which SIGTERM ends it where its main process sends it alone.

    Schedulers, `timeout` and torchrun send it to all processes of a run, of which the main one
    still has to save. A worker whose main process is gone leaves by itself.
    """
    then: Callable | None

    def __call__(self, number: int) -> None:
        if hasattr(signal, 'sigwaitinfo'):  # not on macOS
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=_leave_when_told, daemon=True).start()
        if self.then is not None:
            self.then(number)


def _leave_when_told() -> None:
    # A handler in Python does not know who sent a signal.
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != multiprocessing.parent_process().pid:
        pass
    os._exit(0)


def let_workers_outlast(runner: Runner) -> None:
    """Have the loaders that ``runner`` will build start their workers so."""
    build = runner.build_dataloader

    @functools.wraps(build)
    def built(*args, **kwargs):
        loader = build(*args, **kwargs)
        loader.worker_init_fn = Outlasting(loader.worker_init_fn)
        return loader
    runner.build_dataloader = built


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
