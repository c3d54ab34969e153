"""Deployed networks as lists of operations, with weights in the order of PyTorch's library."""
import copy
import io
import pickle
import threading

import pytest
import torch
from mmcv.cnn.bricks import DropPath
from peers import TINY, calibrated, images
from torch import nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from mmeffnet import EfficientNet
from mmeffnet.models import direct, operations, packing, plan
from mmeffnet.models.blocks import MBConv

LAST, FIRST = torch.channels_last, torch.contiguous_format
EXACT = torch.float64
KINDS = [torch.float64, torch.float32]  # the first is in no library's order


def deployed(dtype=torch.float32, **options):
    torch.manual_seed(0)
    net = calibrated(EfficientNet(arch=TINY, out_indices=(0, 1, 2, -1), **options),
                     in_channels=options.get('in_channels', 3))
    net.switch_to_deploy()
    return net.to(dtype).to(memory_format=LAST)


def picture(*size, batch=1, layout=LAST, dtype=torch.float32):
    return images(*size, batch=batch).to(dtype).contiguous(memory_format=layout)


def planned(net, x):
    """Outputs of the plan, and that there was one."""
    with torch.no_grad():
        outs = net.plans.run(net, x)
        if outs is not None:
            assert all(map(torch.equal, outs, net(x)))
    return outs


def plans(net):
    return net.plans._state[1] if net.plans._state else {}


def kept(net):
    """Weights in an order of the library's, by convolution."""
    return net.plans._state[2] if net.plans._state else {}


def unplanned(net, x):
    """Outputs of the layers, one after another."""
    outs = []
    with torch.no_grad():
        for index, layer in enumerate(net.layers):
            x = layer(x)
            if index in net.out_indices:
                outs.append(x)
    return tuple(outs)


def assert_close(got, net, x):
    """As float64 has it without a plan."""
    exact = unplanned(copy.deepcopy(net).double(), x.double())
    for one, other in zip(got, exact, strict=True):
        bound = (1e-12 if one.dtype is torch.float64 else 1e-5) * other.abs().max()
        torch.testing.assert_close(one.double(), other, rtol=0, atol=bound)


OPTIONS = {
    'same': {}, 'symmetric': dict(conv_cfg=dict(type='Conv2d')), 'relu6': dict(
        act_cfg=dict(type='ReLU6')), 'elu': dict(act_cfg=dict(type='ELU')), 'dilated': dict(
            output_stride=8), 'drop path': dict(drop_path_rate=.5),
    'not the last layers': dict(out_indices=(0, 2)),
}


@pytest.mark.parametrize('dtype', KINDS, ids=str)
@pytest.mark.parametrize('layout', [LAST, FIRST], ids=['last', 'first'])
@pytest.mark.parametrize('options', OPTIONS.values(), ids=OPTIONS)
def test_outputs_are_those_of_the_layers(options, layout, dtype):
    net = deployed(dtype, **{k: v for k, v in options.items() if k != 'out_indices'})
    net.out_indices = options.get('out_indices', net.out_indices)
    # The second: by other operations, with weights in order for the first.
    for size, batch in (((96, 80), 1), ((61, 46), 3), ((96, 80), 1)):
        x = picture(*size, batch=batch, layout=layout, dtype=dtype)
        before, expected = x.clone(), unplanned(net, x)
        for _ in range(2):
            outs = planned(net, x)
            assert_close(outs, net, x)
            assert [(o.shape, o.stride()) for o in outs] == [
                (o.shape, o.stride()) for o in expected]
        assert torch.equal(x, before)
        kept = [out.clone() for out in outs]
        planned(net, 2 * x)
        assert all(map(torch.equal, outs, kept))


@pytest.mark.parametrize('layout', [LAST, FIRST], ids=['last', 'first'])
def test_a_single_channel_may_lie_last(layout):
    """Whose tensors are contiguous in both layouts: strides tell."""
    net = deployed(in_channels=1)
    x = picture(64, 48).mean(1, keepdim=True).to(memory_format=layout)
    assert_close(planned(net, x), net, x)
    outs = planned(net.to(memory_format=FIRST), x)
    assert (outs is None) == (layout is FIRST)


def test_every_variant_has_a_plan():
    """And convolutions of more than the one pixel of a gate have their weights in order."""
    if not packing._has_order(torch.float32):
        pytest.skip('PyTorch has no oneDNN for this processor')
    for name in ('b0', 'b1', 'lite0', 'es'):
        net = EfficientNet(name).eval().to(memory_format=LAST)
        net.switch_to_deploy()
        wide = sum(isinstance(m, nn.Conv2d) for n, m in net.named_modules() if '.se.' not in n)
        assert planned(net, picture(64, 64)) is not None
        assert len(kept(net)) == wide > 40


@pytest.mark.parametrize('name', ['b0', 'lite0', 'es'])
@pytest.mark.parametrize('size', [(1, 1), (15, 15), (16, 16), (15, 96)], ids=str)
def test_small_images_have_a_plan(name, size):
    """In whose last layers a kernel is wider than what it is given without padding."""
    torch.manual_seed(0)
    net = EfficientNet(name).eval().to(memory_format=LAST)
    net.switch_to_deploy()
    x = picture(*size)
    with torch.enable_grad():  # as modules
        expected = net(x.clone().requires_grad_())[-1].detach()
    for _ in range(2):
        out, = planned(net, x)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_a_layer_whose_weight_has_no_order_is_run_by_its_module(monkeypatch):
    if not packing._has_order(torch.float32):
        pytest.skip('PyTorch has no oneDNN for this processor')
    net, x = deployed(), picture(64, 64)

    def fail(*args):
        raise RuntimeError('could not create a primitive')

    monkeypatch.setattr(operations, 'packed', fail)
    for _ in range(2):
        assert planned(net, x) is None
        with torch.no_grad():
            assert all(map(torch.equal, net(x), unplanned(net, x)))


@pytest.mark.parametrize(('order', 'numbers'), [(lambda weight: 0, {1}), (id, {3}),
                                                (None, {1, 2, 3})],
                         ids=['one order', 'another each', 'those there are'])
def test_a_weight_is_kept_once_in_each_order(order, numbers, monkeypatch):
    if not packing._has_order(torch.float32):
        pytest.skip('PyTorch has no oneDNN for this processor')
    if order:
        monkeypatch.setattr(packing, '_order', order)
    net = deployed()
    for size, batch in ((64, 1), (96, 1), (160, 4), (64, 1)):
        x = picture(size, size, batch=batch)
        assert_close(planned(net, x), net, x)
    counts = {len(weights) for weights in kept(net).values()}
    assert counts <= numbers
    assert order is None or counts == numbers


@pytest.mark.parametrize('dtype', KINDS, ids=str)
def test_a_large_batch_is_computed_in_parts(dtype, monkeypatch):
    net, x = deployed(dtype), picture(64, 48, batch=5, dtype=dtype)
    expected, sizes = planned(net, x), set()
    monkeypatch.setattr(direct, 'LARGEST', x[0].nbytes * 4)
    whole = operations._whole_block

    def spy(block, x, weights):
        sizes.add(len(x))
        return whole(block, x, weights)

    monkeypatch.setattr(operations, '_whole_block', spy)
    for outs in (planned(copy.deepcopy(net), x), planned(copy.deepcopy(net), x)):
        for one, other in zip(outs, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * other.abs().max())
            assert one.stride() == other.stride()
    assert len(sizes) > 1
    assert 5 in sizes


def test_bfloat16_is_as_close_as_it_was():
    net, x = deployed(), picture(64, 64)
    exact = unplanned(net, x)
    net.switch_to_deploy(dtype=torch.bfloat16)
    outs, plain = planned(net, x.bfloat16()), unplanned(net, x.bfloat16())
    for one, other, expected in zip(outs, plain, exact, strict=True):
        errors = [(out.float() - expected).norm() / expected.norm() for out in (one, other)]
        assert errors[0] < 1.5 * errors[1] < 0.1


def replace(conv):
    conv.weight = nn.Parameter(conv.weight.detach() * 2, requires_grad=False)


def on_inference(conv):
    with torch.inference_mode():
        conv.weight.mul_(2)


CHANGES = {
    'written to': lambda conv: conv.weight.mul_(2),
    'written to in inference': on_inference,
    'another parameter': replace,
    'another memory': lambda conv: setattr(conv.weight, 'data', conv.weight * 2),
    'loaded': lambda conv: conv.load_state_dict(
        {name: value * 2 for name, value in conv.state_dict().items()}),
    'assigned': lambda conv: conv.load_state_dict(
        {name: value * 2 for name, value in conv.state_dict().items()}, assign=True),
    'in another place among parameters': lambda conv: conv._parameters.update(
        weight=conv._parameters.pop('weight') * 2),
    'bias': lambda conv: conv.bias.add_(1),
    'no bias': lambda conv: setattr(conv, 'bias', None),
    'stride': lambda conv: setattr(conv, 'stride', (1, 1)),
}


@pytest.mark.parametrize('dtype', KINDS, ids=str)
@pytest.mark.parametrize('change', CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize('name', ['layers.0.conv', 'layers.3.0.depthwise_conv.conv',
                                  'layers.1.0.se.conv1.conv'])
def test_what_changes_a_convolution_is_noticed(name, change, dtype):
    net, x = deployed(dtype), picture(64, 64, dtype=dtype)
    before = planned(net, x)
    conv = net.get_submodule(name)
    if change is CHANGES['stride'] and conv.stride == (1, 1):
        pytest.skip('it has that stride')
    with torch.no_grad():
        change(conv)
    for _ in range(2):
        outs = planned(net, x)
        assert_close(outs, net, x)
    assert outs[-1].shape != before[-1].shape or (
        (outs[-1] - before[-1]).abs().max() > 1e-4 * before[-1].abs().max())


def exchange(net):
    net.layers[0].conv = copy.deepcopy(net.layers[0].conv)
    net.layers[0].conv.weight.mul_(2)


def act_otherwise(net):
    net.layers[1][0].depthwise_conv.activate = nn.ReLU().eval()


def drop(net):
    net.layers[1][0].se = nn.Identity().eval()


@pytest.mark.parametrize('change', [exchange, act_otherwise, drop])
def test_another_layer_is_noticed(change):
    net, x = deployed(EXACT), picture(64, 64, dtype=EXACT)
    before = planned(net, x)
    with torch.no_grad():
        change(net)
    outs = planned(net, x)
    assert_close(outs, net, x)
    assert (outs[1] - before[1]).abs().max() > 1e-3 * before[1].abs().max()


class Doubled(MBConv):
    def forward(self, x):
        return 2 * super().forward(x)


def hook(net):
    net.layers[1][0].se.register_forward_hook(lambda module, inputs, out: 2 * out)


def hook_before(net):
    net.layers[1][0].se.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))


def own_forward(net):
    forward = net.layers[1][0].forward
    net.layers[1][0].forward = lambda x: 2 * forward(x)


def own_class(net):
    net.layers[1][0].__class__ = Doubled


def own_layer(net):
    net.layers[1].append(nn.Hardtanh(-1e-3, 1e-3).eval())


def normed(net):
    net.layers[0].bn = nn.InstanceNorm2d(net.layers[0].conv.out_channels, dtype=EXACT).eval()


def trained(net):
    net.layers[1][0].drop_path = DropPath(.5)
    net.layers[1][0].train()


def on_no_account(net):
    """An inference tensor, which does not count what is written to it."""
    conv = net.layers[0].conv
    with torch.inference_mode():
        weight = conv.weight * 2
    conv.weight = nn.Parameter(weight, requires_grad=False)


def replaced_in_inference(net):
    with torch.inference_mode():
        replace(net.layers[0].conv)


def assigned_in_inference(net):
    with torch.inference_mode():
        net.layers[0].load_state_dict({
            name: value * 2 for name, value in net.layers[0].state_dict().items()}, assign=True)


@pytest.mark.parametrize('planned_before', [True, False])
@pytest.mark.parametrize('change', [hook, hook_before, own_forward, own_class, own_layer, normed,
                                    trained, on_no_account, replaced_in_inference,
                                    assigned_in_inference])
def test_what_is_unknown_is_run_by_its_modules(change, planned_before):
    net, x = deployed(EXACT), picture(64, 64, dtype=EXACT)
    before = unplanned(net, x)
    if planned_before:
        assert planned(net, x) is not None
    change(net)
    assert planned(net, x) is None
    torch.manual_seed(0)
    with torch.no_grad():
        outs = net(x)
    torch.manual_seed(0)
    assert all(map(torch.equal, outs, unplanned(net, x)))
    if change is not trained:
        assert (outs[1] - before[1]).abs().max() > 1e-3 * before[1].abs().max()


def test_train_mode_is_noticed():
    net, x = deployed(EXACT, drop_path_rate=.5), picture(64, 64, dtype=EXACT)
    expected = planned(net, x)
    assert planned(net.train(), x) is None
    assert all(map(torch.equal, planned(net.eval(), x), expected))


def test_another_padding_is_noticed():
    net, x = deployed(EXACT, conv_cfg=dict(type='Conv2d')), picture(64, 64, dtype=EXACT)
    before = planned(net, x)
    net.layers[0].conv.padding_mode = 'reflect'
    assert planned(net, x) is None
    with torch.no_grad():
        outs = net(x)
    assert (outs[0] - before[0]).abs().max() > 1e-3 * before[0].abs().max()


def test_a_hook_that_is_removed_leaves_the_plan_as_it_was():
    net, x = deployed(EXACT), picture(64, 64, dtype=EXACT)
    expected, seen = planned(net, x), []
    handle = net.layers[1].register_forward_hook(lambda module, inputs, out: seen.append(out))
    with torch.no_grad():
        assert all(map(torch.equal, net(x), unplanned(net, x)))
    assert len(seen) == 2
    handle.remove()
    assert all(map(torch.equal, planned(net, x), expected))


def test_other_numbers_and_devices():
    net, x = deployed(), picture(64, 64)
    planned(net, x)
    assert_close(planned(net.double(), x.double()), net, x)
    net.to('meta')
    outs = planned_shapes = net.plans.run(net, x.double().to('meta'))
    assert [o.device.type for o in outs] == ['meta'] * 4
    assert not kept(net)
    assert [o.shape for o in planned_shapes] == [o.shape for o in unplanned(net, x.double().to(
        'meta'))]


@pytest.mark.parametrize('change', [
    lambda net: net.double(), lambda net: net.load_state_dict(
        {name: value * 1.1 for name, value in net.state_dict().items()})],
    ids=['cast', 'loaded'])
def test_weights_may_be_exchanged_for_others(change):
    """``swap_tensors``, which PyTorch does not do for a tensor that has views."""
    net, x = deployed(), picture(64, 64)
    before = planned(net, x)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        change(net)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    x = x.to(net.layers[0].conv.weight.dtype)
    outs = planned(net, x)
    assert_close(outs, net, x)
    assert not torch.equal(outs[-1], before[-1])


def test_plans_of_many_shapes_are_not_kept_forever(monkeypatch):
    monkeypatch.setattr(plan, 'SHAPES', 3)
    net = deployed(EXACT)
    for size in (*range(40, 50), 41, 47):
        x = picture(size, 48, dtype=EXACT)
        assert_close(planned(net, x), net, x)
        assert len(plans(net)) <= 3


@pytest.mark.parametrize('copied', [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))],
                         ids=['deepcopy', 'pickle'])
def test_copies_and_files_do_not_hold_it(copied):
    net, x = deployed(), picture(64, 64)
    keys = {*net.state_dict()}
    expected = planned(net, x)
    torch.save(net, io.BytesIO())
    twin = copied(net)
    assert {*net.state_dict()} == {*twin.state_dict()} == keys
    with torch.no_grad():
        net.layers[0].conv.weight.zero_()
    assert not plans(twin)
    assert all(map(torch.equal, planned(twin, x), expected))


def test_what_watches_operations_sees_convolutions():
    net, x = deployed(), picture(64, 64)
    expected, flops = planned(net, x), []
    for _ in range(2):
        with FlopCounterMode(display=False) as counter:
            assert planned(net, x) is None
            net(x)
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1] > 0
    with torch.no_grad():
        graph = make_fx(lambda x: net(x))(x)
        assert {str(node.target) for node in graph.graph.nodes if 'conv' in str(node.target)} == {
            'aten.convolution.default'}
        with torch.autocast('cpu', torch.bfloat16):
            assert planned(net, x) is None
            assert {out.dtype for out in net(x)} == {torch.bfloat16}
        with torch.jit.optimized_execution(False):
            traced = torch.jit.trace(lambda x: net(x)[-1], x, check_trace=False)
    other = picture(70, 64)
    torch.testing.assert_close(traced(other), planned(net, other)[-1], rtol=1e-4, atol=1e-5)
    assert all(map(torch.equal, planned(net, x), expected))


def test_gradients_do_not_go_through_it():
    net, x = deployed(EXACT), picture(64, 64, dtype=EXACT)
    planned(net, x)
    x.requires_grad_()
    net(x)[-1].sum().backward()
    assert x.grad.abs().max() > 0
    x, direction = x.detach(), picture(64, 64, batch=2, dtype=EXACT)[1:]
    _, expected = torch.func.jvp(lambda x: net(x)[-1], (x,), (direction,))
    pair = picture(64, 64, batch=2, dtype=EXACT)
    outs = net(pair)[-1]
    with torch.no_grad():
        _, tangent = torch.func.jvp(lambda x: net(x)[-1], (x,), (direction,))
        mapped = torch.func.vmap(lambda x: net(x[None])[-1][0])(pair)
    torch.testing.assert_close(tangent, expected, rtol=0, atol=1e-12 * expected.abs().max())
    assert expected.abs().max() > 0
    torch.testing.assert_close(mapped, outs, rtol=0, atol=1e-12 * outs.abs().max())
    net, x, direction = net.float(), x.float(), direction.float()
    with torch.no_grad(), forward_ad.dual_level():
        out = net(forward_ad.make_dual(x, direction))[-1]
        tangent = forward_ad.unpack_dual(out).tangent
    torch.testing.assert_close(tangent.double(), expected, rtol=0, atol=1e-4 * expected.abs().max())


def test_other_outputs_have_a_plan_of_their_own():
    net, x = deployed(EXACT), picture(64, 64, dtype=EXACT)
    net.out_indices = 0, 1
    assert len(planned(net, x)) == 2
    net.out_indices = 1, 6
    assert_close(planned(net, x), net, x)
    net.out_indices = 0, 1
    assert_close(planned(net, x), net, x)


def test_a_shallow_copy_runs_its_own_layers():
    """As DataParallel makes them, one for each device."""
    net, x = deployed(EXACT), picture(64, 64, dtype=EXACT)
    expected = planned(net, x)
    twin = copy.copy(net)
    twin._modules = {'layers': deployed(EXACT).layers}
    with torch.no_grad():
        twin.layers[0].conv.weight.mul_(2)
    assert twin.plans is net.plans
    for _ in range(2):
        assert_close(planned(twin, x), twin, x)
        assert all(map(torch.equal, planned(net, x), expected))


def test_several_threads_at_once():
    net, twin, results = deployed(), deployed(), []
    pictures = [picture(size, 64) for size in (48, 64, 80)]
    expected = [planned(twin, x)[-1] for x in pictures]

    def work(index):
        with torch.inference_mode():
            results.extend([torch.equal(net(pictures[index])[-1], expected[index])
                            for _ in range(20)])

    threads = [threading.Thread(target=work, args=(index,)) for index in (0, 0, 1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == 80 * [True]


def test_what_does_not_fit_is_refused_as_before():
    net = deployed()
    planned(net, picture(64, 64))
    for x, words in ((torch.zeros(1, 4, 64, 64), 'channels'),
                     (torch.zeros(1, 3, 64, 64, dtype=EXACT), 'type|dtype'),
                     (torch.zeros(1, 3, 64), 'channels|batched')):
        with torch.no_grad(), pytest.raises(RuntimeError, match=words):
            net(x)


def test_networks_before_deployment_and_channels_first_are_left_as_they_are():
    net = calibrated(EfficientNet(arch=TINY)).to(memory_format=LAST)
    x = picture(64, 64, dtype=EXACT)
    with torch.no_grad():
        net(x)
    assert not plans(net)
    net = deployed(EXACT).to(memory_format=FIRST)
    x = picture(64, 64, layout=FIRST, dtype=EXACT)
    assert planned(net, x) is None
    with torch.no_grad():
        outs = net(x)
    assert all(out.is_contiguous() for out in outs)
    assert_close(outs, net, x)


def test_a_library_without_such_an_order_or_switched_off(monkeypatch):
    net, x = deployed(), picture(64, 64)
    planned(net, x)
    packs = bool(kept(net))
    with torch.backends.mkldnn.flags(enabled=False):
        assert_close(planned(net, x), net, x)
    assert len(plans(net)) == 1 + packs

    def missing(*args):
        raise RuntimeError('not on this processor')

    packing._has_order.cache_clear()
    monkeypatch.setattr(torch.ops.mkldnn, '_reorder_convolution_weight', missing)
    net = deployed()
    try:
        assert_close(planned(net, x), net, x)
    finally:
        packing._has_order.cache_clear()
    assert not kept(net)
