"""Pictures of a run, drawn while it goes on."""
import shlex
from pathlib import Path

from mmengine.dist import collect_results, master_only
from mmengine.hooks import Hook

from mmeffnet.engine import plots
from mmeffnet.registry import HOOKS


@HOOKS.register_module()
class PicturesHook(Hook):
    """Draw the learning curve and the confusion matrix into the work dir.

    confusion: whether to draw the confusion matrix; up to ``plots.MOST_CLASSES`` classes
    are readable, and every sample must have one label. Defaults to True.
    """
    priority = 'VERY_LOW'

    def __init__(self, confusion: bool = True):
        self.confusion = confusion
        self._training = False
        self._drawn: set[Path] = set()
        self._labels: list[tuple[list, list]] = []  # true and predicted, of each sample

    def _collect(self, outputs) -> None:
        for sample in outputs or ():
            if 'gt_label' in sample and 'pred_label' in sample:
                self._labels.append((sample.gt_label.flatten().tolist(),
                                     sample.pred_label.flatten().tolist()))

    def _draw_confusion(self, runner, loader) -> None:
        labels, self._labels = collect_results(self._labels, len(loader.dataset), 'cpu'), []
        # Samples of several labels, or of none, have no place in it.
        single = all(len(true) == len(found) == 1 for true, found in labels or ())
        classes = (getattr(loader.dataset, 'metainfo', None) or {}).get('classes')
        if (self.confusion and labels and single and classes
                and len(classes) <= plots.MOST_CLASSES):
            path = Path(runner.work_dir) / 'confusion_matrix.png'
            plots.confusion_matrix([true + found for true, found in labels], classes, path)
            self._drawn.add(path)

    @master_only
    def _draw_curve(self, runner) -> None:
        scalars = {name: buffer.data for name, buffer in runner.message_hub.log_scalars.items()}
        path = Path(runner.work_dir) / 'learning_curve.png'
        if plots.learning_curve(scalars, len(runner.train_dataloader), path, runner.iter):
            self._drawn.add(path)

    def before_train(self, runner) -> None:
        self._training = True

    def before_val_epoch(self, runner) -> None:
        self._labels = []
        if self._training:
            # After it would be too late: CheckpointHook comes first, and keeps it with the scores.
            runner.message_hub.update_scalar(
                plots.VALIDATED, runner.iter / len(runner.train_dataloader))

    def before_test_epoch(self, runner) -> None:
        self._labels = []

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self._collect(outputs)

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner, metrics=None) -> None:
        # Drawn anew every epoch: a run that is stopped early leaves its pictures too.
        self._draw_confusion(runner, runner.val_dataloader)
        if self._training:
            self._draw_curve(runner)
        else:
            self._say(runner)

    def after_test_epoch(self, runner, metrics=None) -> None:
        self._draw_confusion(runner, runner.test_dataloader)
        self._say(runner)

    def after_train(self, runner) -> None:
        self._draw_curve(runner)
        self._training = False
        runner.logger.info(f'Checkpoints and logs: {runner.work_dir}')
        if any(Path(runner.log_dir).glob('vis_data/events.out.tfevents.*')):
            runner.logger.info(
                'Curves: ' + shlex.join(['tensorboard', '--logdir', str(runner.work_dir)]))
        self._say(runner)

    @master_only
    def _say(self, runner) -> None:
        for path in sorted(self._drawn):
            runner.logger.info(f'Picture: {path}')
        self._drawn.clear()
