"""Backward passes that keep less or take less time: the same numbers as those of plain layers."""
import copy
import itertools
from collections import Counter

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from peers import TINY, images, relative_difference
from torch import nn
from torch.multiprocessing import spawn
from two_processes import free_port

from mmeffnet import EfficientNet
from mmeffnet.analysis import contenders
from mmeffnet.analysis.traffic import Traffic, saved_for_backward
from mmeffnet.models import conv_gradients as choice
from mmeffnet.models import formulas
from mmeffnet.models.blocks import SqueezeExcite
from mmeffnet.models.conv_gradients import convolve
from mmeffnet.models.layers import Conv2dSame
from mmeffnet.models.recompute import LeanConvModule, choose_backward
from mmeffnet.models.sync_bn import synchronise_on_host

SWITCHES = [dict(memory_efficient=True), dict(fast_gradients=True),
            dict(memory_efficient=True, fast_gradients=True)]
IDS = ['memory', 'gradients', 'both']
NAMES = dict.fromkeys([*formulas.INPUT, *formulas.WEIGHT])


@pytest.fixture(autouse=True)
def own_choices(monkeypatch):
    """Nothing is known from another test."""
    monkeypatch.setattr(choice, 'CHOICES', {})


def network(seed=0, **options):
    torch.manual_seed(seed)
    return EfficientNet(arch=TINY, out_indices=(2, -1), **options).double().train()


def step(net, x, twice=False, keep=False):
    """The outputs, and every gradient and buffer after a training step."""
    x = x.clone().requires_grad_()
    with torch.enable_grad():
        outs = net(x)
        if twice:
            outs = (*outs, *net(2 * x[..., :-8]))
        generator = torch.Generator().manual_seed(5)
        loss = sum((out * torch.randn(out.shape, generator=generator, dtype=out.dtype)).mean()
                   for out in outs)
    loss.backward()
    result = {f'output {i}': out.detach() for i, out in enumerate(outs)}
    result.update({f'gradient of {name}': p.grad for name, p in net.named_parameters()},
                  images=x.grad, **{name: b.clone() for name, b in net.named_buffers()})
    if not keep:
        net.zero_grad()
    return result


def assert_same(got, expected, tolerance=1e-10):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert got[name] is None, name
            continue
        assert got[name].dtype == value.dtype, name
        gap = (got[name] - value).abs().max() if value.numel() else 0
        assert gap <= tolerance * max(1, value.abs().max()), f'{name}: {gap}'


def node_names(tensor):
    """Names of the autograd nodes behind a tensor."""
    seen, todo = set(), [tensor.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [following for following, _ in node.next_functions]
    return {node.name() for node in seen}


CASES = {
    'train': {},
    'norm_eval': dict(norm_eval=True),
    'frozen': dict(frozen_stages=3),
    'with_cp': dict(with_cp=True),
    'mean of all': dict(norm_cfg=dict(type='BN', momentum=None)),
    'no running statistics': dict(norm_cfg=dict(type='BN', track_running_stats=False)),
    'no affine': dict(norm_cfg=dict(type='BN', affine=False)),
    'symmetric': dict(conv_cfg=dict(type='Conv2d')),
    'swish in two operations': dict(act_cfg=dict(type='Swish')),
    'relu': dict(act_cfg=dict(type='ReLU')),
    'group norm': dict(norm_cfg=dict(type='GN', num_groups=2)),
    'dilated': dict(output_stride=8),
}


@pytest.mark.parametrize('switches', SWITCHES, ids=IDS)
@pytest.mark.parametrize('options', CASES.values(), ids=CASES)
def test_a_step_is_that_of_plain_layers(options, switches):
    x = images(61, 46, batch=2)
    plain, lean = network(**options), network(**options, **switches)
    for _ in range(2):  # the second sees the running statistics of the first
        assert_same(step(lean, x), step(plain, x))
    assert_same(step(lean.eval(), x), step(plain.eval(), x))


@pytest.mark.parametrize('switches', SWITCHES, ids=IDS)
def test_in_channels_last_every_gradient_is_the_same(switches):
    x = images(64, 48, batch=2).contiguous(memory_format=torch.channels_last)
    lean = network(**switches).to(memory_format=torch.channels_last)
    assert_same(step(lean, x), step(network(), x))


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize(('kernel', 'stride', 'dilation'),
                         [(3, 1, 1), (5, 1, 2), (1, 2, 1), (3, 2, 1), (5, 2, 1)])
@pytest.mark.parametrize('padding', ['same', 'symmetric', 'wide'])
def test_each_formula_gives_the_gradients_of_the_library(monkeypatch, name, kernel, stride,
                                                          dilation, padding):
    used = []

    def choose(usable, problem):
        used.append(name in usable)
        return name if name in usable else formulas.LIBRARY

    monkeypatch.setattr(choice, '_fastest', choose)
    geometry = dict(stride=stride, dilation=dilation, groups=6, bias=False)
    torch.manual_seed(0)
    zeros = dilation * (kernel if padding == 'wide' else kernel // 2)
    conv = Conv2dSame(6, 6, kernel, **geometry) if padding == 'same' else nn.Conv2d(
        6, 6, kernel, padding=zeros, **geometry)
    conv.fast_gradients = True
    # What is computed in float32 is for halves alone.
    kind, tolerance = ((torch.bfloat16, 2e-2) if 'float32' in name else (torch.float64, 1e-12))
    for size, layout in itertools.product(((13, 10), (8, 9)), (torch.contiguous_format,
                                                               torch.channels_last)):
        x = torch.randn(2, 6, *size, dtype=torch.float64).contiguous(memory_format=layout)
        found = []
        for run, dtype in ((conv, torch.float64), (lambda x: convolve(x, conv), kind)):
            conv.to(dtype).zero_grad()
            given = x.to(dtype, copy=True).requires_grad_()
            out = run(given)
            out.backward(torch.ones_like(out).cumsum(-1) / 8)
            found.append((given.grad.double(), conv.weight.grad.double()))
        for got, expected in zip(*found[::-1], strict=True):
            assert relative_difference(got, expected) < tolerance
    assert any(used) == (not ('flipped' in name and (stride > 1 or padding == 'wide')
                              or 'columns' in name and kernel < 5
                              or 'phases' in name and (stride, dilation) != (2, 1)))


@pytest.mark.parametrize('stride', [1, 2])
@pytest.mark.parametrize('kernel', [3, 5])
@pytest.mark.parametrize('number', [0, -1], ids=['library', 'other'])
def test_gradcheck_of_a_lopsided_layer(monkeypatch, kernel, stride, number):
    monkeypatch.setattr(choice, '_fastest', lambda usable, _: list(usable)[number])
    torch.manual_seed(0)
    layer = LeanConvModule(3, 3, kernel, stride=stride, groups=3, norm_cfg=dict(type='BN'),
                           conv_cfg=dict(type='mmeffnet.Conv2dSame'),
                           act_cfg=dict(type='SiLU')).double()
    choose_backward(layer, True, True)
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    assert '_NormSwishBackward' in node_names(layer(x))
    assert torch.autograd.gradcheck(lambda x, *_: layer(x), (x, *layer.parameters()))


def test_statistics_of_eval_mode_are_those_of_the_forward_pass():
    torch.manual_seed(0)
    layer = LeanConvModule(3, 4, 1, norm_cfg=dict(type='BN'), act_cfg=dict(type='SiLU')).eval()
    layer.memory_efficient = True
    x, found = torch.randn(2, 3, 4, 4), []
    for factor in (1, 4):
        out = layer(x)
        with torch.no_grad():
            layer.norm.running_var.mul_(factor)
        found.append(torch.autograd.grad(out.square().sum(), [*layer.parameters()]))
    torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.parametrize('switches', SWITCHES, ids=IDS)
def test_a_network_run_twice_adds_both_gradients(switches):
    x = images(64, 64, batch=2)
    lean, plain = network(**switches), network()
    assert_same(step(lean, x, twice=True, keep=True), step(plain, x, twice=True, keep=True))
    assert_same(step(lean, x), step(plain, x))  # and those of a second step


@pytest.mark.parametrize('switches', SWITCHES, ids=IDS)
def test_a_frozen_weight_gets_no_gradient_and_the_rest_the_same(switches):
    x = images(64, 64, batch=2)
    pair = network(**switches), network()
    for net in pair:
        for name, parameter in net.named_parameters():
            if name.endswith(('depthwise_conv.conv.weight', 'expand_conv.bn.bias')):
                parameter.requires_grad_(False)
    got, expected = (step(net, x) for net in pair)
    assert sum(value is None for value in expected.values()) > 3
    assert_same(got, expected)


@pytest.mark.parametrize('switches', SWITCHES, ids=IDS)
@pytest.mark.parametrize('whole', [False, True], ids=['autocast', 'all in bfloat16'])
def test_bfloat16_is_no_further_from_the_truth_than_plain_layers(switches, whole):
    x = images(64, 64, batch=4)
    truth = step(network(), x)
    gaps = []
    for options in ({}, switches):
        net = network(**options)
        net = net.bfloat16() if whole else net.float()
        with torch.autocast('cpu', torch.bfloat16, enabled=not whole):
            got = step(net, x.bfloat16() if whole else x.float())
        gaps.append(sum(relative_difference(value.double(), truth[name])
                        for name, value in got.items() if name.startswith('gradient')))
    assert gaps[1] < 1.1 * gaps[0]


def test_autocast_keeps_no_copy_of_a_weight_without_history():
    net = network(memory_efficient=True, fast_gradients=True).float()
    x = images(64, 64, batch=2).float()
    with torch.autocast('cpu', torch.bfloat16):
        net(x)[-1].sum()
        choose_backward(net.layers, False, False)
        loss = net(x)[-1].float().square().mean()
    loss.backward()
    assert all(p.grad is not None for p in net.parameters())


def test_hooks_see_every_layer():
    """GradCAM, feature extraction and the like find what they found before."""
    x, seen = images(64, 64, batch=2), {}
    for lean in (False, True):
        net = network(memory_efficient=lean, fast_gradients=lean)
        found = seen[lean] = {}
        for name, module in net.named_modules():
            module.register_forward_hook(
                lambda module, _, out, name=name, found=found: found.setdefault(name, out))
        net(x)
    assert seen[True].keys() == seen[False].keys()
    for name, out in seen[False].items():
        if isinstance(out, torch.Tensor):
            torch.testing.assert_close(seen[True][name], out, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize('register', ['register_full_backward_hook',
                                      'register_full_backward_pre_hook'])
def test_hooks_of_the_backward_pass_see_every_layer(register):
    x, counts = images(64, 64, batch=2).requires_grad_(), []
    for options in ({}, SWITCHES[-1]):
        net, seen = network(**options), []
        for name, module in net.named_modules():
            # What is written over cannot be looked at: no norms, and no convolutions of a gate.
            if (isinstance(module, (LeanConvModule, SqueezeExcite))
                    or isinstance(module, nn.Conv2d) and '.se.' not in name):
                getattr(module, register)(lambda *_, name=name, seen=seen: seen.append(name))
        net(x)[-1].sum().backward()
        counts.append(Counter(seen))
    assert counts[1] == counts[0]
    assert len(counts[0]) > 30


@pytest.mark.parametrize('switches', SWITCHES, ids=IDS)
def test_a_hook_on_all_modules_sees_every_layer(switches):
    x, counts = images(64, 64, batch=2), []
    for options in ({}, switches):
        net, seen = network(**options), []
        handle = nn.modules.module.register_module_forward_hook(
            lambda module, inputs, out, seen=seen: seen.append(type(module)))
        try:
            net(x)
        finally:
            handle.remove()
        counts.append(Counter(seen))
    assert counts[1] == counts[0]
    assert counts[0][nn.BatchNorm2d] > 20


@pytest.mark.parametrize('switches', SWITCHES, ids=IDS)
def test_statistics_that_are_not_tracked_for_a_while_stay(switches):
    """As virtual adversarial training does it, on a network that is built."""
    x = images(64, 64, batch=2)
    plain, lean = network(), network(**switches)
    for net in (plain, lean):
        for norm in net.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.track_running_stats = False
    before = {name: value.clone() for name, value in lean.named_buffers()}
    got = step(lean, x)
    assert_same(got, step(plain, x))
    assert all(torch.equal(got[name], value) for name, value in before.items())
    assert_same(step(lean.eval(), x), step(plain.eval(), x))  # which takes them all the same


def test_compilers_and_exporters_see_plain_layers():
    x = images(64, 64, batch=2)
    plain, lean = network(), network(memory_efficient=True, fast_gradients=True)
    compiled = torch.compile(lean, backend='aot_eager', fullgraph=True)
    outs = compiled(x)
    torch.testing.assert_close(outs, plain(x), rtol=1e-10, atol=1e-10)
    sum(out.mean() for out in outs).backward()
    exported = torch.export.export(lean.eval(), (x, ))
    names = {str(node.target) for node in exported.graph.nodes}
    assert any('conv2d' in name for name in names)
    assert any('batch_norm' in name for name in names)
    traced = torch.jit.trace(lean, x)
    assert 'PythonOp' not in str(traced.inlined_graph)


@pytest.mark.parametrize('switches', SWITCHES, ids=IDS)
def test_gradients_of_gradients_are_refused_and_not_wrong(switches):
    net, x = network(**switches), images(32, 32, batch=2)
    with pytest.raises(RuntimeError, match='gradients of gradients .*: build the .*=False'):
        torch.autograd.functional.hvp(lambda x: net(x)[-1].square().sum(), x, x)


@pytest.mark.parametrize('tracked', [True, False], ids=['train', 'no running statistics'])
def test_one_value_per_channel_is_refused_as_in_plain_layers(tracked):
    layer = LeanConvModule(3, 4, 1, act_cfg=dict(type='SiLU'), norm_cfg=dict(
        type='BN', track_running_stats=tracked)).train(tracked)
    layer.memory_efficient = True
    with pytest.raises(ValueError, match='more than one value per channel'):
        layer(torch.zeros(1, 3, 1, 1))


@pytest.mark.parametrize('options', [
    dict(order=('norm', 'conv', 'act')), dict(padding=1, padding_mode='reflect'),
    dict(padding=1, conv_cfg=dict(type='Conv2d', padding_mode='circular')), dict(padding='same'),
    dict(bias=True)],
    ids=['order', 'reflect', 'circular', 'same', 'bias'])
@pytest.mark.filterwarnings('ignore:Unnecessary conv bias:UserWarning')
def test_a_layer_with_steps_of_its_own_takes_them(options):
    torch.manual_seed(0)
    layer = LeanConvModule(4, 4, 3, groups=4, norm_cfg=dict(type='BN'), act_cfg=dict(type='SiLU'),
                           **options).double()
    for parameter in layer.parameters():
        nn.init.uniform_(parameter)
    x, found = torch.randn(2, 4, 6, 6, dtype=torch.float64), []
    for on in (False, True):
        choose_backward(layer, on, on)
        found.append([layer.train()(x), layer.eval()(x)])
        found[-1] += torch.autograd.grad(found[-1][0].square().sum(), [*layer.parameters()])
        layer.norm.reset_running_stats()
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        layer.train()(x)
        torch.testing.assert_close(layer.eval()(x), found[0][1], rtol=1e-10, atol=1e-10)


class Twice(LeanConvModule):
    def forward(self, x):
        return 2 * super().forward(x)


def own_forward(module):
    forward = module.forward
    module.forward = lambda *args: 2 * forward(*args)


def own_class(module):
    if isinstance(module, LeanConvModule):
        module.__class__ = Twice
    elif isinstance(module, SqueezeExcite):
        module.__class__ = type('Ours', (SqueezeExcite, ), dict(
            forward=lambda self, x: 2 * SqueezeExcite.forward(self, x)))


@pytest.mark.parametrize('switches', SWITCHES, ids=IDS)
@pytest.mark.parametrize('change', [own_forward, own_class])
@pytest.mark.parametrize('path', [
    '', 'expand_conv', 'expand_conv.bn', 'expand_conv.activate', 'depthwise_conv',
    'depthwise_conv.conv', 'depthwise_conv.bn', 'se', 'linear_conv', 'linear_conv.conv'])
def test_a_module_that_somebody_changed_is_run(path, change, switches):
    x, results = images(64, 64, batch=2), []
    for options in ({}, switches):
        net = network(**options)
        change(net.layers[3][0].get_submodule(path))
        results.append(step(net, x))
    assert_same(results[1], results[0])


@pytest.mark.parametrize('switches', [*SWITCHES, dict(with_cp=True)], ids=[*IDS, 'with_cp'])
def test_transforms_of_functions_run_the_modules(switches):
    x, results = images(64, 64, batch=1), []
    for options in ({}, switches):
        net = network(norm_eval=True, **options)
        found = torch.func.grad(lambda params, net=net: torch.func.functional_call(
            net, params, (x, ))[-1].square().sum())(dict(net.named_parameters()))
        found['tangent'] = torch.func.jvp(lambda x, net=net: net(x)[-1], (x, ), (x, ))[1].detach()
        results.append(found)
    assert_same(results[1], results[0])


@pytest.mark.parametrize('switches', SWITCHES, ids=IDS)
@pytest.mark.parametrize('size', [(8, 8), (8, 64), (16, 96)])
def test_a_map_of_one_pixel_before_a_stride_has_its_gradients(size, switches):
    x = images(*size, batch=4)
    assert_same(step(network(**switches), x), step(network(), x))


@pytest.mark.parametrize('switches', SWITCHES, ids=IDS)
def test_a_batch_without_images_has_no_gradients(switches):
    net = network(norm_eval=True, **switches)
    found = step(net, images(64, 64, batch=1)[:0])
    assert found['output 1'].shape == (0, 32, 2, 2)
    assert not any(found[f'gradient of {name}'].any() for name, _ in net.named_parameters())


@pytest.mark.parametrize('name', ['memory_efficient', 'fast_gradients', 'with_cp', 'norm_eval',
                                  'deploy'])
@pytest.mark.parametrize('value', ['no', 1, None])
def test_a_switch_is_true_or_false(name, value):
    with pytest.raises(ValueError, match=f'{name}={value!r} must be True or False'):
        EfficientNet(arch=TINY, **{name: value})


def test_without_gradients_it_is_the_plain_network():
    net = network(memory_efficient=True, fast_gradients=True)
    plain, x = network(), images(64, 64, batch=2)
    with torch.no_grad():
        for out, expected in zip(net(x), plain(x), strict=True):
            assert torch.equal(out, expected)


def test_averaged_weights_follow_and_a_copy_keeps_the_switch():
    net, x = network(memory_efficient=True, fast_gradients=True), images(64, 64, batch=2)
    average = ExponentialMovingAverage(net, momentum=0.5, update_buffers=True)
    step(net, x)
    average.update_parameters(net)
    twin = copy.deepcopy(average.module).train()
    choose_backward(twin.layers, False, False)
    assert_same(step(average.module.train(), x), step(twin, x))
    assert '_NormSwishBackward' in node_names(average.module(x.requires_grad_())[-1])


def test_switched_to_deploy_it_is_the_plain_network():
    net, plain = network(memory_efficient=True, fast_gradients=True), network()
    x = images(64, 64)
    for each in (net, plain):
        each.eval().switch_to_deploy()
    with torch.no_grad():
        assert torch.equal(net(x)[-1], plain(x)[-1])


PARTS = [slice(0, 2), slice(2, 5)]  # of unequal size


def in_two_processes(rank, port, ended):
    """Gradients of DistributedDataParallel with synchronised BatchNorm, and with BatchNorm."""
    torch.distributed.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank,
                                         world_size=2)
    x = images(64, 64, batch=5)[PARTS[rank]]
    for kind, options in itertools.product(('BN', 'SyncBN'), ({}, dict(with_cp=True))):
        found, states = [], []
        for switches in ({}, dict(memory_efficient=True, fast_gradients=True)):
            net = synchronise_on_host(network(norm_cfg=dict(type=kind), **options, **switches))
            found.append(step(nn.parallel.DistributedDataParallel(net), x))
            states.append(net.state_dict())
        assert_same(*found)
        torch.testing.assert_close(*states, rtol=1e-9, atol=1e-9)
    kept = {}
    for kind, lean in itertools.product(('BN', 'SyncBN'), (False, True)):
        net = synchronise_on_host(network(norm_cfg=dict(type=kind), memory_efficient=lean))
        kept[kind, lean] = saved_for_backward(lambda net=net: net(x)[-1], net)
    assert kept['SyncBN', True] < 1.01 * kept['BN', True] < 0.8 * kept['BN', False]
    assert kept['SyncBN', False] < 1.01 * kept['BN', False]
    torch.distributed.destroy_process_group()
    (ended / str(rank)).touch()


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_plain_layers(tmp_path):
    spawn(in_two_processes, args=(free_port(), tmp_path), nprocs=2)  # which raises what they raise
    assert {path.name for path in tmp_path.iterdir()} == {'0', '1'}


def test_a_choice_is_measured_once_for_layers_and_sizes_alike(monkeypatch):
    measured = []
    monkeypatch.setattr(choice, '_fastest',
                        lambda usable, problem: measured.append(problem) or formulas.LIBRARY)
    net = network(fast_gradients=True)
    step(net, images(64, 64, batch=2))
    first = len(measured)
    assert first == len(choice.CHOICES) > 0
    step(net, images(72, 64, batch=2))  # as many pixels, within a factor of two
    assert len(measured) == first
    step(net, images(160, 160, batch=2))
    assert len(measured) > first


def test_the_clock_decides_and_the_library_wins_a_draw(monkeypatch):
    now, problem = [0.0], (torch.zeros(1), )
    monkeypatch.setattr(choice.time, 'perf_counter', lambda: now[0])

    def taking(seconds):
        return lambda _: now.__setitem__(0, now[0] + seconds)

    def winner(**seconds):
        return choice._fastest({name: taking(s) for name, s in seconds.items()}, problem)

    assert winner(library=10, flipped=5) == 'flipped'
    assert winner(library=10, flipped=9.5) == 'library'
    assert winner(library=10, flipped=30, float32=2) == 'float32'


def test_deterministic_runs_have_the_librarys_gradients_to_the_bit(monkeypatch):
    monkeypatch.setattr(choice, '_fastest', lambda *_: pytest.fail('measured'))
    x, found = images(64, 64, batch=2), []
    torch.use_deterministic_algorithms(True)
    try:
        for fast in (False, True):
            found.append(step(network(fast_gradients=fast), x))
    finally:
        torch.use_deterministic_algorithms(False)
    for name, value in found[0].items():
        assert torch.equal(found[1][name], value), name


def saved_and_moved(net, x):
    labels = torch.zeros(len(x), dtype=torch.long)

    def loss():
        return nn.functional.cross_entropy(net(x), labels)

    saved = saved_for_backward(loss, net)
    with Traffic() as traffic:
        loss().backward()
    return saved, traffic.moved


def test_b0_keeps_less_than_three_fifths_of_timm_and_half_of_mmpretrain():
    """The numbers that docs/benchmarks.md states, at 224 px."""
    pytest.importorskip('timm')
    x = torch.zeros(2, 3, 224, 224)
    own, plain = contenders.ours('b0').train(), contenders.ours('b0').train()
    choose_backward(own.backbone.layers, True, False)
    saved, moved = saved_and_moved(own, x)
    timm = saved_and_moved(contenders.LIBRARIES['timm'].build('b0').train(), x)
    mmpretrain = saved_and_moved(contenders.LIBRARIES['mmpretrain'].build('b0').train(), x)
    assert saved <= 0.6 * timm[0]
    assert saved <= 0.46 * mmpretrain[0]
    assert moved <= saved_and_moved(plain, x)[1]
