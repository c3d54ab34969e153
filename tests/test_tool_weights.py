"""Weights of other libraries through tools/train.py and tools/test.py, as they are."""
import pickle

import pytest
import torch
from conftest import run_tool
from mmengine.config import Config

from mmeffnet.engine import cli
from mmeffnet.models import EfficientNet
from mmeffnet.weights.translate import to_layout

SMALL = """
_base_ = 'mmeffnet::quickstart/efficientnet-b0_digits.py'
model = dict(backbone=dict(arch='lite0'), head=dict(arch='lite0'))
test_pipeline = [dict(type='Resize', scale=(32, 32)), dict(type='PackInputs')]
train_dataloader = dict(batch_size=16, dataset=dict(indices=32, pipeline=test_pipeline))
val_dataloader = dict(batch_size=16, dataset=dict(indices=32, pipeline=test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1)
optim_wrapper = dict(optimizer=dict(lr=0.))
param_scheduler = []
custom_hooks = [dict(type='EMAHook', momentum=0.5)]
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A small config and one network's weights, 10 and 1000 classes, in two layouts."""
    folder = tmp_path_factory.mktemp('weights')
    (folder / 'small.py').write_text(SMALL)
    torch.manual_seed(0)
    network = EfficientNet('lite0')
    for name, tensor in network.state_dict().items():
        if name.endswith('bn.bias'):
            tensor.normal_(std=0.3)
    for classes in (10, 1000):
        ours = {f'backbone.{key}': value for key, value in network.state_dict().items()}
        ours |= {'head.fc.weight': torch.randn(classes, 1280) / 36,
                 'head.fc.bias': torch.zeros(classes)}
        theirs = to_layout(ours, network.arch, 'timm')
        torch.save(dict(state_dict=ours, meta=dict(epoch=3)), folder / f'ours{classes}.pth')
        # As timm's training script leaves it.
        torch.save(dict(epoch=3, arch='tf_efficientnet_lite0', optimizer={},
                        state_dict={key: torch.zeros_like(value) for key, value in theirs.items()},
                        state_dict_ema={f'module.{key}': value for key, value in theirs.items()}),
                   folder / f'timm{classes}.pth')
    return folder


def predictions(folder, checkpoint, *flags):
    result = run_tool('test.py', 'small.py', checkpoint, '--out', 'pred.pkl', *flags, cwd=folder)
    assert result.returncode == 0, result.stderr[-2000:]
    return [sample['pred_score'] for sample in
            pickle.loads((folder / 'pred.pkl').read_bytes())]


def test_a_file_of_timm_is_tested_as_ours_is(folder):
    ours, theirs = predictions(folder, 'ours10.pth'), predictions(folder, 'timm10.pth')
    assert len(ours) == 32
    assert torch.stack(ours).std(dim=0).max() > 1e-3  # pictures are told apart
    assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize('way', ['load_from', *(
    pytest.param(way, marks=pytest.mark.slow)
    for way in ('model.init_cfg', 'model.backbone.init_cfg'))])
def test_training_starts_from_a_file_of_timm_with_other_classes(way, folder, tmp_path):
    config = tmp_path / 'start.py'
    start = f'load_from = {str(folder / "timm1000.pth")!r}'
    if way != 'load_from':
        # type, checkpoint and the place that the option names.
        inner = f"init_cfg=dict(type='Pretrained', checkpoint={str(folder / 'timm1000.pth')!r})"
        start = (f'model = dict({inner})' if way == 'model.init_cfg' else
                 f'model = dict(backbone=dict({inner}))')
    config.write_text(f"_base_ = {str(folder / 'small.py')!r}\n{start}\n")
    result = run_tool('train.py', config, '--work-dir', 'out', cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    left_out = [line for line in result.stdout.splitlines() if 'left out' in line]
    assert len(left_out) == 1
    assert 'head.fc.weight and head.fc.bias left out' in left_out[0]
    assert 'do not match exactly' not in result.stdout
    # The learning rate is zero, so that the weights are still those of the file; the averaged
    # ones too, which the checkpoint holds.
    saved = torch.load(tmp_path / 'out/epoch_1.pth', weights_only=True)
    source = torch.load(folder / 'ours1000.pth', weights_only=True)['state_dict']
    kernel = 'backbone.layers.3.1.expand_conv.conv.weight'
    for state in (saved['state_dict'], {key.removeprefix('module.'): value for key, value
                                        in saved['ema_state_dict'].items()}):
        assert torch.equal(state[kernel], source[kernel])


def test_testing_refuses_other_classes(folder, fails):
    message = fails(cli.test_parser, folder / 'small.py', folder / 'timm1000.pth')
    assert 'head.fc.weight is 1000x1280 and has to be 10x1280' in message


def test_the_variant_of_a_foreign_file_is_named(folder, fails):
    config = folder / 'other.py'
    config.write_text("_base_ = './small.py'\n"
                      "model = dict(backbone=dict(arch='lite1'), head=dict(arch='lite1'))")
    for argv in ([cli.test_parser, config, folder / 'timm10.pth'],
                 [cli.train_parser, config, '--cfg-options', f'load_from={folder}/timm10.pth']):
        assert "is of variant 'lite0', and the config builds 'lite1'" in fails(*argv)


def test_a_file_without_any_network_is_refused(folder, fails):
    torch.save({'fc.weight': torch.zeros(2, 2)}, folder / 'fc.pth')
    for argv in ([cli.test_parser, folder / 'small.py', folder / 'fc.pth'],
                 [cli.train_parser, folder / 'small.py', '--cfg-options',
                  f'load_from={folder}/fc.pth']):
        assert 'holds no EfficientNet of a known layout' in fails(*argv)


def test_the_hook_is_in_every_config(configs):
    for path in sorted(configs.glob('*/efficientnet-*0*.py')):
        hooks = Config.fromfile(path).default_hooks
        assert hooks['any_weights'] == dict(type='mmeffnet.AnyWeightsHook'), path
