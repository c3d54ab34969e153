"""The schedule file of the paper's recipe, in a run of its own: train, resume, test."""
import re

import pytest
import torch
from conftest import run_tool

# The tiny network on digits, under the recipe; two epochs of eight steps.
CONFIG = """
_base_ = ['./tiny_base.py']
_recipe = __import__('mmengine').Config.fromfile(
    __import__('mmeffnet').config_path('_base_/schedules/imagenet_bs2048_rmsprop.py'))
optim_wrapper = dict(_delete_=True, **_recipe.optim_wrapper.to_dict())
param_scheduler = [_recipe.param_scheduler.to_dict()]
custom_hooks = _recipe.custom_hooks
train_cfg = dict(max_epochs=2)
auto_scale_lr = dict(base_batch_size=2048)
del _recipe
"""


@pytest.fixture
def config(tiny_config, tmp_path):
    tiny_config()  # writes the base
    (tmp_path / 'recipe.py').write_text(CONFIG)
    return tmp_path


def load(path):
    return torch.load(path, weights_only=True)


@pytest.mark.slow
def test_the_recipe_trains_resumes_and_evaluates_the_averaged_weights(config):
    result = run_tool('train.py', 'recipe.py', '--work-dir', 'whole', '--auto-scale-lr', cwd=config)
    assert result.returncode == 0, result.stderr[-2000:]
    whole = load(config / 'whole/epoch_2.pth')
    group, rest = whole['optimizer']['param_groups'][0], whole['optimizer']['param_groups'][1:]
    # 0.128 x 32 / 2048 at step 15, the last of 16, of the 40 steps of warm-up.
    assert group['lr'] == pytest.approx(0.002 * 15 / 40)
    assert {g['weight_decay'] for g in (group, *rest)} == {1e-5, 0.}
    assert {'square_sum', 'momentum_buffer'} <= whole['optimizer']['state'][0].keys()
    assert int(whole['ema_state_dict']['steps']) == 16

    result = run_tool('train.py', 'recipe.py', '--work-dir', 'part', '--auto-scale-lr',
                      '--resume', 'whole/epoch_1.pth', cwd=config)
    assert result.returncode == 0, result.stderr[-2000:]
    resumed = load(config / 'part/epoch_2.pth')
    for part in ('state_dict', 'ema_state_dict'):
        assert whole[part].keys() == resumed[part].keys()
        assert all(torch.equal(value, resumed[part][key]) for key, value in whole[part].items())

    # What is saved as the model are the averages: they test as they were validated.
    tested = run_tool('test.py', 'recipe.py', 'whole/epoch_2.pth', cwd=config)
    assert tested.returncode == 0, tested.stderr[-2000:]
    found = [re.findall(r'accuracy/top1: ([\d.]+)', out.stdout)[-1] for out in (result, tested)]
    assert found[0] == found[1]
