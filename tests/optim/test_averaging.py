"""Averaged weights: TensorFlow's decay and ramp, BatchNorm statistics included."""
import copy
import pickle
from types import SimpleNamespace

import mmengine.hooks  # noqa: F401 (registers them, as each run does)
import numpy as np
import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, MODELS
from torch import nn

from mmeffnet.optim import RampedAverage


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).double()


def train(model, average, steps):
    """Random walks of weights and statistics; gives the states after each."""
    states = []
    for step in range(steps):
        torch.manual_seed(step)
        with torch.no_grad():
            for tensor in model.state_dict().values():
                if tensor.is_floating_point():
                    tensor.add_(torch.randn_like(tensor))
        model(torch.randn(2, 3, 4, 4, dtype=torch.float64))  # counts the batch
        average.update_parameters(model)
        states.append(copy.deepcopy(model.state_dict()))
    return states


def test_the_average_is_that_of_the_formula_with_statistics():
    model = network()
    average = RampedAverage(model, decay=0.8)
    states = train(model, average, 40)
    expected = states[0]
    for t, state in enumerate(states[1:], start=1):
        decay = min(0.8, (1 + t) / (10 + t))  # 2/11, 3/12, ... up to 0.8 at t = 35
        expected = {key: decay * expected[key] + (1 - decay) * state[key] for key in state}
    averaged = average.module.state_dict()
    for key in averaged:
        if key.endswith('num_batches_tracked'):
            assert averaged[key] == states[-1][key] == 40
        else:
            torch.testing.assert_close(averaged[key], expected[key], rtol=1e-12, atol=1e-12)


def test_without_ramp_it_is_mmengines_average():
    ours, theirs = network(), network()
    mine = RampedAverage(ours, decay=0.99, ramp=False)
    other = ExponentialMovingAverage(theirs, momentum=0.01, update_buffers=True)
    train(ours, mine, 10)
    train(theirs, other, 10)
    for key, value in other.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(mine.module.state_dict()[key], value)


@pytest.mark.parametrize('buffers', [True, False], ids=['buffers', 'parameters'])
@torch.no_grad()
def test_a_tensor_of_several_layers_is_averaged_once(buffers):
    model = nn.ModuleList([nn.Linear(2, 2, bias=False) for _ in range(3)])
    model[1].weight = model[0].weight
    nn.init.zeros_(model[0].weight)
    average = RampedAverage(model, decay=0.75, ramp=False, update_buffers=buffers)
    average.update_parameters(model)
    nn.init.ones_(model[0].weight)
    average.update_parameters(model)
    assert (average.module[0].weight == 0.25).all()
    assert average.module[1].weight is average.module[0].weight


@torch.no_grad()
def test_a_part_of_a_tensor_stands_for_no_whole_one():
    model = nn.Module()
    model.register_buffer('whole', torch.zeros(10))
    model.register_buffer('part', model.whole[:3])
    average = RampedAverage(model, decay=0.75, ramp=False)
    average.update_parameters(model)
    model.whole.fill_(1)
    average.update_parameters(model)
    assert (average.module.whole[3:] == 0.25).all()


@torch.no_grad()
def test_a_row_stands_for_no_column_that_begins_where_it_does():
    model, square = nn.Module(), torch.zeros(2, 2)
    model.register_buffer('row', square[0])
    model.register_buffer('column', square[:, 0])
    average = RampedAverage(model, decay=0.75, ramp=False)
    average.update_parameters(model)
    square.fill_(1)
    average.update_parameters(model)
    assert average.module.row[1] == average.module.column[1] == 0.25


def test_one_tensor_is_averaged_as_all_are():
    average, value = RampedAverage(network(), decay=0.5, ramp=False), torch.zeros(2)
    average.avg_func(value, torch.ones(2), torch.tensor(5))
    assert (value == 0.5).all()


class Renamed(nn.Conv2d):
    """Saves another weight than it has, as quantised layers do."""

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f'{prefix}weight'] = 2 * destination[f'{prefix}weight']


def exchange(model):
    model[0] = nn.Conv2d(3, 4, 1).double()


def set_anew(model):
    model[0].weight = nn.Parameter(model[0].weight.detach() + 1)


def set_data(model):
    model[0].weight.data = model[0].weight.data + 1


def hook(model):
    def doubled(module, state, prefix, metadata):
        for key in state:
            if state[key].is_floating_point():
                state[key] = 2 * state[key]
    model[0].register_state_dict_post_hook(doubled)


def own_class(model):
    model[0].__class__ = Renamed


def own_state(model):
    plain = model[0].state_dict

    def doubled(*args, destination, prefix, **kwargs):
        plain(*args, destination=destination, prefix=prefix, **kwargs)
        destination[f'{prefix}weight'] = 2 * destination[f'{prefix}weight']
    model[0].state_dict = doubled


AT_START = own_class, own_state  # a live layer does not change these


def add_more(model):
    model.add_module('more', nn.Conv2d(1, 1, 1))


class Asked:
    """In place of ``Sources``: what the network says each time."""

    def of(self, model, keys, buffers):
        state = model.state_dict() if buffers else dict(model.named_parameters())
        return [state[key] for key in keys]


def asking(model, **options):
    average = RampedAverage(model, decay=0.75, ramp=False, **options)
    average._sources = Asked()
    return average


@pytest.mark.parametrize('buffers', [True, False], ids=['buffers', 'parameters'])
@pytest.mark.parametrize('interval', [1, 3])
@pytest.mark.parametrize('change', [None, exchange, set_anew, set_data, hook, own_class,
                                    own_state, add_more])
@torch.no_grad()
def test_tensors_are_those_of_the_state_dict_whatever_happens(change, interval, buffers):
    makers = [asking, lambda model, **options: RampedAverage(
        model, decay=0.75, ramp=False, **options)]
    if interval == 1:  # which MMEngine counts otherwise
        makers.append(lambda model, interval, **options: ExponentialMovingAverage(
            model, momentum=0.25, **options))
    averages = []
    for make in makers:
        model = network().requires_grad_(False)
        if change in AT_START:
            change(model)
        average = make(model, update_buffers=buffers, interval=interval)
        for call in range(4 * interval):
            if call == 2 * interval and change not in (None, *AT_START):
                torch.manual_seed(1)
                change(model)
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.add_(call + 1)
            average.update_parameters(model)
        averages.append(average.avg_parameters)
    for other in averages[1:]:
        assert averages[0].keys() == other.keys()
        for key, value in averages[0].items():
            if value.is_floating_point() or other is averages[1]:  # MMEngine counts no batches
                torch.testing.assert_close(value, other[key], rtol=1e-12, atol=1e-12)
    assert (averages[0]['0.weight'] - network()[0].weight).abs().min() > 1


def test_another_network_and_copies():
    model, other = network(), network()
    average = RampedAverage(model, decay=0.9)
    train(model, average, 2)
    assert len(pickle.dumps(average)) == len(pickle.dumps(RampedAverage(model, decay=0.9)))
    with torch.no_grad():
        other[0].weight.fill_(100.)
    for each in (average, copy.deepcopy(average)):
        found = each.avg_parameters['0.weight']
        before, rate = found.clone(), each.rate(int(each.steps))
        each.update_parameters(other)
        torch.testing.assert_close(found, before.lerp(other[0].weight.detach(), rate))
    with pytest.raises(KeyError, match='0.weight'):
        average.update_parameters(nn.Linear(1, 1))


class Counting(OptimWrapper):
    """Steps of three batches; each adds its number to all weights."""

    def __init__(self, model):
        super().__init__(torch.optim.SGD(model.parameters(), lr=1.), accumulative_counts=3)
        self.done = 0

    @torch.no_grad()
    def batch(self):
        self._inner_count += 1
        if self.should_update():
            self.done += 1
            for param in self.optimizer.param_groups[0]['params']:
                param += self.done


@pytest.mark.parametrize('kind', ['mmengine.EMAHook', 'mmpretrain.EMAHook'])
@pytest.mark.parametrize(('average', 'options'), [
    ('mmeffnet.RampedAverage', dict(decay=0.9)), ('ExponentialMovingAverage', dict(momentum=0.3)),
    ('StochasticWeightAverage', {}), ('MomentumAnnealingEMA', dict(momentum=0.1, gamma=4)),
])
def test_each_step_of_several_batches_is_averaged_once(average, options, kind):
    model = network()
    hook = HOOKS.build(dict(type=kind, ema_type=average, interval=2, **options))
    ours = HOOKS.build(dict(type='mmeffnet.StepAveragesHook'))
    runner = SimpleNamespace(model=model, optim_wrapper=Counting(model), hooks=[hook, ours],
                             iter=0, max_iters=8, max_epochs=1, _resume=False)
    runner.optim_wrapper.initialize_count_status(model, 0, 8)
    expected = MODELS.build(dict(type=average, model=network(), **options))
    hook.before_run(runner)
    for each in runner.hooks:
        each.before_train(runner)
    for iteration in range(8):
        runner.iter, steps = iteration, runner.optim_wrapper.done
        runner.optim_wrapper.batch()
        hook.after_train_iter(runner, iteration)
        if runner.optim_wrapper.done > steps:
            expected.update_parameters(model)
        assert all(map(torch.equal, hook.ema_model.buffers(), expected.buffers()))
        assert all(map(torch.equal, hook.ema_model.parameters(), expected.parameters()))
    assert hook.ema_model.steps == 3  # the last one of two batches


@pytest.mark.parametrize('decay', [0.0001, 1.0, -0.1])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(ValueError, match=f'decay={decay!r}'):
        RampedAverage(network(), decay=decay)


@pytest.mark.parametrize('interval', [0, -2, 1.5, '2'])
def test_an_interval_that_is_none_is_refused(interval):
    with pytest.raises(ValueError, match=f'interval={interval!r} must be a whole number above 0'):
        RampedAverage(network(), interval=interval)


def test_whole_numbers_of_numpy_are_whole_numbers():
    assert RampedAverage(network(), interval=np.int64(2)).interval == 2


def test_mmengines_momentum_is_converted_in_the_message():
    with pytest.raises(ValueError, match="MMEngine's momentum, write decay=0.9999"):
        RampedAverage(network(), decay=0.0001)


def test_mmengine_builds_it_by_name_and_saves_its_count():
    average = MODELS.build(dict(type='mmeffnet.RampedAverage', model=network(), decay=0.9))
    train(network(), average, 3)
    resumed = RampedAverage(network(), decay=0.9)
    resumed.load_state_dict(average.state_dict())
    assert resumed.steps == 3
    assert resumed.rate(3) == pytest.approx(1 - 4 / 13)
