"""What ends a run before it begins, or on its way with everything that is needed to go on."""
import logging
import signal
import sys

from mmengine.hooks import Hook
from mmengine.logging import print_log

from mmeffnet.engine.accumulation import waiting
from mmeffnet.engine.parallel import in_any_process
from mmeffnet.engine.saving import WHOLE_FILES
from mmeffnet.pyramid import check_model
from mmeffnet.registry import HOOKS

INTERRUPTED = 'interrupted.pth'
TERMINATED = 128 + signal.SIGTERM  # the exit code of what SIGTERM ended, by convention


@HOOKS.register_module()
class SigtermHook(Hook):
    """On SIGTERM, save and end with exit code 143, for machines that may be taken away.

    In training the run is saved after the present step. In validation it ends at once where
    the epoch before it has been saved, else after it.
    """
    priority = 'LOWEST'  # a checkpoint of this step has been written

    def __init__(self):
        self._asked, self._before, self._saved_at = False, None, None

    def before_train(self, runner) -> None:
        try:
            self._before = signal.signal(signal.SIGTERM, self._ask)
        except ValueError:
            print_log('SIGTERM ends this run without saving: it is not trained in the main '
                      'thread', 'current', level=logging.WARNING)

    def after_train(self, runner) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, *_) -> None:
        self._asked = True

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        if 'optimizer' in checkpoint:
            self._saved_at = checkpoint['meta']['iter']

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if runner._resume:
            self._saved_at = checkpoint['meta']['iter']

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        # Between the batches of a step the gradients so far would be lost.
        if self._wanted() and not waiting(runner.optim_wrapper):
            self._end(runner, done=runner.iter + 1)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        # Averaged weights are exchanged for the others now, and cannot be saved.
        # The first process alone saves, and knows of it.
        if (self._before is not None and self._wanted()
                and in_any_process(self._saved_at == runner.iter)):
            self._end(runner, done=runner.iter)

    def after_val_epoch(self, runner, metrics=None) -> None:
        if self._before is not None and self._wanted():
            self._end(runner, done=runner.iter)

    def _wanted(self) -> bool:
        """Whether any process was asked: they have to end after the same step."""
        return in_any_process(self._asked)

    def _end(self, runner, done: int) -> None:
        if self._saved_at != done:
            runner.save_checkpoint(
                runner.work_dir, INTERRUPTED, by_epoch=False,
                backend_args=dict(backend=WHOLE_FILES), meta=dict(epoch=runner.epoch, iter=done))
        print_log(f'SIGTERM: saved after {done} iterations in {runner.work_dir}; go on with '
                  '--resume', 'current', level=logging.WARNING)
        sys.exit(TERMINATED)


@HOOKS.register_module()
class PyramidCheckHook(Hook):
    """Refuse neck and heads that do not fit the backbone, before a run begins.

    For tools of other projects; ours check every config. See :func:`mmeffnet.check_model`.
    """

    def before_run(self, runner) -> None:
        check_model(runner.cfg.get('model'))
