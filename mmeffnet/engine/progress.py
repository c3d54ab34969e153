"""A bar on the terminal: how far a run is, and the time that is left."""
import logging
import sys
import time
import weakref

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from mmeffnet.registry import HOOKS

# Seconds of a run by whose speed the rest is estimated: some validations are among them.
SPEED_OVER = 600
PERIOD = 0.2  # seconds between two drawings


@HOOKS.register_module()
class ProgressHook(Hook):
    """Show a bar for training, and one for each validation or test, on a terminal.

    Lines of the log go on above it. Where the output is no terminal or closed, and in all
    processes but the first, nothing is shown: the lines of MMEngine's log tell the time left there.

    enable: False shows nothing on terminals either. Defaults to True.
    """
    priority = 'VERY_LOW'

    def __init__(self, enable: bool = True):
        self.enable = enable
        self._progress: Progress | None = None
        self._training = self._part = self._close = None
        self._drawn = 0.

    def before_train(self, runner) -> None:
        self._open()
        if self._progress:
            # A resumed run has come so far already, and no time was needed for it.
            self._training = self._progress.add_task(
                'train', total=runner.max_iters, completed=runner.iter, note='')

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self._progress:
            self._progress.update(self._training, completed=runner.iter + 1,
                                  note=_note(runner))
            self._draw()

    def after_train(self, runner) -> None:
        self.close()

    def before_val(self, runner) -> None:
        self._begin('validate', runner.val_dataloader)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self._progress:
            self._progress.advance(self._part)
            self._draw()

    def after_val(self, runner) -> None:
        self._end()

    def before_test(self, runner) -> None:
        self._begin('test', runner.test_dataloader)

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.after_val_iter(runner, batch_idx)

    def after_test(self, runner) -> None:
        self._end()

    def _begin(self, name: str, loader) -> None:
        self._open()
        if self._progress:
            self._part = self._progress.add_task(name, total=len(loader), note='')

    def _end(self) -> None:
        if self._progress:
            self._progress.remove_task(self._part)
            if self._training is None:  # it was not in the midst of a training
                self.close()

    def _draw(self) -> None:
        if time.monotonic() - self._drawn >= PERIOD:
            self._progress.refresh()
            self._drawn = time.monotonic()

    def _open(self) -> None:
        stdout, console = sys.stdout, Console()
        # rich takes FORCE_COLOR for a terminal, which is set for log files too.
        if (self._progress or not self.enable or not is_main_process()
                or stdout is None or not stdout.isatty() or console.is_dumb_terminal):
            return
        # Drawn from here and by no thread of rich's: a loading worker that is forked while the
        # thread holds its lock stands still for ever at the first line that it prints.
        self._progress = Progress(
            TextColumn('{task.description:8}'), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn('left'), TimeRemainingColumn(),
            TextColumn('{task.fields[note]}'), console=console, transient=True,
            auto_refresh=False, speed_estimate_period=SPEED_OVER)
        self._progress.start()
        console.show_cursor(True)  # a process that is killed could not do so
        # The log has kept the stream that it began with, and would write into the bar.
        handlers = [handler for handler in MMLogger.get_current_instance().handlers
                    if getattr(handler, 'stream', None) is stdout]
        for handler in handlers:
            handler.setStream(_Above(console))
        # Called at the latest when the process ends, whatever ends it.
        self._close = weakref.finalize(self, _take_away, self._progress, handlers, stdout)

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._progress:
            self._close()
            self._progress = self._training = self._part = None


def _take_away(progress: Progress, handlers: list[logging.StreamHandler], stdout) -> None:
    for handler in handlers:
        handler.setStream(stdout)
    progress.stop()


class _Above:
    """A stream that writes above the bar, and breaks no line at the terminal's width."""

    def __init__(self, console: Console):
        self._console = console

    def write(self, text: str) -> None:
        # Versions of rich differ in whether the last line break is left.
        self._console.print(Text.from_ansi(text.removesuffix('\n')), soft_wrap=True,
                            highlight=False)

    def flush(self) -> None:
        """Everything has been written at once."""


def _note(runner) -> str:
    """The epoch, where there is one, and the loss of the last batch."""
    words = []
    if runner.max_epochs > 1:  # loops by iteration have one
        words.append(f'epoch {runner.epoch + 1}/{runner.max_epochs}')
    losses = runner.message_hub.log_scalars.get('train/loss')
    if losses:
        words.append(f'loss {losses.current():.4f}')
    return ', '.join(words)
