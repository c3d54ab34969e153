"""Inference with less between the layers: the numbers of the modules, and nothing left out."""
import copy

import pytest
import torch
from mmcv.cnn.bricks import DropPath
from peers import TINY, calibrated, images
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmeffnet import EfficientNet
from mmeffnet.models import direct
from mmeffnet.models.blocks import ResidualBlock
from mmeffnet.models.recompute import LeanConvModule

CASES = {
    'same padding': {},
    'symmetric': dict(conv_cfg=dict(type='Conv2d')),
    'swish in two operations': dict(act_cfg=dict(type='Swish')),
    'relu6': dict(act_cfg=dict(type='ReLU6')),
    'group norm': dict(norm_cfg=dict(type='GN', num_groups=2)),
    'no affine': dict(norm_cfg=dict(type='BN', affine=False)),
    'no running statistics': dict(norm_cfg=dict(type='BN', track_running_stats=False)),
    'dilated': dict(output_stride=8),
}
LAYOUTS = {'channels first': torch.contiguous_format, 'channels last': torch.channels_last}


class Operations(TorchDispatchMode):
    """Counts the calls of PyTorch's operations by name."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def network(**options):
    torch.manual_seed(0)
    net = EfficientNet(arch=TINY, out_indices=(0, 1, 2, -1), **options)
    plain = net.norm_cfg['type'] == 'BN' and net.norm_cfg.get('affine', True)
    return calibrated(net) if plain else net.double().eval()


def by_modules(net, x):
    """The outputs with gradients recorded, which runs the modules as they are."""
    with torch.enable_grad():
        outs = net(x.clone().requires_grad_())
    assert all(out.requires_grad for out in outs)
    return [out.detach() for out in outs]


@torch.no_grad()
def directly(net, x):
    return net(x)


def assert_same(got, expected):
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize('options', CASES.values(), ids=CASES)
def test_outputs_are_those_of_the_modules(options, layout):
    net = network(**options).to(memory_format=layout)
    for size in ((64, 64), (61, 46)):
        x = images(*size, batch=2).contiguous(memory_format=layout)
        before, expected = x.clone(), by_modules(net, x)
        found = directly(net, x)
        assert_same(found, expected)
        assert [out.stride() for out in found] == [out.stride() for out in expected]
        assert torch.equal(x, before)
        with torch.inference_mode():
            assert_same(net(x), expected)


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
def test_a_deployed_network_gives_the_same(layout):
    net = network().to(memory_format=layout)
    x = images(61, 46, batch=3).contiguous(memory_format=layout)
    expected = by_modules(net, x)
    net.switch_to_deploy()
    assert_same(directly(net, x), expected)
    assert_same(directly(net, x), expected)  # what is written over is not kept


class Scaled(nn.Module):
    """As LayerScale and adapters take the place of drop path."""

    def forward(self, x):
        return 0.1 * x


@pytest.mark.parametrize('change', [Scaled().eval(), DropPath(0.5)], ids=['scale', 'training'])
@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
def test_what_takes_the_place_of_drop_path_is_run_in_a_deployed_network(change, layout):
    net = network().to(memory_format=layout)
    x = images(61, 46, batch=3).contiguous(memory_format=layout)
    net.switch_to_deploy()
    before = directly(net, x)
    for block in net.modules():
        if isinstance(block, ResidualBlock) and block.skip:
            block.drop_path = copy.deepcopy(change)
    found = []
    for run in (by_modules, directly, directly):
        torch.manual_seed(0)
        found.append(run(net, x))
    assert_same(found[1], found[0])
    assert_same(found[2], found[0])
    assert (found[1][-1] - before[-1]).abs().max() > 0.1 * before[-1].abs().max()


@pytest.mark.parametrize('largest', [direct.LARGEST, 1], ids=['small', 'large'])
def test_statistics_in_train_mode_are_those_of_the_modules(largest, monkeypatch):
    """As averages of weights need them: no gradients, and BatchNorm learns from whole batches."""
    monkeypatch.setattr(direct, 'LARGEST', largest)
    x, states = images(64, 64, batch=3), []
    for run in (by_modules, directly):
        net = network(drop_path_rate=0.).train()
        states.append((run(net, x), net.state_dict()))
    assert_same(states[0][0], states[1][0])
    torch.testing.assert_close(states[0][1], states[1][1], rtol=1e-11, atol=1e-11)


def test_few_pixels_are_a_matrix_product_and_many_a_convolution(monkeypatch):
    net = network().to(memory_format=torch.channels_last)
    x = images(64, 64, batch=1).contiguous(memory_format=torch.channels_last)
    pointwise = sum(isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) for m in net.modules())
    others = sum(isinstance(m, nn.Conv2d) for m in net.modules()) - pointwise
    seen = []
    for rows in (direct.ROWS, 1):
        monkeypatch.setattr(direct, 'ROWS', rows)
        with Operations() as operations:
            directly(net, x)
        seen.append((operations.counts['convolution'], operations.counts['addmm']
                     + operations.counts.get('mm', 0)) if rows > 1
                    else operations.counts['convolution'])
    gates = 2 * sum(block.se is not None and not isinstance(block.se, nn.Identity)
                    for block in net.modules() if isinstance(block, ResidualBlock))
    assert seen == [(others, pointwise), others + pointwise - gates]  # a gate has one pixel


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
def test_an_accelerator_runs_what_the_modules_would_in_one_batch(layout, monkeypatch):
    """PyTorch's device without data stands for it: no modules are called, and none of the ways of
    a CPU is taken."""
    monkeypatch.setattr(direct, 'LARGEST', 1)
    net = network().to(memory_format=layout).to('meta')
    x = images(64, 64, batch=4).contiguous(memory_format=layout).to('meta')
    inner = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d))]
    called, seen = [], []
    for module in inner:
        module.forward = lambda *args, run=module.forward: called.append(1) or run(*args)
    with Operations() as operations:
        outs = by_modules(net, x)
    assert len(called) == len(inner)
    seen.append(operations.counts)
    for module in inner:
        del module.forward
    monkeypatch.setattr(nn.BatchNorm2d, 'forward', None)
    with Operations() as operations:
        again = directly(net, x)
    seen.append(operations.counts)
    assert [(o.shape, o.stride()) for o in again] == [(o.shape, o.stride()) for o in outs]
    for name in ('convolution', 'mean'):
        assert seen[0][name] == seen[1][name] > 1
    assert not {'addmm', 'mm', 'bmm', 'cat', 'split'} & {*seen[1]}
    assert sum(seen[1].values()) < sum(seen[0].values())


@pytest.mark.parametrize(('case', 'copied'), [
    ({}, 0), (dict(act_cfg=dict(type='ReLU6')), 0), (dict(act_cfg=dict(type='ELU')), 5),
    (dict(norm_cfg=dict(type='GN', num_groups=2)), 5)], ids=str)
def test_outputs_ahead_are_read_past_where_values_count_alone(case, copied):
    net, x = network(**case), images(64, 64, batch=2)
    assert sum(m.stride == (2, 2) for m in net.modules() if isinstance(m, nn.Conv2d)) == 5
    with Operations() as operations:
        directly(net, x)
    assert operations.counts.get('constant_pad_nd', 0) == copied


def leaves(net):
    return [module for module in net.modules() if not [*module.children()]]


def test_hooks_see_what_they_would_see():
    """Of every layer, and nothing is written over what they keep."""
    net, x = network(), images(64, 64, batch=2)
    found = []
    for run in (by_modules, directly):
        twin, seen = copy.deepcopy(net), []
        for module in leaves(twin):
            module.register_forward_hook(lambda m, inputs, out, seen=seen: seen.append(out))
        run(twin, x)
        found.append([out.detach() for out in seen])
    assert len(found[0]) > 20
    assert_same(found[1], found[0])


@pytest.mark.parametrize('name', ['layers.1.0.depthwise_conv', 'layers.1.0.depthwise_conv.conv',
                                  'layers.1.0.se', 'layers.1.0.se.conv1.activate'])
def test_a_module_that_is_changed_is_called(name):
    net, x = network(), images(64, 64, batch=2)
    module = dict(net.named_modules())[name]
    before = directly(net, x)[-1]
    handle = module.register_forward_hook(lambda module, inputs, out: 2 * out)
    hooked = directly(net, x)[-1]
    handle.remove()
    forward = module.forward
    module.forward = lambda *inputs: 2 * forward(*inputs)
    assert_same([directly(net, x)[-1]], [hooked])
    assert (hooked - before).abs().max() > 1e-3
    del module.forward
    assert torch.equal(directly(net, x)[-1], before)


def test_a_class_made_of_ours_runs_its_own_forward():
    class Doubled(LeanConvModule):
        def forward(self, x, activate=True, norm=True):
            return 2 * super().forward(x, activate, norm)

    net, x = network(), images(64, 64, batch=2)
    net.layers[1][0].depthwise_conv.__class__ = Doubled
    assert_same(directly(net, x), by_modules(net, x))


def test_a_global_hook_sees_every_module():
    net, x, found = network(), images(64, 64, batch=1), []
    for run in (by_modules, directly):
        seen = set()
        handle = nn.modules.module.register_module_forward_hook(
            lambda module, inputs, out, seen=seen: seen.add(module))
        try:
            run(net, x)
        finally:
            handle.remove()
        found.append(seen)
    assert found[0] == found[1]
    assert len(found[0]) > 30


@torch.no_grad()
def test_transforms_of_functions_run_the_modules():
    net, pair = network(), images(64, 64, batch=2)
    mapped = torch.func.vmap(lambda x: net(x[None])[-1][0])(pair)
    assert_same([mapped], [directly(net, pair)[-1]])
    x, direction = pair[:1], pair[1:]
    tangents = [torch.func.jvp(lambda x: net(x)[-1], (x,), (direction,))[1]]
    with torch.enable_grad():
        tangents.append(torch.func.jvp(lambda x: net(x)[-1], (x,), (direction,))[1].detach())
    assert tangents[0].abs().max() > 1e-3
    assert_same([tangents[0]], [tangents[1]])


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
def test_a_large_batch_is_computed_in_parts(layout, monkeypatch):
    net = network().to(memory_format=layout)
    x = images(64, 48, batch=5).contiguous(memory_format=layout)
    expected, sizes, learnt = directly(net, x), [], []
    convolved, values = direct._convolved, []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, inputs, out: values.append(out[0].nbytes))
    directly(net, x)
    net = copy.deepcopy(net)
    for module in net.modules():
        module._forward_hooks.clear()
    monkeypatch.setattr(direct, 'LARGEST', 2 * max(values))
    monkeypatch.setattr(direct, '_convolved',
                        lambda x, conv: sizes.append(len(x)) or convolved(x, conv))
    got = directly(net, x)
    assert_same(got, expected)
    assert {1, 2, 5} <= {*sizes}
    assert all(one.stride() == other.stride() for one, other in zip(got, expected, strict=True))
    # What belongs to the whole batch stays whole.
    for change in (nn.Module.train, lambda net: leaves(net)[9].register_forward_hook(
            lambda module, inputs, out: learnt.append(len(out)))):
        twin = copy.deepcopy(net)
        change(twin)
        directly(twin, x)
    assert learnt == [5]


def test_statistics_of_the_batch_are_those_of_all_its_images(monkeypatch):
    net, x = network(norm_cfg=dict(type='BN', track_running_stats=False)), images(64, 48, batch=5)
    monkeypatch.setattr(direct, 'LARGEST', 1)
    assert_same(directly(net, x), by_modules(net, x))


@pytest.mark.parametrize('form', ['plain', 'deployed'])
@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
def test_a_batch_without_images_has_outputs_without_images(layout, form):
    """As a detector has where nothing was found."""
    net, x = network().to(memory_format=layout), images(64, 48, batch=1)[:0]
    shapes = [out.shape for out in by_modules(net, x)]
    if form == 'deployed':
        net.switch_to_deploy()
    for _ in range(2):
        assert [out.shape for out in directly(net, x)] == shapes


@pytest.mark.parametrize('copied', [direct.COPIED, 0], ids=['mean', 'product'])
@pytest.mark.parametrize('precision', ['autocast', 'weights'])
def test_bfloat16_is_as_close_as_that_of_the_modules(precision, copied, monkeypatch):
    monkeypatch.setattr(direct, 'COPIED', copied)
    net = network().float().to(memory_format=torch.channels_last)
    x = images(64, 64, batch=2).float().contiguous(memory_format=torch.channels_last)
    expected = by_modules(net, x)[-1]
    if precision == 'weights':
        net, x = net.bfloat16(), x.bfloat16()
    errors = []
    for run in (by_modules, directly):
        with torch.autocast('cpu', torch.bfloat16, enabled=precision == 'autocast'):
            out = run(net, x)[-1]
        assert out.dtype == torch.bfloat16
        errors.append((out.float() - expected).norm() / expected.norm())
    assert errors[1] < 1.5 * errors[0] < 0.1


def test_a_mean_of_many_pixels_in_bfloat16_is_added_up_in_float32(monkeypatch):
    x = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)).bfloat16()
    expected = x.double().mean((2, 3), keepdim=True)
    for layout in LAYOUTS.values():
        given = x.contiguous(memory_format=layout)
        for copied in (0, direct.COPIED):
            monkeypatch.setattr(direct, 'COPIED', copied)
            with Operations() as operations:
                mean = direct.pixel_mean(given)
            product = copied == 0 and layout is torch.channels_last
            assert ('mean' in operations.counts) != product
            torch.testing.assert_close(mean.double(), expected, rtol=2 ** -7, atol=0)
