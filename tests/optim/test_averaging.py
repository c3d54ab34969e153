"""Averaged weights: TensorFlow's decay and ramp, BatchNorm statistics included."""
import copy

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS
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


@pytest.mark.parametrize('decay', [0.0001, 1.0, -0.1])
def test_a_decay_that_is_none_is_refused(decay):
    with pytest.raises(ValueError, match=f'decay={decay!r}'):
        RampedAverage(network(), decay=decay)


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
