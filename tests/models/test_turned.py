"""Deployed networks that see images upside down, so that SAME padding takes no operation."""
import copy

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule
from peers import TINY, calibrated, images
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mmeffnet import EfficientNet
from mmeffnet.models import packing
from mmeffnet.models.layers import Conv2dSame
from mmeffnet.models.turned import _mirrors, turn, turned_padding, turns

LAST = torch.channels_last
INDICES = 0, 1, 2, -1

pytestmark = pytest.mark.skipif(not packing._has_order(torch.float32),
                                reason='PyTorch has no oneDNN for this processor')


@pytest.fixture(scope='module')
def net():
    torch.manual_seed(0)
    net = calibrated(EfficientNet(arch=TINY, out_indices=INDICES))
    net.switch_to_deploy()
    return net.float().to(memory_format=LAST)


def picture(*size):
    return images(*size).float().contiguous(memory_format=LAST)


def assert_as_modules(net, x):
    expected = net(x.clone().requires_grad_())[-1].detach()
    with torch.no_grad():
        got = net(x)[-1]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def operations(net, x):
    """Names of the operations that the outputs of an image take, after the first time."""
    with torch.no_grad():
        net(x)
        with profile(activities=[ProfilerActivity.CPU]) as found:
            net(x)
    return [event.name for event in found.events()]


@pytest.mark.parametrize('size', [(64, 64), (65, 64), (64, 33), (96, 80), (61, 46)], ids=str)
def test_a_lopsided_zero_takes_no_operation(net, size):
    x = picture(*size)
    names = operations(net, x)
    assert names.count('aten::flip') == 1 + len(INDICES)
    assert not {'aten::pad', 'aten::constant_pad_nd', 'aten::slice'} & {*names}
    assert any('conv' in name for name in names)
    assert_as_modules(net, x)


@pytest.mark.parametrize(('size', 'dtype'), [((65, 33), torch.float32), ((64, 64), torch.float64)])
def test_what_has_none_or_packs_no_weights_is_run_as_it_is(net, size, dtype):
    """Odd sides are odd again in each stage."""
    x = picture(*size).to(dtype)
    assert 'aten::flip' not in operations(copy.deepcopy(net).to(dtype), x)


@pytest.mark.parametrize('kernel', [1, 2, 3, 5, (3, 5)], ids=str)
@pytest.mark.parametrize('stride', [1, 2, 3, 4], ids=str)
@pytest.mark.parametrize('dilation', [1, 2])
def test_what_is_called_a_mirror_is_one_at_every_size(kernel, stride, dilation):
    torch.manual_seed(0)
    conv = Conv2dSame(2, 4, kernel, stride=stride, dilation=dilation, groups=2).double()
    equal = []
    for size in [(height, width) for height in range(9, 17) for width in (12, 13)]:
        x = torch.randn(2, 2, *size, dtype=torch.float64)
        turned = F.conv2d(turn(x), turn(conv.weight), conv.bias, conv.stride,
                          turned_padding(conv, size), conv.dilation, conv.groups)
        expected = conv(x)
        equal.append(turned.shape == expected.shape and torch.allclose(
            turn(turned), expected, rtol=0, atol=1e-12))
    assert all(equal) or not _mirrors(conv)
    # Nor is what all variants are made of refused.
    assert _mirrors(conv) or kernel in (1, 2) or stride > 2


@pytest.mark.parametrize(('conv', 'act', 'size', 'expected'), [
    (Conv2dSame(3, 4, 3, stride=2), 'SiLU', (64, 65), True),
    (Conv2dSame(3, 4, 3, stride=2), None, (64, 64), True),
    (Conv2dSame(3, 4, 3, stride=2), 'SiLU', (65, 65), False),
    (Conv2dSame(3, 4, 3, stride=2), 'ELU', (64, 64), False),
    (Conv2dSame(3, 4, 1, stride=2), 'SiLU', (64, 64), False),
    (Conv2dSame(3, 4, 2), 'SiLU', (64, 64), False),
    (nn.Conv2d(3, 4, 3, stride=2, padding=1), 'SiLU', (64, 64), False),
], ids=str)
def test_only_what_is_a_mirror_and_gains_is_turned(conv, act, size, expected):
    layer = ConvModule(3, 4, 1, act_cfg=act and dict(type=act))
    layer.conv = conv
    x = torch.zeros(1, 3, *size)
    assert turns(nn.Sequential(layer), x) is expected
    assert not turns(nn.Sequential(layer), x.to('meta'))


def test_layers_before_the_last_output_decide():
    """What lies behind it is not run."""
    twin = EfficientNet(arch=TINY, out_indices=(0, 1)).eval()
    twin.switch_to_deploy()
    twin.layers[-1] = nn.Conv2d(1, 1, 3).eval()  # no mirror
    names = operations(twin.to(memory_format=LAST), picture(64, 64))
    assert names.count('aten::flip') == 3


def test_both_ways_of_one_network_keep_weights_of_their_own(net, monkeypatch):
    """Also where nothing else tells them apart."""
    monkeypatch.setattr(packing, '_order', lambda weight: 0)
    net = copy.deepcopy(net)
    for x in 2 * [picture(64, 64), picture(65, 65)]:
        assert_as_modules(net, x)


@pytest.mark.parametrize('change', [
    dict(padding=(0, 0)), dict(padding=(2, 1)), dict(stride=(2, 2)), dict(dilation=(2, 2))],
    ids=str)
def test_a_layer_that_somebody_changed_is_run_as_it_is(net, change):
    net = copy.deepcopy(net)
    block = net.layers[1][0]
    conv, block.skip = block.depthwise_conv.conv, False
    assert conv.stride == (1, 1)
    vars(conv).update(change)
    assert_as_modules(net, picture(64, 64))
