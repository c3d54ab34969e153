"""Trainings of a line through eight points: whole in a second, stopped and resumed anywhere."""
import json
import os
import signal
from contextlib import suppress

import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mmeffnet.engine.saving import newest_checkpoint


class Model(BaseModel):
    """A line through points; validation gives its distance, averaged weights another.

    Training draws a little noise, as dropout does.
    """

    def __init__(self):
        super().__init__()
        self.line = torch.nn.Linear(1, 1)

    def forward(self, inputs, mode='tensor'):
        loss = (self.line(inputs.view(-1, 1)) - 3 * inputs.view(-1, 1)).square().mean()
        return dict(loss=loss * (1 + 1e-3 * torch.rand(()))) if mode == 'loss' else [loss]


class Score(BaseMetric):
    """The best is in the midst of the run."""

    def process(self, data_batch, data_samples):
        self.results.append(float(data_samples[0]))

    def compute_metrics(self, results):
        score = -abs(sum(results) / len(results) - TARGET)
        return dict(score=score, again=score)


TARGET = 0.5  # what the second validation of four comes nearest to
LOOPS = dict(
    epochs=dict(type='mmeffnet.EpochBasedTrainLoop', max_epochs=4),
    iterations=dict(type='IterBasedTrainLoop', max_iters=16, val_interval=4))
STARTS = iter(range(10 ** 6))


class Accident(Hook):
    """What happens once so many iterations are behind, in a batch of the validation by default."""
    priority = 'HIGHEST'

    def __init__(self, at, happen, when='after_val_iter'):
        def meet(runner, **_):
            if runner.iter + (when == 'after_train_iter') == at:
                happen()
        setattr(self, when, meet)


def kill():
    raise KeyboardInterrupt  # nothing of this package looks at it


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def start(folder, kind='epochs', accident=None, load_from=None, hook=None, **changes):
    """Train in this process, to the end or to what stops it."""
    scopes = DefaultScope._instance_dict.copy()  # fixtures of the module come before others'
    torch.manual_seed(0)  # the first weights
    by_epoch = kind == 'epochs'
    data = dict(batch_size=2, dataset=[dict(inputs=torch.tensor(n / 8)) for n in range(8)],
                num_workers=0, collate_fn=dict(type='default_collate'),
                sampler=dict(type=f'{"Default" if by_epoch else "Infinite"}Sampler'))
    settings = dict(
        train_dataloader=data, val_dataloader={**data, 'sampler': dict(type='DefaultSampler')},
        train_cfg=LOOPS[kind], val_cfg=dict(), val_evaluator=[Score()],
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9)),
        param_scheduler=dict(type='mmeffnet.StaircaseLR', warmup=0, step=1, gamma=0.9,
                             convert_to_iter_based=True)) | changes
    runner = Runner(
        Model(), str(folder), load_from=load_from, resume=load_from is not None,
        experiment_name=f'run_{next(STARTS):06d}', log_level='INFO',
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=by_epoch),
            checkpoint=dict(type='mmeffnet.CheckpointHook', interval=1 if by_epoch else 4,
                            by_epoch=by_epoch, save_best='score', rule='greater') | (hook or {}),
            **{name: dict(type=f'mmeffnet.{name}') for name in (
                'ExactResumeHook', 'PlainCheckpointHook', 'SamplesHook', 'SigtermHook',
                'ChangedRecipeHook')}),
        custom_hooks=[EMAHook(momentum=0.3), *([accident] if accident else [])],
        log_processor=dict(by_epoch=by_epoch), randomness=dict(seed=1), default_scope='mmeffnet',
        visualizer=dict(type='Visualizer', name=f'v{next(STARTS)}',
                        vis_backends=[dict(type='LocalVisBackend')]),
        cfg=dict(settings, val_evaluator=None), **settings)
    with suppress(KeyboardInterrupt, SystemExit):
        runner.train()
    DefaultScope._instance_dict = scopes


def seen(folder):
    """What a run leaves: validations as (step, score), the best checkpoint, the last weights."""
    lines = [json.loads(line) for path in sorted(folder.glob('*/vis_data/scalars.json'),
                                                 key=os.path.getmtime)
             for line in path.read_text().splitlines()]
    best, = folder.glob('best_*.pth')
    last = torch.load(newest_checkpoint(folder), weights_only=True)
    history = last['message_hub']['log_scalars']['val/score']['history'].tolist()
    return ([(line['step'], line['score']) for line in lines if 'score' in line], history,
            best.name, torch.load(best, weights_only=True)['state_dict'],
            last['state_dict'], last['ema_state_dict'], last['optimizer'])


def same(one, other):
    """Whether two values are equal to the bit."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
