"""The staircase: at every step of the reference's 350 epochs, for any length of an epoch."""
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from mmengine.registry import PARAM_SCHEDULERS

from mmeffnet.optim import StaircaseLR


def scheduler(epoch_length, lr=0.128, **options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=lr)
    built = PARAM_SCHEDULERS.build(
        dict(type='mmeffnet.StaircaseLR', convert_to_iter_based=True, **options),
        default_args=dict(optimizer=optimizer, epoch_length=epoch_length))
    assert type(built) is StaircaseLR
    return optimizer, built


def reference(step, epoch_length, lr):
    """exponential_decay(staircase=True) and the warm-up of the reference TPU code, in decimals."""
    if step < 5 * epoch_length:
        return lr * step / (5 * epoch_length)
    stairs = int(Decimal(step) / (Decimal('2.4') * epoch_length))
    return lr * 0.97 ** stairs


@pytest.mark.parametrize('epoch_length', [626, 5, 1])
def test_every_step_of_350_epochs_is_that_of_the_reference(epoch_length):
    optimizer, staircase = scheduler(epoch_length)
    for step in range(350 * epoch_length):
        expected = reference(step, epoch_length, 0.128)
        assert optimizer.param_groups[0]['lr'] == pytest.approx(expected, rel=1e-12), step
        optimizer._global_step += 1  # the optimizer's own step, without its cost
        staircase.step()
    # 350 / 2.4 = 145.8
    assert optimizer.param_groups[0]['lr'] == pytest.approx(0.128 * 0.97 ** 145)


@pytest.mark.parametrize('stopped', [3, 57, 240])
def test_it_resumes_anywhere(stopped):
    optimizer, staircase = scheduler(23)
    values = []
    for step in range(300):
        if step == stopped:
            state, rate = dict(staircase.state_dict()), optimizer.param_groups[0]['lr']
        values.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        staircase.step()
    optimizer, staircase = scheduler(23)
    staircase.load_state_dict(state)
    optimizer.param_groups[0]['lr'] = rate
    resumed = []
    for _ in range(stopped, 300):
        resumed.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        staircase.step()
    assert resumed == values[stopped:]


@pytest.mark.parametrize(('options', 'end'), [
    (dict(epoch_length=4, end=6), 24), (dict(epoch_length=4, end=2), 8),
    (dict(epoch_length=2, end=6), 12), (dict(epoch_length=4, end=6, gamma=0.5), 12),
    (dict(epoch_length=4, end=6, warmup=2), 12), (dict(epoch_length=4, end=6, begin=1), 12)])
def test_the_same_stairs_go_on_to_another_end_and_others_are_the_saved_ones(options, end):
    _, saved = scheduler(4, end=3)
    _, resumed = scheduler(**options)
    resumed.load_state_dict(saved.state_dict())
    assert resumed.end == end
    for name in ('stair', 'gamma', 'warmup', 'begin'):
        assert getattr(resumed, name) == getattr(saved, name)


def test_parts_of_epochs_are_whole_steps_that_are_reached():
    _, made = scheduler(5, begin=1.5, warmup=0.7, end=2.7)
    assert (made.begin, made.warmup, made.end) == (7, 3, 13)


def test_before_its_beginning_the_rate_is_that_of_the_first_step():
    optimizer, staircase = scheduler(2, lr=1., begin=1, warmup=0, step=0.5, gamma=0.5)
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        staircase.step()
    assert rates == [1, 1, 1, 0.5, 0.25]


@pytest.mark.parametrize('wrong', [dict(by_epoch=False, epoch_length=4), dict(epoch_length=None)])
def test_iterations_need_epochs_to_count_from(wrong):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.)
    with pytest.raises(ValueError, match='convert_to_iter_based=True needs by_epoch=True'):
        StaircaseLR.build_iter_from_epoch(optimizer, **wrong)


def test_without_a_fall_the_rate_stays():
    optimizer, staircase = scheduler(1, lr=1., warmup=0, gamma=1)
    optimizer.step()
    staircase.step()
    assert optimizer.param_groups[0]['lr'] == 1


def test_groups_keep_their_own_rates():
    params = [torch.nn.Parameter(torch.ones(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([dict(params=params[:1], lr=1.), dict(params=params[1:], lr=0.1)])
    StaircaseLR(optimizer, warmup=0, by_epoch=False)
    assert [group['lr'] for group in optimizer.param_groups] == [1., 0.1]


@pytest.mark.parametrize(('name', 'value', 'rule'), [
    ('step', 0, 'above 0'), ('gamma', 1.5, 'above 0, at most 1'),
    ('gamma', 0, 'above 0, at most 1'), ('warmup', -1, 'at least 0'),
    ('step', float('inf'), 'above 0, and finite'), ('warmup', float('nan'), 'at least 0, and fin'),
    ('warmup', 'a', 'at least 0')])
def test_a_wrong_argument_is_named(name, value, rule):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.)
    with pytest.raises(ValueError, match=f'{name}={value!r} must be {rule}'):
        StaircaseLR(optimizer, **{name: value})
    with pytest.raises(ValueError, match=f'{name}={value!r} must be {rule}'):
        StaircaseLR.build_iter_from_epoch(optimizer, epoch_length=4, **{name: value})


@pytest.mark.parametrize('step', [Fraction(12, 5), np.float32(2.5), np.int64(2)])
def test_any_kind_of_number_will_do(step):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.)
    made = StaircaseLR.build_iter_from_epoch(optimizer, epoch_length=20, step=step)
    assert made.stair == 20 * float(step)
