"""Scaling of networks that are not ours: what they are, and the paper's table of their costs."""
import functools
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.models import MobileNetV2, ResNet
from mmpretrain.registry import MODELS

from mmeffnet import EfficientNet, ModelScaling
from mmeffnet.analysis.measured import measure
from mmeffnet.analysis.networks import MOBILENET_V2, NETWORKS, get_network
from mmeffnet.analysis.scaled_resnet import ScaledResNet
from mmeffnet.plugin import MIM

DOC = (Path(__file__).parents[2] / 'docs/scaling.md').read_text()
CONFIGS = sorted(str(p.relative_to(MIM / 'configs'))
                 for p in (MIM / 'configs/scaling').rglob('*.py'))
SCALINGS = {'': {}, '-d4': dict(depth=4), '-w2': dict(width=2), '-r2': dict(resolution=448),
            '-compound': dict(depth=1.4, width=1.2)}
# G multiply-adds of table 3 of the paper.
PAPER = {'mobilenet_v2': {'': '0.3', '-d4': '1.2', '-w2': '1.1', '-r2': '1.2', '-compound': '1.3'},
         'resnet50': {'': '4.1', '-d4': '16.2', '-w2': '14.7', '-r2': '16.4', '-compound': '16.7'}}


def row(config):
    """The name of the network and the row of the table that a config is for."""
    found = re.fullmatch(r'scaling/(\w+)/[\w-]+?(-d4|-w2|-r2|-compound|)_in1k\.py', config)
    return found[1], found[2]


@functools.cache
def cost(config):
    """Multiply-adds of a config's network with its classifier, at the size of its crops."""
    cfg = Config.fromfile(MIM / 'configs' / config)
    size = cfg.test_dataloader.dataset.pipeline[1].crop_size
    head = cfg.model.head
    return (measure(cfg.model.backbone.to_dict(), size).multiply_adds
            + head.in_channels * head.num_classes)


def test_there_is_a_short_config_for_every_row():
    assert sorted(map(row, CONFIGS)) == sorted((n, r) for n in NETWORKS for r in SCALINGS)
    for config in CONFIGS:
        assert len((MIM / 'configs' / config).read_text().splitlines()) <= 40


@pytest.mark.parametrize('config', CONFIGS)
def test_a_config_builds_the_network_that_scaling_gives(config):
    name, key = row(config)
    cfg, scaling = Config.fromfile(MIM / 'configs' / config), ModelScaling(**SCALINGS[key])
    init_default_scope('mmpretrain')
    model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor})
    expected = measure(get_network(name).scaled(scaling), 64)
    assert measure(model.backbone, 64).parameters == expected.parameters
    assert cfg.model.head.in_channels == get_network(name).features(scaling)
    with torch.no_grad():
        model.eval()
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


@pytest.mark.parametrize('config', CONFIGS)
def test_multiply_adds_are_the_papers_within_3_percent_or_its_digits(config):
    name, key = row(config)
    if name == 'resnet50':  # two rows that fit when they are exchanged: see docs/scaling.md
        key = {'-d4': '-w2', '-w2': '-d4'}.get(key, key)
    printed, found = PAPER[name][key], cost(config) / 1e9
    rounding = 0.5 * 10 ** -len(printed.partition('.')[2])
    assert abs(found - float(printed)) <= max(0.03 * float(printed), rounding)


@pytest.mark.parametrize('config', CONFIGS)
def test_the_docs_have_the_cost(config):
    name, key = row(config)
    line = next(line for line in DOC.splitlines() if f'`{Path(config).name}`' in line)
    assert f'| {PAPER[name][key]} | {cost(config) / 1e9:.2f} |' in line


def test_mobilenet_v2_as_stages_is_mmpretrains():
    ours, theirs = EfficientNet(arch=MOBILENET_V2).double(), MobileNetV2().double()
    ours.eval(), theirs.eval()
    norms = [m for m in ours.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-3}
    for norm in norms:
        norm.eps = 1e-5
    state = ours.state_dict()
    assert [v.shape for v in state.values()] == [v.shape for v in theirs.state_dict().values()]
    for value in state.values():
        if value.dtype.is_floating_point:
            value.copy_(torch.rand_like(value) + 0.5 if value.dim() == 1
                        else torch.randn_like(value) / value[0].numel() ** 0.5)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), state.values())))
    image = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(image)[-1], theirs(image)[-1], rtol=1e-9, atol=1e-9)


def test_resnet_with_the_blocks_of_a_published_depth_is_mmpretrains():
    ours, theirs = ScaledResNet(stage_blocks=(3, 4, 23, 3)), ResNet(depth=101)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ours.eval(), theirs.eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(image)[-1], theirs(image)[-1])
    assert ResNet.arch_settings[50][1] == (3, 4, 6, 3)  # the class itself stays as it is


def test_wrong_networks_are_refused():
    with pytest.raises(ValueError, match="network='resnet5' is not known; did you mean 'resnet50'"):
        get_network('resnet5')
    with pytest.raises(ValueError, match=r'stage_blocks=\(3, 0\) must be four whole numbers'):
        ScaledResNet(stage_blocks=(3, 0))
