"""One short training of a scaled network, on the data and by the schedule of a config."""
from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmeffnet.analysis.other_network import check_parts, with_weights
from mmeffnet.analysis.resizing import resized
from mmeffnet.analysis.scaled_config import base_config
from mmeffnet.arch import Arch
from mmeffnet.engine import adjust
from mmeffnet.errors import InputError

METRIC = 'accuracy/top1'
# Nobody looks at these runs one by one: no checkpoints, pictures or bars.
SILENT = ('checkpoint', 'exact_resume', 'plain_checkpoint', 'pictures', 'progress', 'sigterm')


class Report(Hook):
    """Keeps the accuracy after each epoch, and tells it to whoever may end the run."""
    priority = 'LOWEST'

    def __init__(self, tell: Callable[[int, float], None] | None = None):
        self.accuracies: list[float] = []
        self.tell = tell

    def after_val_epoch(self, runner, metrics=None):
        self.accuracies.append(float(metrics[METRIC]))
        if self.tell:
            self.tell(len(self.accuracies), self.accuracies[-1])


def trial_config(base: str, arch: Arch, resolution: int, epochs: int, seed: int) -> Config:
    """The config of a run: ``base`` with another network, size, length and seed.

    base: a shipped config of ours, or a path, whose schedulers end with the training. What goes
    with weights of its own network (see :func:`left_out`) is not taken.
    """
    cfg = _loaded(base)
    cfg.merge_from_dict(with_weights(cfg))
    cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None  # of any size
    cfg.model.backbone.update(arch=arch.to_dict(), scaling=None)
    cfg.model.head.update(arch=None, in_channels=arch.head, dropout=0.2)
    cfg.merge_from_dict(resized(cfg, base, resolution))
    whole = cfg.train_cfg.max_epochs
    for scheduler in cfg.param_scheduler:
        for key in ('begin', 'end'):
            if scheduler.get(key) == whole:
                scheduler[key] = epochs
        begin = scheduler.get('begin', 0)
        if scheduler.get('end') and begin >= scheduler['end']:
            raise InputError(f'config {base!r}: its {scheduler.get("type")} begins after {begin} '
                             f'epochs: --epochs {epochs} must be above that')
    cfg.train_cfg.update(max_epochs=epochs, val_interval=1)
    cfg.randomness = dict(seed=seed)
    for name in SILENT:
        cfg.default_hooks.pop(name, None)
    cfg.default_hooks.checkpoint = None  # MMEngine would put its own in
    cfg.log_level = 'WARNING'
    return cfg


def _loaded(base: str) -> Config:
    cfg = base_config(base)
    check_parts(cfg, f'config {base!r}')
    if not isinstance(cfg.get('param_scheduler'), list) or not (
            cfg.get('train_cfg') or {}).get('max_epochs'):
        raise InputError(f'config {base!r}: trials need a list of param_scheduler and '
                         'train_cfg.max_epochs, since their length is given in epochs')
    return cfg


def left_out(base: str) -> str:
    """A sentence on what trials do not take from the config ``base``; empty where they take all."""
    dropped = with_weights(_loaded(base))
    return (f'not taken from {base}: {", ".join(dropped)}; trials begin with random weights'
            if dropped else '')


def train(cfg: Config, work_dir: Path, tell: Callable[[int, float], None] | None = None
          ) -> list[float]:
    """Per cent top-1 after each epoch; ``tell`` may end the run by an exception."""
    adjust.dataloaders(cfg, pin_memory=None, persistent=None)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = work_dir.name
    # Named by the run: MMEngine keeps one for each name.
    cfg.visualizer = dict(type='mmengine.Visualizer', name=work_dir.name)
    runner, report = Runner.from_cfg(cfg), Report(tell)
    runner.register_hook(report)
    try:
        runner.train()
    finally:
        shutil.rmtree(work_dir, ignore_errors=True)
    return report.accuracies
