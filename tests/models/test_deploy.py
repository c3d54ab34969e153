"""The deployed form: the same outputs from fewer operations, and never the wrong weights."""
import copy
import pickle
import warnings

import numpy as np
import peers
import pytest
import skimage.data
import torch
from mmcv.cnn import ConvModule
from mmengine.runner import load_checkpoint
from torch import nn
from torch.nn.utils import prune as pruning

from mmeffnet import EfficientNet
from mmeffnet.errors import InputError
from mmeffnet.models import direct, layers, plan
from mmeffnet.models.deploy import forget_rests, rounded
from mmeffnet.models.layers import adds_finely
from mmeffnet.models.operations import Making, planned
from mmeffnet.models.recompute import LeanConvModule
from mmeffnet.registry import MODELS

OUTPUTS = (1, 2, 3, 4, 5, 6)


def network(arch='b0', **options):
    torch.manual_seed(0)
    return peers.calibrated(EfficientNet(arch, out_indices=OUTPUTS, **options))


def outputs(backbone, image):
    with torch.no_grad():
        return backbone(image)


def assert_close(given, expected, tolerance=1e-10):
    for a, b in zip(given, expected, strict=True):
        assert peers.relative_difference(a, b) < tolerance


@pytest.mark.parametrize(('arch', 'options'), [
    ('b0', {}), ('es', {}), ('lite0', {}), ('b1', dict(output_stride=8)),
    ('b0', dict(conv_cfg=dict(type='Conv2d')))])
def test_folding_changes_no_output(arch, options):
    backbone = network(arch, **options)
    images = [peers.images(*size) for size in ((64, 64), (65, 47))]
    expected = [outputs(backbone, image) for image in images]
    backbone.switch_to_deploy()
    for image, before in zip(images, expected):
        assert_close(outputs(backbone, image), before)
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in backbone.modules())


def test_the_state_dict_has_weight_and_bias_of_each_convolution():
    backbone = network()
    before = backbone.state_dict()
    backbone.switch_to_deploy()
    convs = {key for key in before if '.bn.' not in key}
    biases = {key.replace('.bn.running_mean', '.conv.bias') for key in before
              if key.endswith('running_mean')}
    assert backbone.state_dict().keys() == convs | biases
    assert not any(p.requires_grad for p in backbone.parameters())


def test_a_network_without_values_is_switched_and_filled_later():
    with torch.device('meta'):
        backbone = EfficientNet(peers.TINY)
    backbone.switch_to_deploy(dtype=torch.bfloat16)
    assert not any(module.training for module in backbone.modules())
    filled = EfficientNet(peers.TINY)
    filled.switch_to_deploy(dtype=torch.bfloat16)
    backbone.to_empty(device='cpu').load_state_dict(filled.state_dict())
    forget_rests(filled)
    image = peers.images(64, 64).bfloat16()
    assert_close(outputs(backbone, image), outputs(filled, image), 1e-6)


def test_a_second_switch_changes_nothing():
    backbone = network()
    backbone.switch_to_deploy()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    backbone.switch_to_deploy()
    after = backbone.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize('size', [(224, 224), (97, 64)])
def test_a_size_known_beforehand_and_every_other_are_padded_right(size):
    """C13: padding of one size, and then images of others."""
    backbone = network()
    images = [peers.images(*s) for s in (size, (65, 66), (256, 250))]
    expected = [outputs(backbone, image) for image in images]
    backbone.switch_to_deploy(size)
    for image, before in zip(images, expected):
        assert_close(outputs(backbone, image), before)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_the_first_image_of_a_size_given_beforehand_finds_all_worked_out(layout, monkeypatch):
    layers._placed_at.cache_clear()
    net = EfficientNet(peers.TINY, in_channels=1).to(memory_format=layout)
    net.switch_to_deploy((np.int64(64), 65))
    monkeypatch.setattr(layers, 'same_padding', None)
    monkeypatch.setattr(plan, 'planned', None)
    outputs(net, torch.zeros(1, 1, 64, 65).to(memory_format=layout))
    with pytest.raises(TypeError):
        outputs(net, torch.zeros(1, 1, 64, 67).to(memory_format=layout))


def test_a_traced_graph_of_a_known_size_is_right_at_other_sizes():
    backbone = network()
    backbone.switch_to_deploy((64, 64))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        traced = torch.jit.trace(backbone, peers.images(64, 64))
    image = peers.images(65, 97)
    assert_close(outputs(traced, image), outputs(backbone, image))


def test_working_in_place_touches_no_input_and_no_earlier_output():
    backbone = network()
    backbone.switch_to_deploy()
    image = peers.images(64, 64)
    kept = image.clone()
    together, x, alone = outputs(backbone, image), image, []
    with torch.no_grad():
        for layer in backbone.layers:
            x = layer(x.clone())
            alone.append(x)
    assert torch.equal(image, kept)
    for i, output in zip(OUTPUTS, together, strict=True):
        assert torch.equal(output, alone[i])


def test_hooks_keep_what_a_layer_gave():
    """And not what was written over it later."""
    backbone, image = network(), peers.images(64, 64)
    paths = [name for name, module in backbone.named_modules() if type(module) is LeanConvModule]

    def seen():
        kept = {}
        handles = [backbone.get_submodule(path).register_forward_hook(
            lambda module, inputs, out, path=path: kept.update({path: out})) for path in paths]
        outputs(backbone, image)
        for handle in handles:
            handle.remove()
        return [kept[path] for path in paths]

    expected = seen()
    backbone.switch_to_deploy()
    assert_close(seen(), expected)


@pytest.mark.parametrize('size', [(64, 64), (64, 96)])
def test_what_is_recorded_of_a_known_size_is_right_at_others(size):
    backbone = EfficientNet(peers.TINY).eval()
    backbone.switch_to_deploy(size)
    expected = outputs(backbone, peers.images(97, 75).float())
    height, width = (torch.export.Dim(name, min=40, max=512) for name in ('height', 'width'))
    exported = torch.export.export(
        backbone, (torch.zeros(1, 3, *size), ), dynamic_shapes=({2: height, 3: width}, )).module()
    traced = torch.fx.symbolic_trace(backbone)
    for graph in (exported, traced):
        assert_close(outputs(graph, peers.images(97, 75).float()), expected, 1e-5)


def test_gradients_of_the_image_are_those_of_the_network_before():
    backbone = network()
    gradients = []
    for _ in range(2):
        image = peers.images(64, 64).requires_grad_()
        backbone(image)[-1].square().sum().backward()
        gradients.append(image.grad)
        backbone.switch_to_deploy()
    assert peers.relative_difference(*gradients) < 1e-9


def test_deployed_weights_load_where_the_config_says_deploy(tmp_path):
    backbone = network()
    image = peers.images(64, 64)
    expected = outputs(backbone, image)
    backbone.switch_to_deploy()
    torch.save(dict(state_dict=backbone.state_dict()), tmp_path / 'deployed.pth')
    again = MODELS.build(dict(type='mmeffnet.EfficientNet', out_indices=OUTPUTS,
                              deploy=True)).double()
    load_checkpoint(again, str(tmp_path / 'deployed.pth'), strict=True)
    assert_close(outputs(again, image), expected)


@pytest.mark.parametrize('strict', [True, False])
def test_weights_of_the_other_form_are_refused(strict):
    trained, deployed = EfficientNet('b0'), EfficientNet('b0', deploy=True)
    with pytest.raises(InputError, match='built with deploy=True.*switch_to_deploy'):
        deployed.load_state_dict(trained.state_dict(), strict=strict)
    with pytest.raises(InputError, match='build the backbone with deploy=True'):
        trained.load_state_dict(deployed.state_dict(), strict=strict)
    head = {key: value for key, value in deployed.state_dict().items() if '.6.' in key}
    deployed.load_state_dict(head, strict=False)  # of some layers alone


@pytest.mark.parametrize('norm_cfg', [dict(type='GN', num_groups=4), dict(type='IN')])
def test_what_cannot_be_folded_is_refused(norm_cfg):
    backbone = EfficientNet(dict(stem=8, head=16, stages=dict(a=dict(
        block='fused', kernel=3, stride=2, expand=2, channels=8, repeats=1))), norm_cfg=norm_cfg)
    with pytest.raises(ValueError, match='only BatchNorm can be folded'):
        backbone.switch_to_deploy()


def share_a_convolution(net):
    first, second = net.layers[1][:2]
    second.linear_conv.conv = first.linear_conv.conv


def share_a_convolution_with_a_layer_without_norm(net):
    first, second = net.layers[1][:2]
    second.linear_conv = ConvModule(8, 8, 1, bias=False, act_cfg=None).double()
    second.linear_conv.conv = first.linear_conv.conv


def share_a_weight(net):
    first, second = net.layers[1][:2]
    second.linear_conv.conv.weight = first.linear_conv.conv.weight


def share_a_layer(net):
    first, second = net.layers[1][:2]
    second.linear_conv = first.linear_conv


@pytest.mark.parametrize('share', [
    share_a_convolution, share_a_convolution_with_a_layer_without_norm, share_a_weight,
    share_a_layer])
def test_what_layers_share_is_folded_for_each(share):
    net, image = network(peers.TINY), peers.images(64, 64)
    share(net)
    expected = outputs(net, image)
    net.switch_to_deploy()
    assert_close(outputs(net, image), expected)


def prune(net):
    pruning.l1_unstructured(net.layers[0].conv, 'weight', .5)


def normalise_weights(net):
    nn.utils.parametrizations.spectral_norm(net.layers[0].conv)


def own_forward(net):
    forward = net.layers[0].conv.forward
    net.layers[0].conv.forward = lambda x: 2 * forward(x)


def forget_statistics(net):
    net.layers[0].bn = nn.BatchNorm2d(net.arch.stem, track_running_stats=False)


def normalise_by_groups(net):
    net.layers[0].bn = nn.GroupNorm(2, net.arch.stem)


@pytest.mark.parametrize(('options', 'change', 'words'), [
    (dict(conv_cfg=dict(type='ConvWS')), None, 'conv, a ConvWS2d, computes with another weight'),
    ({}, prune, r'layers\.0\.conv, a Conv2dSame, computes with another weight'),
    ({}, normalise_weights, r'layers\.0\.conv, .* computes with another weight'),
    ({}, own_forward, r'layers\.0\.conv, a Conv2dSame, computes with another weight'),
    ({}, normalise_by_groups, 'only BatchNorm can be folded'),
    ({}, forget_statistics, r'layers\.0\.bn has no running statistics')])
def test_layers_that_cannot_be_folded_are_named_and_left(options, change, words):
    net = EfficientNet(peers.TINY, **options).eval()
    if change:
        change(net)
    image = peers.images(64, 64).float()
    expected = outputs(net, image)
    with pytest.raises(ValueError, match=words):
        net.switch_to_deploy()
    assert not net.deploy
    assert all(map(torch.equal, outputs(net, image), expected))


@pytest.mark.parametrize('options', [
    dict(norm_cfg=dict(type='BN', affine=False)),
    dict(conv_cfg=dict(type='Conv2dAdaptivePadding'))], ids=['no affine', 'adaptive'])
def test_other_layers_that_can_be_folded_are(options):
    net = EfficientNet(peers.TINY, **options).double()
    net.train()(peers.images(64, 64, batch=2))
    image = peers.images(61, 75)
    expected = outputs(net.eval(), image)
    net.switch_to_deploy()
    assert_close(outputs(net, image), expected)


def test_it_trains_no_more_and_train_mode_changes_nothing():
    backbone = network()
    backbone.switch_to_deploy()
    image = peers.images(64, 64)
    before = outputs(backbone, image)
    assert_close(outputs(backbone.train(), image), before, tolerance=1e-15)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_rounding_keeps_the_sums_of_rows(dtype):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(200, 25, generator=generator, dtype=torch.float64)
    rows[0], rows[1, :5] = 0, torch.tensor([1., .5, -.25, 2., -1.])  # which are kept
    result, nearest = rounded(rows, dtype), rows.to(dtype).double()
    assert torch.equal(result, result.to(dtype).double())
    step = torch.finfo(dtype).eps * 2.0 ** rows.abs().log2().floor()
    assert ((result - rows).abs() <= step).all()
    assert torch.equal(result[0], rows[0])
    assert torch.equal(result[1, :5], rows[1, :5])
    errors = [(given - rows).sum(1).abs() for given in (result, nearest)]
    assert errors[0].mean() < 0.1 * errors[1].mean()


@pytest.mark.parametrize('arch', ['lite0', 'b0'])
def test_a_network_in_half_precision_is_closer_than_one_that_is_cast(arch):
    """On a photograph, whose neighbouring pixels are alike."""
    backbone, photograph = network(arch), torch.tensor(skimage.data.chelsea()[:192, :256])
    image = (photograph.permute(2, 0, 1)[None].double() - 118) / 60
    expected, errors = outputs(backbone, image), []
    for own in (True, False):
        half = copy.deepcopy(backbone)
        half.switch_to_deploy(dtype=torch.bfloat16 if own else None)
        # The arithmetic in float64 leaves the error of the weights alone.
        found = outputs(half.to(torch.bfloat16).double(), image)
        errors.append([((a - b).norm() / b.norm()).item() for a, b in zip(found, expected)])
    assert all(own < 0.95 * cast for own, cast in zip(*errors))


def test_half_precision_is_that_of_weights_and_outputs():
    backbone = network()
    backbone.switch_to_deploy((64, 64), torch.bfloat16)
    assert {p.dtype for p in backbone.parameters()} == {torch.bfloat16}
    assert outputs(backbone, peers.images(64, 64).bfloat16())[-1].dtype == torch.bfloat16
    with pytest.raises(ValueError, match='dtype=torch.int8 must be one of torch.float32'):
        network().switch_to_deploy(dtype=torch.int8)
    with pytest.raises(ValueError, match="dtype='bfloat16' must be one of .* torch.bfloat16"):
        network().switch_to_deploy(dtype='bfloat16')


@pytest.mark.parametrize('wrong', [
    dict(size=224), dict(size=(224, )), dict(size=(0, 224)), dict(size=('224', '224')),
    dict(size=(224, 22.4)), dict(dtype='bfloat16'), dict(dtype=torch.float8_e4m3fn)], ids=str)
def test_what_is_refused_leaves_the_network_as_it_was(wrong):
    net = network()
    keys = [*net.state_dict()]
    with pytest.raises(ValueError, match=f'{[*wrong][0]}=.* must be '):
        net.switch_to_deploy(**wrong)
    assert not net.deploy
    assert [*net.state_dict()] == keys


def biased():
    """A deployed network in float32 whose biases are large beside its outputs."""
    backbone = EfficientNet(peers.TINY, out_indices=(-1, ))
    backbone = peers.calibrated(backbone).float().to(memory_format=torch.channels_last)
    with torch.no_grad():
        for norm in backbone.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.bias.add_(2 + torch.rand(norm.bias.shape,
                                              generator=torch.Generator().manual_seed(0)))
    backbone.switch_to_deploy()
    return backbone


def in_half(backbone, image):
    return outputs(backbone, image.bfloat16())[-1].float()


@pytest.fixture
def image():
    return peers.images(61, 96, batch=4).float().contiguous(memory_format=torch.channels_last)


def without_rests(backbone):
    twin = copy.deepcopy(backbone)
    forget_rests(twin)
    return twin


@pytest.mark.parametrize('options', [
    dict(kernel_size=1), dict(kernel_size=3, groups=8), dict(kernel_size=5, groups=8, stride=2),
    dict(kernel_size=3, stride=2)], ids=['pointwise', 'depthwise', 'strided', 'full'])
def test_a_bias_is_not_rounded_where_the_processor_adds_finely(options, monkeypatch):
    if not adds_finely(torch.bfloat16):
        pytest.skip('this processor, or PyTorch, adds no float32 bias to a bfloat16 convolution')
    torch.manual_seed(0)
    layer = LeanConvModule(8, 8, conv_cfg=dict(type='mmeffnet.Conv2dSame'), act_cfg=None, **options)
    conv, seen = layer.conv, []
    x = torch.rand(2, 8, 15, 16).add(0.5).bfloat16().contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        # What is left of a large bias shows how it was rounded.
        conv.weight.fill_(-16 / conv.weight[0].numel())
        conv.bias.copy_(16 + torch.rand(8))
        fine = conv.bias.clone()
        direct.keep_rest(conv, torch.bfloat16)
        layer.bfloat16()
        for bias in (fine, fine.bfloat16()):
            expected = conv._conv_forward(x.double(), conv.weight.double(), bias.double())
            for out in (layer(x), planned(layer, x, Making({}, False))[1]):
                torch.testing.assert_close(out.double(), expected, rtol=2 ** -8, atol=1e-4)
            seen.append(expected)
            monkeypatch.setattr(direct, 'adds_finely', lambda dtype: False)
    assert (seen[0] - seen[1]).abs().max() > 0.02


def test_biases_stay_what_they_are_however_often_a_network_is_converted(image):
    half = biased()
    half.switch_to_deploy(dtype=torch.bfloat16)
    expected = in_half(half, image)
    half.switch_to_deploy(dtype=torch.bfloat16)
    assert torch.equal(in_half(half.to(torch.bfloat16), image), expected)
    assert torch.equal(in_half(pickle.loads(pickle.dumps(half)), image), expected)
    # Others see the type they asked for, and nothing else.
    assert not any('rest' in name for name in half.state_dict())
    assert outputs(half.float(), image)[-1].dtype == torch.float32
    plain = without_rests(half.bfloat16()).float()
    assert torch.equal(outputs(half.float(), image)[-1], outputs(plain, image)[-1])


def test_loaded_biases_are_taken_as_they_are(image):
    half = biased()
    half.switch_to_deploy(dtype=torch.bfloat16)
    smaller = {name: value / 64 if name.endswith('bias') else value
               for name, value in half.state_dict().items()}
    plain = without_rests(half)
    for net in (half, plain):
        nn.Sequential(net).load_state_dict({f'0.{name}': value for name, value in smaller.items()})
    assert torch.equal(in_half(half, image), in_half(plain, image))


def test_a_half_that_is_run_as_modules_has_rounded_biases(image):
    half = biased()
    half.switch_to_deploy(dtype=torch.bfloat16)
    with torch.enable_grad():
        found = half(image.bfloat16().requires_grad_())[-1]
        expected = without_rests(half)(image.bfloat16().requires_grad_())[-1]
    assert torch.equal(found, expected)
