"""SAME padding and initial weights, each against arithmetic of its own."""
import math

import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import build_conv_layer
from peers import TINY
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from mmeffnet import EfficientNet
from mmeffnet.analysis.complexity import complexity
from mmeffnet.models import Conv2dSame, FanOutNormal
from mmeffnet.models.layers import same_padding


def reference(x, conv):
    """SAME convolution in float64, one output pixel at a time: no call pads anything.

    Output pixel ``o`` is centred by TensorFlow's rule: the pixels it misses on both sides
    together are split in halves, the smaller before.
    """
    weight, (sy, sx), (dy, dx) = conv.weight.double(), conv.stride, conv.dilation
    (height, width), (kh, kw) = x.shape[-2:], weight.shape[-2:]
    rows, columns = -(-height // sy), -(-width // sx)
    top = max((rows - 1) * sy + (kh - 1) * dy + 1 - height, 0) // 2
    left = max((columns - 1) * sx + (kw - 1) * dx + 1 - width, 0) // 2
    out = torch.zeros(len(x), len(weight), rows, columns, dtype=torch.float64)
    for row, column, i, j in ((r, c, i, j) for r in range(rows) for c in range(columns)
                              for i in range(kh) for j in range(kw)):
        y, z = row * sy - top + i * dy, column * sx - left + j * dx
        if 0 <= y < height and 0 <= z < width:
            out[:, :, row, column] += x[:, :, y, z].double() @ weight[:, :, i, j].T
    return out + conv.bias.double()[:, None, None]


class Copies(TorchDispatchMode):
    """Shapes of what is copied in order to append something to it, or to leave something out."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket is torch.ops.aten.constant_pad_nd:
            self.shapes.append(min(tuple(args[0].shape), tuple(result.shape)))
        return result


def copies(arch, height, width, **options):
    """Of a network that is made and run by its shapes, as on a device with data."""
    with FakeTensorMode(), torch.no_grad():
        network = EfficientNet(arch=arch, **options).eval()
        with Copies() as counted:
            network(torch.empty(1, 3, height, width))
    return [shape[-2:] for shape in counted.shapes]


@pytest.fixture(scope='module')
def tiny():
    torch.manual_seed(0)
    return EfficientNet(arch=TINY, out_indices=tuple(range(7))).eval()


# The arithmetic.

@pytest.mark.parametrize(('size', 'kernel', 'pads'), [
    (224, 3, (0, 1)), (112, 3, (0, 1)), (56, 5, (1, 2)), (28, 3, (0, 1)), (14, 5, (1, 2))])
def test_strided_layers_of_b0_pad_224_lopsidedly(size, kernel, pads):
    total = same_padding(size, kernel=kernel, stride=2)
    assert (total // 2, total - total // 2) == pads


@pytest.mark.parametrize(('size', 'kernel', 'total'), [(225, 3, 2), (113, 5, 4), (1, 3, 2)])
def test_odd_sizes_are_padded_evenly(size, kernel, total):
    assert same_padding(size, kernel=kernel, stride=2) == total


def test_kernel_shorter_than_its_stride_is_not_cropped():
    # Of 8 pixels a 1x1 kernel at stride 2 leaves the last unread: total -1, so none.
    assert same_padding(8, kernel=1, stride=2) == 0


SIZES = [(8, 8), (9, 9), (8, 9), (9, 8), (5, 12), (1, 1), (2, 3)]
LAYERS = [dict(kernel_size=3, stride=2), dict(kernel_size=5, stride=2),
          dict(kernel_size=3, stride=1), dict(kernel_size=5, stride=1),
          dict(kernel_size=3, stride=1, dilation=2), dict(kernel_size=3, stride=2, dilation=2),
          dict(kernel_size=1, stride=2), dict(kernel_size=2, stride=1),
          dict(kernel_size=(3, 5), stride=(2, 1)), dict(kernel_size=3, stride=3)]


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('options', LAYERS, ids=lambda o: ' '.join(map(str, o.values())))
def test_convolution_agrees_with_one_pixel_at_a_time(options, size):
    torch.manual_seed(0)
    conv = Conv2dSame(2, 3, **options).double()
    x = torch.randn(2, 2, *size, dtype=torch.float64)
    torch.testing.assert_close(conv(x), reference(x, conv), rtol=1e-12, atol=1e-12)


def test_depthwise_convolution_agrees_channel_by_channel():
    conv, x = Conv2dSame(4, 4, 5, stride=2, groups=4), torch.randn(1, 4, 8, 9)
    for i in range(4):
        alone = Conv2dSame(1, 1, 5, stride=2)
        alone.load_state_dict(dict(weight=conv.weight[i:i + 1], bias=conv.bias[i:i + 1]))
        torch.testing.assert_close(conv(x)[:, i:i + 1], alone(x[:, i:i + 1]))


def test_padding_argument_of_mmcv_is_replaced():
    conv = build_conv_layer(dict(type='mmeffnet.Conv2dSame'), 2, 3, 3, stride=2, padding=7)
    assert conv(torch.zeros(1, 2, 8, 8)).shape == (1, 3, 4, 4)


def test_same_padding_is_shown_where_it_depends_on_the_input():
    assert 'padding=same' in repr(Conv2dSame(2, 3, 3, stride=2))
    assert 'padding=(1, 1)' in repr(Conv2dSame(2, 3, 3))


# What is copied.

def test_b0_copies_the_image_and_four_outputs_at_224():
    assert copies('b0', 224, 224) == [(s, s) for s in (224, 56, 28, 14, 7)]


@pytest.mark.parametrize('size', [(224, 224), (225, 225), (227, 230), (97, 64), (240, 240)],
                         ids=str)
def test_b0_copies_only_where_a_side_is_even(size):
    expected, side = [], size
    for layer in range(5):
        half = tuple(math.ceil(s / 2) for s in side)
        if any(s % 2 == 0 for s in side):
            expected.append(half if layer else side)
        side = half
    assert copies('b0', *size) == expected


def test_b0_copies_nothing_on_sizes_that_stay_odd():
    # 193 -> 97 -> 49 -> 25 -> 13 -> 7.
    assert copies('b0', 193, 193) == []


def test_symmetric_padding_copies_nothing():
    assert copies('b0', 224, 224, conv_cfg=dict(type='Conv2d')) == []


def test_a_network_without_data_is_counted_as_it_is_defined():
    """Its outputs are the network's own, whatever is computed ahead of them elsewhere."""
    with torch.device('meta'), torch.no_grad(), FlopCounterMode(display=False) as counter:
        EfficientNet(arch='b0').eval()(torch.empty(1, 3, 224, 224))
    assert counter.get_total_flops() // 2 == complexity('b0', num_classes=None).multiply_adds


# One network, any size and any way of running it.

def assert_same_outputs(actual, expected):
    for pair in zip(actual, expected, strict=True):
        torch.testing.assert_close(*pair)


@pytest.mark.parametrize('size', [(64, 64), (65, 65), (63, 66), (50, 97)], ids=str)
def test_network_is_right_at_other_sizes_after_a_first(tiny, size):
    fresh = EfficientNet(arch=TINY, out_indices=tuple(range(7))).eval()
    fresh.load_state_dict(tiny.state_dict())
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        tiny(torch.randn(1, 3, 48, 48))
        assert_same_outputs(tiny(image), fresh(image))


@pytest.fixture(scope='module')
def traced(tiny):
    return torch.jit.trace(tiny, torch.randn(1, 3, 64, 64))


@pytest.mark.filterwarnings('ignore:.torch.jit:FutureWarning')  # it is being retired
@pytest.mark.parametrize('size', [(64, 64), (65, 65), (63, 66), (50, 97)], ids=str)
def test_network_traced_at_64_is_right_at_every_size(tiny, traced, size):
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        assert_same_outputs(traced(image), tiny(image))


@pytest.mark.parametrize('size', [(64, 64), (63, 66)], ids=str)
def test_symbolically_traced_network_is_right_at_every_size(tiny, size):
    network, image = torch.fx.symbolic_trace(tiny), torch.randn(1, 3, *size)
    with torch.no_grad():
        assert_same_outputs(network(image), tiny(image))


@pytest.mark.parametrize('size', [(64, 64), (63, 66)], ids=str)
def test_exported_network_is_right_at_its_size(tiny, size):
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        exported = torch.export.export(tiny, (image, )).module()
        assert_same_outputs(exported(image), tiny(image))


def test_compiled_network_is_right_at_even_and_odd_sizes(tiny):
    # One graph a size: with open sizes PyTorch takes the better part of a minute.
    network = torch.compile(tiny, backend='aot_eager', fullgraph=True, dynamic=False)
    with torch.no_grad():
        for size in ((64, 64), (63, 66)):
            image = torch.randn(1, 3, *size)
            assert_same_outputs(network(image), tiny(image))


def test_open_sizes_are_compiled_once_for_each_parity():
    layers = nn.Sequential(*[Conv2dSame(2, 2, kernel, stride=2) for kernel in (3, 5, 3)])
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    compiled = torch.compile(layers, backend=backend, fullgraph=True, dynamic=True)
    for size, count in {(64, 96): 1, (128, 32): 1, (63, 96): 2, (79, 160): 2}.items():
        image = torch.randn(3, 2, *size)
        torch.testing.assert_close(compiled(image), layers(image))
        assert len(graphs) == count, size


# Initial weights.

def layer_std(options, channels=(64, 64), **layer):
    torch.manual_seed(0)
    conv = nn.Conv2d(*channels, **options, **layer)
    FanOutNormal()(conv)
    return conv.weight.std().item()


@pytest.mark.parametrize(('options', 'channels', 'std'), [
    # sqrt(2 / fan-out), the fan-out being kernel area x outputs / groups.
    (dict(kernel_size=3, groups=2048), (2048, 2048), math.sqrt(2 / 9)),
    (dict(kernel_size=5, groups=2048), (2048, 2048), math.sqrt(2 / 25)),
    (dict(kernel_size=1), (64, 512), math.sqrt(2 / 512)),
    (dict(kernel_size=3), (64, 64), math.sqrt(2 / (9 * 64))),
    (dict(kernel_size=3, groups=2), (64, 128), math.sqrt(2 / (9 * 64)))],
    ids=['3x3 depthwise', '5x5 depthwise', '1x1', '3x3', '3x3 in two groups'])
def test_weights_have_variance_two_over_the_fan_out_of_a_group(options, channels, std):
    assert layer_std(options, channels) == pytest.approx(std, rel=0.02)


def test_biases_start_at_zero():
    conv = nn.Conv2d(3, 4, 1)
    FanOutNormal()(conv)
    assert conv.bias.abs().max() == 0


def test_log_of_initial_weights_names_the_rule():
    network = EfficientNet(arch=TINY)
    network._params_init_info = {p: dict(init_info='', tmp_mean_value=p.data.mean() + 1)
                                 for p in network.parameters()}
    FanOutNormal()(network)
    notes = {info['init_info'] for info in network._params_init_info.values()}
    assert notes == {'FanOutNormal: variance 2 / fan-out per group'}


def test_reference_of_this_file_pads_as_pytorch_does_on_odd_sizes():
    conv, x = nn.Conv2d(2, 3, 3, stride=2).double(), torch.randn(1, 2, 9, 9).double()
    expected = F.conv2d(x, conv.weight, conv.bias, stride=2, padding=1)
    torch.testing.assert_close(reference(x, conv), expected)


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize('size', [(18, 18), (19, 18), (18, 21), (17, 17), (2, 2), (1, 18)], ids=str)
@pytest.mark.parametrize(('kernel', 'stride', 'dilation'), [(3, 2, 1), (5, 2, 1), (3, (2, 1), 1),
                                                            (5, 4, 1), (2, 1, 1), (2, 2, 3)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_of_a_depthwise_layer_the_output_is_copied_and_not_the_input(kernel, stride, dilation,
                                                                    size, dtype, layout):
    torch.manual_seed(0)
    conv = Conv2dSame(6, 6, kernel, stride=stride, dilation=dilation, groups=6).to(dtype)
    x = torch.randn(2, 6, *size).to(dtype, memory_format=layout)
    total = conv.zeros(size)
    padded = F.pad(x, (total[1] // 2, total[1] - total[1] // 2,
                       total[0] // 2, total[0] - total[0] // 2))
    expected = F.conv2d(padded, conv.weight, conv.bias, conv.stride, 0, conv.dilation, 6)
    with torch.no_grad(), Copies() as counted:
        out = conv(x)
    # Here to the bit; which order of the sums a processor's code takes is its own affair.
    torch.testing.assert_close(out, expected)
    assert out.is_contiguous(memory_format=layout)
    lopsided = any(t % 2 for t in total)
    # The library is not asked for outputs that see nothing but zeros.
    fits = conv.stride != (4, 4)
    reads = [tuple(out.shape)] if fits and conv.stride != (1, 1) else [tuple(x.shape)]
    assert counted.shapes == reads * lopsided


@pytest.mark.parametrize(('conv', 'copied'), [
    (Conv2dSame(8, 8, 3, stride=2, groups=8), 'output'),
    (Conv2dSame(3, 16, 3, stride=2), 'input'),
    (Conv2dSame(8, 16, 3, stride=2), 'output')], ids=['depthwise', 'stem', 'full'])
def test_the_smaller_of_input_and_output_is_copied(conv, copied):
    image = torch.randn(1, conv.in_channels, 16, 16, requires_grad=True)
    with Copies() as counted:
        out = conv(image)
    assert counted.shapes == [tuple(out.shape if copied == 'output' else image.shape)]


def test_gradients_are_those_of_a_padded_copy():
    torch.manual_seed(0)
    conv = Conv2dSame(4, 4, 5, stride=2, groups=4).double()
    image = torch.randn(2, 4, 12, 13, dtype=torch.float64, requires_grad=True)
    expected = F.conv2d(F.pad(image, (2, 2, 1, 2)), conv.weight, conv.bias, 2, groups=4)
    weights = torch.randn_like(expected)
    for actual, given in zip(
            torch.autograd.grad((conv(image) * weights).sum(), (image, *conv.parameters())),
            torch.autograd.grad((expected * weights).sum(), (image, *conv.parameters()))):
        torch.testing.assert_close(actual, given, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('learns', [False, True])
def test_a_compiler_is_given_nothing_to_pad_or_copy(learns):
    layers, graphs = Conv2dSame(4, 4, 3, stride=2, groups=4), []

    def backend(graph, _):
        graphs.append(graph)
        return graph

    image = torch.randn(1, 4, 16, 16, requires_grad=learns)
    torch.testing.assert_close(torch.compile(layers, backend=backend)(image), layers(image))
    names = {str(node.target) for graph in graphs for node in graph.graph.nodes}
    assert not [name for name in names if 'pad' in name or 'contiguous' in name]
    assert [name for name in names if 'conv2d' in name]
