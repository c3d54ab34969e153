"""The two residual blocks: their sizes, drop path, and recomputation that changes nothing."""
from functools import cache

import pytest
import torch
import torch.distributed as dist
from mmcv.cnn.bricks import DropPath
from peers import TINY
from torch import nn
from torch.distributed.fsdp import fully_shard

from mmeffnet import EfficientNet
from mmeffnet.arch import Block
from mmeffnet.models.blocks import BLOCKS, SqueezeExcite
from mmeffnet.models.recompute import spatial_mean


def make(kind='mbconv', *, drop_path_rate=0.0, with_cp=False, **fields):
    numbers = {**dict(kernel=3, stride=1, in_channels=8, hidden=16, out_channels=8, squeeze=2,
                      skip=True), **fields}
    return BLOCKS[kind](Block(kind=kind, **numbers), conv_cfg=dict(type='mmeffnet.Conv2dSame'),
                        norm_cfg=dict(type='BN', eps=1e-3, momentum=0.01),
                        act_cfg=dict(type='SiLU'), drop_path_rate=drop_path_rate,
                        with_cp=with_cp)


def blocks_of(name, **options):
    with torch.device('meta'):
        network = EfficientNet(arch=name, **options)
    return [block for group in network.layers[1:-1] for block in group]


# Squeeze-and-excitation.

def test_first_block_of_the_second_stage_squeezes_96_to_4():
    se = blocks_of('b0')[1].se
    sizes = [(c.conv.in_channels, c.conv.out_channels) for c in (se.conv1, se.conv2)]
    assert sizes == [(96, 4), (4, 96)]


def test_squeeze_follows_the_input_of_each_block():
    squeezes = [block.se.conv1.conv.out_channels for block in blocks_of('b0')]
    # A quarter of 32 | 16 24 | 24 40 | 40 80 80 | 80 112 112 | 112 192 192 192 | 192.
    assert squeezes == [8, 4, 6, 6, 10, 10, 20, 20, 20, 28, 28, 28, 48, 48, 48, 48]


def test_squeeze_and_excitation_scales_by_a_sigmoid_of_the_mean():
    torch.manual_seed(0)
    se, x = SqueezeExcite(6, 2, dict(type='SiLU')), torch.randn(2, 6, 5, 4)
    first, second = se.conv1.conv, se.conv2.conv
    hidden = x.flatten(2).mean(2) @ first.weight.flatten(1).T + first.bias
    gate = (hidden * hidden.sigmoid()) @ second.weight.flatten(1).T + second.bias
    torch.testing.assert_close(se(x), x * gate.sigmoid()[:, :, None, None])


def test_block_without_squeeze_has_none():
    assert isinstance(make(squeeze=0).se, nn.Identity)


# Drop path.

def rates(name, rate=0.2):
    return [getattr(block.drop_path, 'drop_prob', None)
            for block in blocks_of(name, drop_path_rate=rate)]


@pytest.mark.parametrize(('name', 'block', 'kept'), [
    ('b5', 1, 0.99487), ('b3', 1, 0.99231), ('b0', 2, 0.975)])
def test_drop_rate_grows_with_the_block_over_all_blocks(name, block, kept):
    # 1 - 0.2 x 1 / 39, 1 - 0.2 x 1 / 26, 1 - 0.2 x 2 / 16: counted after depth scaling.
    assert 1 - rates(name)[block] == pytest.approx(kept, abs=5e-6)


def test_drop_rates_of_b0_are_those_of_its_blocks_with_a_skip():
    skips = [2, 4, 6, 7, 9, 10, 12, 13, 14]
    expected = [pytest.approx(0.2 * i / 16) if i in skips else None for i in range(16)]
    assert rates('b0') == expected


def test_first_block_is_never_dropped():
    # In B5 it is one of three equal blocks, but its input has 48 channels and its output 24.
    assert rates('b5')[0] is None


def test_no_rate_means_no_drop_path():
    assert set(rates('b0', rate=0.0)) == {None}


@pytest.mark.parametrize('kind', BLOCKS)
def test_drop_path_drops_whole_samples_and_scales_the_others(kind):
    torch.manual_seed(0)
    block, x = make(kind, drop_path_rate=0.75).eval(), torch.randn(64, 8, 4, 4)
    branch = block(x) - x
    block.drop_path.train()
    dropped = block(x) - x
    kept = dropped.flatten(1).abs().sum(1) > 0
    assert 0 < kept.sum() < 64
    # A quarter is kept, so what is kept counts four times.
    torch.testing.assert_close(dropped[kept], 4 * branch[kept], rtol=1e-4, atol=1e-4)


def test_drop_path_is_off_in_eval():
    block, x = make(drop_path_rate=0.75).eval(), torch.randn(4, 8, 4, 4)
    assert torch.equal(block(x), x + block.transform(x))


@pytest.mark.parametrize('kind', BLOCKS)
def test_block_without_skip_adds_no_input(kind):
    block, x = make(kind, skip=False).eval(), torch.randn(2, 8, 4, 4)
    assert torch.equal(block(x), block.transform(x))


# Recomputation.

@cache
def train(with_cp, *, frozen=0, steps=3):
    """Everything that a few training steps leave behind."""
    torch.manual_seed(0)
    network = EfficientNet(arch=TINY, drop_path_rate=0.2, with_cp=with_cp, frozen_stages=frozen,
                           out_indices=(2, 5, 6)).train()
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.05)
    losses, grads = [], []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = sum(out.square().mean() for out in network(torch.randn(4, 3, 64, 64)))
        loss.backward()
        losses.append(loss.detach())
        grads.append([p.grad.clone() for p in network.parameters() if p.requires_grad])
        optimizer.step()
    return dict(losses=losses, grads=grads, random=torch.get_rng_state(),
                state=network.state_dict())


@pytest.mark.parametrize('frozen', [0, 1, 3], ids=lambda n: f'{n} frozen')
@pytest.mark.parametrize('part', ['losses', 'grads', 'random', 'state'])
def test_recomputation_changes_nothing(part, frozen):
    # 'random' says that drop path has drawn as often; frozen layers give the first
    # recomputed block an input without gradient.
    plain, again = (train(with_cp, frozen=frozen)[part] for with_cp in (False, True))
    torch.testing.assert_close(again, plain, rtol=0, atol=0)


def test_batches_are_counted_once():
    state = train(with_cp=True, steps=3)['state']
    counts = {int(value) for key, value in state.items() if 'num_batches' in key}
    assert counts == {3}


def test_drop_path_is_drawn_in_the_compared_steps():
    torch.manual_seed(0)
    network = EfficientNet(arch=TINY, drop_path_rate=0.2)
    assert sum(isinstance(m, DropPath) for m in network.modules()) == 5


def saved_bytes(with_cp, **options):
    """Memory that one forward pass keeps for the backward pass, parameters aside."""
    network, kept = make(with_cp=with_cp, **options).train(), {}
    own = {p.data_ptr() for p in network.parameters()}

    def pack(tensor):
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = network(torch.randn(2, 8, 16, 16, requires_grad=True))
    assert out.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize('kind', BLOCKS)
def test_recomputation_keeps_less_memory(kind):
    assert saved_bytes(with_cp=True, kind=kind) < saved_bytes(with_cp=False, kind=kind) / 4


def test_every_block_of_a_network_recomputes_or_none_does():
    for with_cp in (True, False):
        assert {block.with_cp for block in blocks_of('b0', with_cp=with_cp)} == {with_cp}


def test_recomputation_is_not_reentrant():
    # The reentrant kind refuses torch.autograd.grad.
    block, x = make(with_cp=True).train(), torch.randn(2, 8, 4, 4, requires_grad=True)
    (grad, ) = torch.autograd.grad(block(x).square().sum(), x)
    assert grad.abs().sum() > 0


def test_block_runs_once_without_gradients():
    block, calls = make(with_cp=True).train(), []
    block.linear_conv.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        block(torch.randn(2, 8, 4, 4))
    assert calls == [1]


def test_statistics_stay_the_same_tensors_after_a_recomputation():
    # Averaging hooks and DDP hold on to them.
    block = make(with_cp=True).train()
    before = dict(block.named_buffers())
    block(torch.randn(2, 8, 4, 4)).sum().backward()
    after = dict(block.named_buffers())
    assert before.keys() == after.keys()
    assert all(after[name] is buffer for name, buffer in before.items())


def tiny(with_cp):
    torch.manual_seed(0)
    return EfficientNet(arch=TINY, with_cp=with_cp).double().train()


def gradients(out, tensors, **options):
    return torch.autograd.grad(out.square().sum(), list(tensors), **options)


@pytest.mark.parametrize('mode', [True, False], ids=['train', 'eval'])
def test_weights_of_a_functional_call_are_those_of_its_recomputation(mode):
    x, found = torch.randn(2, 3, 32, 32, dtype=torch.float64), []
    for with_cp in (False, True):
        net = tiny(with_cp).train(mode)
        weights = {name: (1.1 * p.detach()).requires_grad_() for name, p in net.named_parameters()}
        out = torch.func.functional_call(net, weights, (x, ))[0]
        own = dict(net.named_parameters())
        found.append(gradients(out, weights.values()))
        assert all(net.get_parameter(name) is p for name, p in own.items())
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
    assert found[0][0].abs().max() > 0


@pytest.mark.parametrize('mode', [True, False], ids=['train', 'eval'])
def test_a_mode_set_before_the_backward_pass_changes_nothing(mode):
    x, found = torch.randn(2, 3, 32, 32, dtype=torch.float64), []
    for with_cp in (False, True):
        net = tiny(with_cp).train(mode)
        out = net(x)[0]
        net.train(not mode)
        found.append([*gradients(out, net.parameters()), *net.buffers()])
        assert {module.training for module in net.modules()} == {not mode}
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_statistics_of_eval_mode_are_those_of_the_forward_pass():
    block, x = make(with_cp=True).double().eval(), torch.randn(2, 8, 4, 4, dtype=torch.float64)
    expected = gradients(block(x), block.parameters())
    out = block(x)
    with torch.no_grad():
        for norm in block.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_var.mul_(4)
    torch.testing.assert_close(gradients(out, block.parameters()), expected, rtol=0, atol=0)


def test_a_block_is_recomputed_as_often_as_gradients_are_asked_for():
    block, x = make(with_cp=True).train(), torch.randn(2, 8, 4, 4)
    out = block(x)
    first = gradients(out, block.parameters(), retain_graph=True)
    torch.testing.assert_close(gradients(out, block.parameters()), first, rtol=0, atol=0)
    assert {int(norm.num_batches_tracked) for norm in block.modules()
            if isinstance(norm, nn.BatchNorm2d)} == {1}


@pytest.mark.filterwarnings('ignore:.torch.jit:FutureWarning')
def test_a_network_that_recomputes_is_traced_with_gradients_on():
    net, x = tiny(with_cp=True).eval(), torch.randn(1, 3, 32, 32, dtype=torch.float64)
    assert torch.is_grad_enabled()
    traced = torch.jit.trace(net, x)
    other = torch.randn(2, 3, 47, 32, dtype=torch.float64)
    torch.testing.assert_close(traced(other), net(other), rtol=1e-12, atol=1e-12)


def test_compiled_recomputation_updates_statistics_once():
    torch.manual_seed(0)
    plain, again = make(), make(with_cp=True)
    again.load_state_dict(plain.state_dict())
    x = torch.randn(2, 8, 8, 8)
    plain.train()(x).sum().backward()
    torch.compile(again.train(), backend='aot_eager', fullgraph=True)(x).sum().backward()
    torch.testing.assert_close(again.state_dict(), plain.state_dict())


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_mean_of_a_gate_is_exact_and_its_gradient_a_view(dtype):
    """A mean of its own would make it a tensor as large as the input, in another layout."""
    torch.manual_seed(0)
    x = (300 * torch.rand(2, 3, 40, 40) + 200).to(dtype, memory_format=torch.channels_last)
    x.requires_grad_()
    seen = []
    given = x * 1
    given.register_hook(seen.append)
    mean = spatial_mean(given)
    mean.backward(torch.arange(6).to(dtype).view(2, 3, 1, 1))
    expected = x.detach().double().mean((2, 3), keepdim=True)
    assert mean.dtype == dtype
    # The sum of these is beyond what float16 can hold.
    torch.testing.assert_close(mean.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=0)
    gradient = torch.arange(6).view(2, 3, 1, 1).expand(x.shape) / 1600
    torch.testing.assert_close(x.grad, gradient.to(dtype))
    assert (seen[0].stride()[2:] == (0, 0)) == (dtype != torch.float16)


def test_a_compiled_layer_within_a_block_is_recomputed():
    plain, part = EfficientNet('b0'), EfficientNet('b0', with_cp=True)
    part.load_state_dict(plain.state_dict())
    block = part.layers[2][0]
    block._modules[block.order[0]] = torch.compile(block._modules[block.order[0]], backend='eager')
    image = torch.randn(2, 3, 64, 64)
    for network in (plain, part):
        network.train()(image)[-1].square().sum().backward()
    weights = [network.layers[0].conv.weight.grad for network in (plain, part)]
    torch.testing.assert_close(*weights)


def test_weights_that_are_sharded_within_a_block_are_whole_as_it_recomputes():
    x = torch.randn(2, 8, 4, 4)
    plain, block = make().train(), make(with_cp=True).train()
    block.load_state_dict(plain.state_dict())
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = dist.init_device_mesh('cpu', (1, ))
        for module in (block.expand_conv, block.depthwise_conv, block.linear_conv, block):
            fully_shard(module, mesh=mesh)
        for each in (plain, block, plain, block):
            each(x).square().sum().backward()
        for got, expected in zip(block.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(got.grad.full_tensor(), expected.grad, rtol=0, atol=0)
    finally:
        dist.destroy_process_group()
