"""Steps that are not finite: refused or left out, with layer and batch named."""
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from line_runs import Model, start
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS
from mmengine.runner import Runner
from two_processes import free_port

from mmeffnet.engine import cli, non_finite
from mmeffnet.engine.non_finite import plain_batch
from mmeffnet.engine.parallel import HostDataParallel
from mmeffnet.errors import InputError

FEW = ('train_cfg = dict(max_epochs=2, val_interval=5)',
       'train_dataloader = dict(dataset=dict(indices=128))')  # 4 batches an epoch
LAYER = 'backbone.layers.2.0.depthwise_conv.conv'


@pytest.fixture
def poison():
    """A hook that spoils iterations, counted from 1: ``poison(5, what='layer')``."""
    def define(*at, what):
        @HOOKS.register_module(name='Poison')
        class Poison(Hook):
            priority = 'LOWEST'
            active = False

            def before_train(self, runner):
                layer = dict(runner.model.named_modules())[LAYER]
                layer.register_forward_hook(
                    lambda module, inputs, output: output * math.inf
                    if self.active and what == 'layer' else None)
                layer.weight.register_hook(
                    lambda gradient: gradient * math.nan
                    if self.active and what == 'gradient' else None)

            def before_train_iter(self, runner, batch_idx, data_batch=None):
                self.active = runner.iter + 1 in at
                if self.active and what == 'images':
                    data_batch['inputs'] = [x.float() * math.nan for x in data_batch['inputs']]
                if self.active and what == 'weights':
                    with torch.no_grad():
                        dict(runner.model.named_parameters())[f'{LAYER}.weight'][0] = math.inf

    yield define
    HOOKS._module_dict.pop('Poison', None)


def config(tiny_config, *lines):
    return tiny_config(*FEW, "custom_hooks = [dict(type='EMAHook', momentum=0.3), "
                       "dict(type='Poison')]", *lines)


def train(*args):
    from mmeffnet.engine import run
    run.train(cli.parse(cli.train_parser(), [*args, '--work-dir', 'out']))


@pytest.mark.parametrize(('what', 'where'), [
    ('layer', f'the first layer with such an output is {LAYER}'),
    ('gradient', 'the outputs of all layers are finite'),
    ('images', 'the images of the batch are not finite themselves'),
    ('weights', f'the weights {LAYER}.weight are not finite themselves'),
])
def test_a_step_that_is_not_finite_ends_the_run_and_says_where(what, where, poison, tiny_config,
                                                               fails, tmp_path):
    poison(6, what=what)
    line = fails(cli.train_parser, config(tiny_config), '--work-dir', 'out', code=1)
    # Gradients reach the stem last, and the first parameter is named.
    param = f'{LAYER}.weight' if what == 'gradient' else 'backbone.layers.0.conv.weight'
    batch = tmp_path / 'out/non_finite_iter_6.pth'
    assert line == (
        f'error: iteration 6 (epoch 2), learning rate 0.006294: the gradient of {param} is not '
        f'finite; {where}; the batch is in {batch}. Nothing of it has reached a checkpoint: go on '
        'with --resume and clipped gradients (optim_wrapper.clip_grad.max_norm), float32, or up to '
        'N such steps left out (default_hooks.non_finite.max_skips=N), or begin a run with '
        'load_from=CHECKPOINT and a smaller learning rate, which --resume would not take')
    saved = torch.load(batch, weights_only=True)
    assert len(saved['inputs']) == len(saved['data_samples']) == 32
    assert saved['data_samples'][0]['gt_label'].shape == (1, )


def test_a_loss_that_is_not_finite_ends_a_step_of_several_batches_too(poison, tiny_config, fails):
    poison(5, what='layer')
    line = fails(cli.train_parser, config(
        tiny_config, 'optim_wrapper = dict(accumulative_counts=2)'), '--work-dir', 'out', code=1)
    assert line.startswith('error: iteration 5 (epoch 2), learning rate 0.0075: the loss is nan; '
                           f'the first layer with such an output is {LAYER}; ')


@pytest.mark.parametrize('counts', [1, 2])
def test_steps_are_left_out_when_asked_and_leave_no_trace(counts, poison, tiny_config, tmp_path,
                                                          monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    poison(3, 6, what='layer')
    train(config(tiny_config, f'optim_wrapper = dict(accumulative_counts={counts})',
                 'default_hooks = dict(non_finite=dict(max_skips=2))'))
    assert [line[:16] for line in left_out(capsys)] == ['1 of at most 2: ', '2 of at most 2: ']
    checkpoint = torch.load(tmp_path / 'out/epoch_2.pth', weights_only=True)
    for part in ('state_dict', 'ema_state_dict'):
        assert all(torch.isfinite(tensor).all() for tensor in checkpoint[part].values())
    # The statistics are as before a step that is left out.
    tracked = checkpoint['ema_state_dict']['module.backbone.layers.0.bn.num_batches_tracked']
    assert tracked == 8 - 2 * counts
    steps = {int(state['step']) for state in checkpoint['optimizer']['state'].values()}
    assert steps == {8 // counts - 2}


def test_the_step_after_the_last_that_may_be_left_out_ends_the_run(poison, tiny_config, fails):
    poison(3, 6, what='images')
    line = fails(cli.train_parser, config(
        tiny_config, 'default_hooks = dict(non_finite=dict(max_skips=1))'), '--work-dir', 'out',
        code=1)
    assert line.startswith('error: iteration 6 (epoch 2), ')
    assert ' (1 steps were left out before). Nothing of it ' in line


@pytest.mark.parametrize('counts', [1, 2])
def test_a_loss_that_is_infinite_with_finite_gradients_is_said_as_it_is(counts, tmp_path,
                                                                        monkeypatch):
    """It is seen after the step, unless it is of an earlier batch: that step is left out."""
    said, calls, forward = [], [], Model.forward

    def poisoned(self, inputs, mode='tensor'):
        found = forward(self, inputs, mode)
        if mode == 'loss' and torch.is_grad_enabled():
            calls.append(self.line.weight.item())
            if len(calls) == 3:
                found['loss'] = found['loss'] + torch.inf
        return found
    monkeypatch.setattr(Model, 'forward', poisoned)
    monkeypatch.setattr(non_finite, 'print_log', lambda line, *_, **__: said.append(line))
    start(tmp_path, accident=non_finite.NonFiniteHook(max_skips=2), optim_wrapper=dict(
        optimizer=dict(type='SGD', lr=0.05), accumulative_counts=counts),
        train_cfg=dict(type='mmeffnet.EpochBasedTrainLoop', max_epochs=2))
    taken = 'Step taken with finite gradients, counted as 1 of at most 2: iteration 3'
    left = 'Step left out, 1 of at most 2: iteration 4'
    assert len(said) == 1
    assert said[0].startswith(taken if counts == 1 else left)
    # The weights of the fourth and fifth batch, before and after a step that may be missing.
    assert (calls[2] != calls[3]) is (counts == 1)
    assert (calls[3] != calls[4]) is (counts == 1)


class SpoiltIn(BaseModel):
    """A loss that is no number in the second batch of one process, with gradients of one."""

    def __init__(self, rank):
        super().__init__()
        self.rank, self.calls, self.weight = rank, 0, torch.nn.Parameter(torch.ones(()))

    def forward(self, inputs, mode='loss'):
        self.calls += self.training
        spoilt = torch.nan if (self.rank, self.calls) == (1, 1) else 0.
        return dict(loss=self.weight * inputs.sum() + spoilt)


def train_with_a_spoilt_batch(rank, port, folder):
    """In each of two processes, in steps of two batches."""
    torch.distributed.init_process_group(
        'gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    model = HostDataParallel(SpoiltIn(rank))
    Runner(model, f'{folder}/{rank}', log_level='ERROR', train_dataloader=dict(
        dataset=[dict(inputs=torch.tensor(float(n))) for n in range(8)], batch_size=1,
        num_workers=0, collate_fn=dict(type='default_collate'),
        sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.), accumulative_counts=2),
        default_hooks=dict(checkpoint=None),
        custom_hooks=[non_finite.NonFiniteHook(max_skips=1)]).train()
    # The mean of 4, 5, 6 and 7; the step of 0 to 3 is left out by both.
    assert model.module.weight.item() == 1 - 5.5
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_processes_leave_out_a_step_together(tmp_path):
    torch.multiprocessing.spawn(train_with_a_spoilt_batch, args=(free_port(), tmp_path), nprocs=2)
    assert len([*tmp_path.glob('*/non_finite_iter_2_rank_*.pth')]) == 2


@pytest.fixture
def scaled():
    """A wrapper that scales the loss on a CPU, as MMEngine's does on CUDA."""
    @OPTIM_WRAPPERS.register_module(name='Scaled')
    class Scaled(OptimWrapper):
        def __init__(self, init_scale, **kwargs):
            super().__init__(**kwargs)
            self.loss_scaler = torch.amp.GradScaler(
                'cpu', init_scale=init_scale, backoff_factor=init_scale**-0.5)

        def backward(self, loss, **kwargs):
            self.loss_scaler.scale(loss).backward(**kwargs)
            self._inner_count += 1

        def step(self, **kwargs):
            self.loss_scaler.step(self.optimizer, **kwargs)
            self.loss_scaler.update()

    def line(scale=4., counts=1, fused=False):
        return (f"optim_wrapper = dict(type='mmengine.Scaled', init_scale={scale}, "
                f"accumulative_counts={counts}, optimizer=dict(_delete_=True, type='SGD', lr=0.01, "
                f'fused={fused}))')

    yield line
    OPTIM_WRAPPERS._module_dict.pop('Scaled', None)


def left_out(capsys):
    return [line.partition('Step left out, ')[2] for line in capsys.readouterr().out.splitlines()
            if 'Step left out' in line]


def weights(path):
    checkpoint = torch.load(path, weights_only=True)
    return {(part, key): tensor for part in ('state_dict', 'ema_state_dict')
            for key, tensor in checkpoint[part].items()}


@pytest.mark.parametrize('fused', [False, True])
def test_a_loss_scale_that_is_too_large_ends_no_run(fused, poison, scaled, tiny_config, tmp_path,
                                                    monkeypatch):
    monkeypatch.chdir(tmp_path)
    poison(what='nothing')
    train(config(tiny_config, scaled(2.**127, fused=fused)))
    first, last = (weights(tmp_path / f'out/epoch_{epoch}.pth') for epoch in (1, 2))
    assert all(torch.isfinite(tensor).all() for tensor in last.values())
    weight = 'state_dict', 'head.fc.weight'
    assert not torch.equal(first[weight], last[weight])  # the second scale is small enough


@pytest.mark.parametrize('fused', [False, True])
def test_a_step_that_loss_scaling_leaves_out_leaves_no_trace_either(
        fused, poison, scaled, tiny_config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    poison(5, what='images')
    train(config(tiny_config, scaled(counts=4, fused=fused),
                 'default_hooks = dict(non_finite=dict(max_skips=2))'))
    line, = left_out(capsys)
    assert line.startswith('1 of at most 2: iteration 8 (epoch 2), learning rate 0.0')
    assert ('the loss of a batch of this step is not finite; the images of the batch are not '
            'finite themselves') in line
    assert all(torch.isfinite(x).all() for x in weights(tmp_path / 'out/epoch_2.pth').values())


OFTEN = 'checkpoint=dict(by_epoch=False, interval=2, max_keep_ckpts=9, save_best=None)'
SKIPPING = f'default_hooks = dict({OFTEN}, non_finite=dict(max_skips=2))'


@pytest.mark.parametrize('scaling', [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_step_is_left_out_after_resuming_within_it_too(scaling, poison, scaled, tiny_config,
                                                         tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    poison(1, 5, what='images')
    written = config(tiny_config, 'train_cfg = dict(max_epochs=3)', 'randomness = dict(seed=1)',
                     SKIPPING, scaled(counts=4) if scaling
                     else 'optim_wrapper = dict(accumulative_counts=4)')
    train(written)
    assert [line[0] for line in left_out(capsys)] == ['1', '2']
    whole = weights(tmp_path / 'out/iter_12.pth')
    (tmp_path / 'out/iter_12.pth').unlink()
    train(written, '--resume', 'out/iter_6.pth')
    assert [line[0] for line in left_out(capsys)] == ['2']
    part = weights(tmp_path / 'out/iter_12.pth')
    assert all(torch.isfinite(tensor).all() for tensor in part.values())
    assert all(torch.equal(tensor, part[key]) for key, tensor in whole.items())


@pytest.mark.slow
def test_steps_are_left_out_from_a_resume_within_one_on(poison, tiny_config, tmp_path,
                                                        monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    poison(what='layer')
    lines = 'randomness = dict(seed=1)', 'optim_wrapper = dict(accumulative_counts=4)'
    train(config(tiny_config, *lines, f'default_hooks = dict({OFTEN})'))
    HOOKS._module_dict.pop('Poison')
    poison(7, what='layer')
    train(config(tiny_config, *lines, SKIPPING), '--resume', 'out/iter_6.pth')
    assert [line[0] for line in left_out(capsys)] == ['1']
    assert all(torch.isfinite(x).all() for x in weights(tmp_path / 'out/iter_8.pth').values())


@pytest.mark.parametrize(('processes', 'name'), [
    (1, 'non_finite_iter_1.pth'), (2, 'non_finite_iter_1_rank_1.pth')])
def test_the_look_at_a_batch_draws_nothing_and_each_process_has_a_file(processes, name, tmp_path,
                                                                       monkeypatch):
    monkeypatch.setattr(non_finite, 'get_world_size', lambda: processes)
    monkeypatch.setattr(non_finite, 'get_rank', lambda: processes - 1)
    model, batch = Model(), dict(inputs=torch.ones(2))
    runner = SimpleNamespace(model=model, work_dir=tmp_path, iter=0, epoch=0,
                             optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), 0.1)))
    hook = non_finite.NonFiniteHook()
    hook.before_train(runner)
    hook.before_train_iter(runner, 0, batch)
    before = torch.get_rng_state()
    assert str(tmp_path / name) in hook._describe('the loss is nan')
    assert torch.equal(torch.get_rng_state(), before)
    non_finite.first_non_finite(runner, batch)
    assert not torch.equal(torch.get_rng_state(), before)  # as this by itself does
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_negative_bound_is_refused():
    with pytest.raises(ValueError, match='max_skips=-1 must be at least 0'):
        non_finite.NonFiniteHook(max_skips=-1)


def test_a_batch_is_plain_whatever_is_in_it():
    from mmengine.structures import BaseDataElement
    batch = dict(inputs=torch.ones(2), data_samples=[BaseDataElement(
        metainfo=dict(path='a.png', size=(1, 2)), label=np.int64(3))], other=object,
        files=[b'\xff\xd8', b''])  # of pictures that the device decodes
    plain = plain_batch(batch)
    assert plain['files'][0].tolist() == [0xff, 0xd8]
    assert plain['files'][1] == ''
    assert plain['data_samples'] == [dict(path='a.png', size=[1, 2], label=torch.tensor(3))]
    assert plain['other'] == repr(object)


def test_detector_that_does_not_fit_is_refused_under_the_tools_of_others_too():
    hook = HOOKS.build(dict(type='mmeffnet.PyramidCheckHook'))
    model = ConfigDict(backbone=dict(type='mmeffnet.EfficientNet', out_indices=(3, 4, 5)),
                       neck=dict(type='FPN', in_channels=[40, 112, 320]))
    hook.before_run(SimpleNamespace(cfg=dict(model=model)))
    model.neck.in_channels = [512, 1024, 2048]
    with pytest.raises(InputError, match=r'write in_channels=\[40, 112, 320\]'):
        hook.before_run(SimpleNamespace(cfg=dict(model=model)))
