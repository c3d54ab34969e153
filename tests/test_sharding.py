"""A network split over two processes trains as a whole one, and its checkpoints are whole."""
from pathlib import Path

import pytest
import torch
from conftest import run_tool
from mmengine.config import Config
from mmengine.registry import MODELS
from two_processes import (
    ENVIRONMENT,
    SAME,
    assert_same_weights,
    load,
    losses,
    run_one,
    run_two,
    write_configs,
)

import mmeffnet
from mmeffnet.engine.sharding import tensors_of

pytestmark = pytest.mark.slow

# The optimizer, the averages and the strategy of the config for L2, and its recomputation.
SHARDED = """
_base_ = './float64.py'
_l2 = __import__('mmengine').Config.fromfile(
    __import__('mmeffnet').config_path('efficientnet/efficientnet-l2_8xb16-sharded_in1k.py'))
runner_type = _l2.runner_type
strategy = _l2.strategy.to_dict()
optim_wrapper = dict(_delete_=True, **_l2.optim_wrapper.to_dict())
custom_hooks = [*_l2.custom_hooks, dict(type='JointLossHook'), dict(type='SharesHook')]
model = dict(backbone=dict(with_cp=_l2.model.backbone.with_cp))
default_hooks = dict(checkpoint=dict(save_best='accuracy/top1'))
del _l2
"""
# The same without MMEngine's strategies.
PLAIN = "_base_ = './sharded.py'\nrunner_type = 'Runner'"


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """A whole run of one process, and a sharded one of two."""
    folder = tmp_path_factory.mktemp('sharded')
    write_configs(folder, sharded=SHARDED, plain=PLAIN)
    run_one('train.py', 'plain.py', '--work-dir', 'one', cwd=folder)
    run_two('train.py', 'sharded.py', '--work-dir', 'two', cwd=folder)
    return folder


def test_a_sharded_run_has_losses_weights_and_averages_of_a_whole_one(runs):
    torch.testing.assert_close(losses(runs / 'two'), losses(runs / 'one'), **SAME)
    for epoch in (1, 2, 3):
        assert_same_weights(runs / f'one/epoch_{epoch}.pth', runs / f'two/epoch_{epoch}.pth',
                            **SAME)


def test_each_process_holds_half_of_everything(runs):
    shares = [load(runs / f'two/shares_{rank}.pth') for rank in (0, 1)]
    whole = load(runs / 'two/epoch_3.pth')
    total = sum(p.numel() for key, p in whole['state_dict'].items()
                if not key.endswith(('running_mean', 'running_var', 'num_batches_tracked')))
    for part in ('parameters', 'averages'):
        assert sum(share[part] for share in shares) == total
    assert sum(share['optimizer'] for share in shares) == 2 * total  # squares and momentum
    # Uneven only by tensors whose first axis is odd.
    assert shares[0]['parameters'] == pytest.approx(total / 2, rel=0.05)


def test_a_sharded_checkpoint_is_that_of_a_whole_run(runs):
    whole, sharded = load(runs / 'one/epoch_2.pth'), load(runs / 'two/epoch_2.pth')
    assert whole.keys() == sharded.keys()
    assert whole['optimizer'].keys() == sharded['optimizer'].keys()
    for index, state in whole['optimizer']['state'].items():
        for key, value in state.items():
            torch.testing.assert_close(sharded['optimizer']['state'][index][key], value, **SAME)


@pytest.mark.parametrize('how', ['sharded', 'whole'])
def test_a_run_goes_on_from_a_sharded_checkpoint(how, runs):
    command = ['train.py', f'{"sharded" if how == "sharded" else "plain"}.py', '--work-dir', how,
               '--resume', 'two/epoch_2.pth', '--no-validate']
    (run_two if how == 'sharded' else run_one)(*command, cwd=runs)
    assert len(losses(runs / how)) == 4  # of the third epoch
    tolerance = dict(rtol=0, atol=0) if how == 'sharded' else SAME
    assert_same_weights(runs / 'two/epoch_3.pth', runs / f'{how}/epoch_3.pth', **tolerance)


def test_a_sharded_checkpoint_loads_into_a_plain_model_and_tests_as_it_validated(runs):
    checkpoint = load(runs / 'two/epoch_3.pth')
    cfg = Config.fromfile(runs / 'sharded.py', import_custom_modules=False)
    backbone = mmeffnet.EfficientNet(arch=cfg.model.backbone.arch)
    state = {key.removeprefix('backbone.'): value for key, value in
             checkpoint['state_dict'].items() if key.startswith('backbone.')}
    backbone.load_state_dict(state, strict=True)
    # The config of the sharded run, in one process: nothing is split.
    output = run_one('test.py', 'sharded.py', 'two/epoch_3.pth', cwd=runs)
    best = checkpoint['message_hub']['log_scalars']['val/accuracy/top1']['history'][-1].item()
    assert f'accuracy/top1: {best:.4f}' in output


def test_sharding_starts_from_weights_of_another_run(runs):
    # Weights alone, averaged weights start from them; MMEngine loads them whole.
    run_two('train.py', 'sharded.py', '--work-dir', 'started', '--no-validate', '--cfg-options',
            'load_from=one/epoch_3.pth', 'train_cfg.max_epochs=1', cwd=runs)
    assert losses(runs / 'started')[0] < losses(runs / 'one')[0] - 0.01


def test_the_config_for_l2_has_the_papers_recipe_and_says_what_is_not_public():
    path = mmeffnet.config_path('efficientnet/efficientnet-l2_8xb16-sharded_in1k.py')
    assert 'not public' in Path(path).read_text()
    cfg, b7 = (Config.fromfile(mmeffnet.config_path(f'efficientnet/efficientnet-{name}_in1k.py'))
               for name in ('l2_8xb16-sharded', 'b7_8xb256-paper'))
    for key in ('optim_wrapper', 'param_scheduler', 'custom_hooks', 'train_cfg', 'auto_scale_lr'):
        assert cfg[key] == b7[key], key
    assert cfg.model.head.loss == b7.model.head.loss
    assert [t.type for t in cfg.train_dataloader.dataset.pipeline] == [
        t.type for t in b7.train_dataloader.dataset.pipeline]
    assert cfg.model.backbone.norm_cfg.type == 'SyncBN'
    assert cfg.model.backbone.with_cp


def test_unknown_arguments_of_the_strategy_are_said_in_one_line(runs):
    result = run_tool('train.py', 'sharded.py', '--cfg-options', 'strategy.level=3', cwd=runs,
                      env=ENVIRONMENT)
    assert result.returncode == 2
    assert "unexpected keyword argument 'level'" in result.stderr.splitlines()[-1]


def test_a_copy_of_the_tensors_alone_has_their_names_and_order():
    model = MODELS.build(dict(type='mmeffnet.EfficientNet', arch='lite0'))
    copy = tensors_of(model)
    assert list(copy.state_dict()) == list(model.state_dict())
    assert [name for name, _ in copy.named_parameters()] == [
        name for name, _ in model.named_parameters()]
    theirs = dict(model.named_parameters())
    for name, mine in copy.named_parameters():
        assert torch.equal(mine, theirs[name])
        assert mine.data_ptr() != theirs[name].data_ptr()
