"""The convolution with TensorFlow's SAME padding, and the initial weights."""
import functools
import math

import torch
import torch.nn.functional as F
from mmengine.model.weight_init import update_init_info
from torch import nn

from mmeffnet.registry import MODELS, WEIGHT_INITIALIZERS


def same_padding(size, kernel: int, stride: int, dilation: int = 1):
    """Zeros that SAME padding adds along one axis, before and after together.

    The output has ``ceil(size / stride)`` elements; of an odd number of zeros the extra
    one comes after. Source: TensorFlow's documentation of ``tf.nn``, "padding".
    """
    reach = (kernel - 1) * dilation + 1
    total = reach - stride + _shortfall(size, stride)
    # A kernel shorter than its stride may need less than nothing.
    return total if reach >= stride else max(total, 0)


def _shortfall(size, stride: int):
    """Elements that the last stride along an axis lacks.

    Where torch.compile leaves the size open it is a number all the same, and the graph is for
    the sizes that lack as many: kept as a formula, the sizes of one stage after another grow
    into formulas that take the compiler minutes.
    """
    if torch.compiler.is_dynamo_compiling() and not torch.compiler.is_exporting():
        return next(i for i in range(stride) if (size + i) % stride == 0)
    return (size + stride - 1) // stride * stride - size  # OpenVINO knows no remainders


def _recorded(x) -> bool:
    """Whether a graph is made of what happens to ``x``, which may be given other sizes later."""
    return (torch.compiler.is_compiling() or torch.compiler.is_exporting()
            or torch.jit.is_tracing() or isinstance(x, torch.fx.Proxy) or _open_size(x))


def _open_size(x) -> bool:
    return any(isinstance(size, torch.SymInt) for size in x.shape[-2:])


@torch.fx.wrap
def conv2d_same(x, weight, bias, stride, dilation, groups):
    """``F.conv2d`` with SAME padding, in a graph that is right at every size where it can be."""
    total = tuple(map(same_padding, x.shape[-2:], weight.shape[-2:], stride, dilation))
    # torch.export may not ask whether an open number is odd.
    if torch.jit.is_tracing() or torch.compiler.is_exporting() and _open_size(x):
        (top, left), (bottom, right) = [t // 2 for t in total], [t - t // 2 for t in total]
        return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, stride, 0,
                        dilation, groups)
    # What is exported keeps the padding as it is defined.
    fewer = _fewer(x, weight.shape[0], stride) and not torch.compiler.is_exporting()
    where = placed(total, weight.shape[-2:], stride, dilation, fewer)
    return placed_conv2d(x, where, weight, bias, stride, dilation, groups)


def placed_conv2d(x, where, weight, bias, stride, dilation, groups):
    """``F.conv2d`` with zeros as ``placed`` says; copies little where they are lopsided."""
    padding, early, ends = where
    out = conv2d(F.pad(x, ends) if ends else x, weight, bias, stride, padding, dilation, groups)
    return dropped(out, early) if any(early) else out


def _fewer(x, channels: int, stride) -> bool:
    """Whether there is less to copy of the output than of the input, as in depthwise layers.

    What has no data (PyTorch's meta device) is there to be counted, and outputs ahead are no part
    of the network.
    """
    return x.shape[-3] * stride[0] * stride[1] > channels and x.device.type != 'meta'


def placed(total, kernel, stride, dilation, fewer):
    """Where a convolution gets ``total`` zeros along height and width, an odd one at the end.

    Gives the zeros on both sides, how many rows and columns its output then has too many ahead,
    and what ``F.pad`` is to append to its input, or None.

    A convolution pads evenly by itself; an odd zero would have to be appended to a copy of the
    input. Padded by a whole stride in its place, on both sides, the output begins one place early
    and is the same from there on. fewer: whether that is less to copy.
    """
    even, odd = tuple(t // 2 for t in total), tuple(t % 2 for t in total)
    if not any(odd):
        return even, odd, None
    if fewer and all((k - 1) * d + 1 > t // 2 + s  # of more padding the library may be slow
                     for k, d, t, s in zip(kernel, dilation, total, stride) if t % 2):
        return tuple(e + s * o for e, s, o in zip(even, stride, odd)), odd, None
    return even, (0, 0), (0, odd[1], 0, odd[0])


def dropped(x, early):
    """``x`` without its first rows and columns, which a compiler reads where it is."""
    if torch.compiler.is_compiling():
        return x[..., early[0]:, early[1]:]
    # One copy, and one in the backward pass, which keep the layout.
    return F.pad(x, (-early[1], 0, -early[0], 0))


def conv2d(x, weight, bias, stride, padding, dilation, groups):
    """``F.conv2d``, whose bias may be finer than the weight where ``adds_finely`` says so."""
    if bias is None or bias.dtype is weight.dtype or x.dtype is not weight.dtype:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)
    return torch.mkldnn_convolution(x, weight, bias, padding, stride, dilation, groups)


@functools.cache
def adds_finely(dtype: torch.dtype) -> bool:
    """Whether PyTorch's library for CPUs adds a float32 bias to a convolution in ``dtype``.

    It adds up in float32 and rounds once; ``F.conv2d`` takes a bias of the weight's type alone.
    """
    x = torch.ones((1, 1, 1, 1), dtype=dtype, device='cpu')  # whatever the default is
    bias = torch.tensor([2 ** -12 - 1], device='cpu')
    try:
        return conv2d(x, x, bias, (1, 1), (0, 0), (1, 1), 1).item() == 2 ** -12
    except (RuntimeError, AttributeError):  # another processor, or PyTorch without the library
        return False


def layout_of(x) -> torch.memory_format:
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


@functools.lru_cache(maxsize=1024)  # sizes come and go
def _placed_at(size, kernel, stride, dilation, fewer):
    total = tuple(map(same_padding, size, kernel, stride, dilation))
    return placed(total, kernel, stride, dilation, fewer)


@MODELS.register_module()
class Conv2dSame(nn.Conv2d):
    """``nn.Conv2d`` with TensorFlow's SAME padding, in place of ``padding``.

    (N, C, H, W) to (N, C', ceil(H / stride), ceil(W / stride)). At stride 1 an odd kernel
    is padded evenly, which is decided here once; strided layers look at each input.
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1,
                 groups=1, bias=True):
        super().__init__(in_channels, out_channels, kernel_size, stride=stride,
                         dilation=dilation, groups=groups, bias=bias)
        total = [same_padding(1, k, 1, d) for k, d in zip(self.kernel_size, self.dilation)]
        self.depends_on_size = self.stride != (1, 1) or any(t % 2 for t in total)
        if not self.depends_on_size:
            self.padding = tuple(t // 2 for t in total)

    def zeros(self, size: tuple[int, int]) -> tuple[int, int]:
        """Zeros that an input of this height and width gets along each, on both sides together."""
        return tuple(map(same_padding, size, self.kernel_size, self.stride, self.dilation))

    def placed(self, x):
        """``placed`` for an input, worked out once: it takes as long as a small convolution."""
        return _placed_at(x.shape[-2:], self.kernel_size, self.stride, self.dilation,
                          _fewer(x, self.out_channels, self.stride))

    # Overridden in place of ``forward``, which mmcv's efficient_conv_bn_eval bypasses. MMEngine's
    # cannot be had: it traces a convolution whose class is not PyTorch's own into its operations.
    def _conv_forward(self, x, weight, bias):
        if not self.depends_on_size:
            return super()._conv_forward(x, weight, bias)
        if _recorded(x):
            return conv2d_same(x, weight, bias, self.stride, self.dilation, self.groups)
        return placed_conv2d(x, self.placed(x), weight, bias, self.stride, self.dilation,
                             self.groups)

    def extra_repr(self):
        return super().extra_repr() + (', padding=same' if self.depends_on_size else '')


def split_padding(conv: nn.Conv2d, size) -> tuple[tuple[int, int], tuple[int, int]]:
    """Zeros along height and width of an input of this size: those on both sides, which the
    convolution adds by itself, and those at the end alone."""
    if not (isinstance(conv, Conv2dSame) and conv.depends_on_size):
        return tuple(conv.padding), (0, 0)
    total = conv.zeros(size)
    return tuple(t // 2 for t in total), tuple(t % 2 for t in total)


@WEIGHT_INITIALIZERS.register_module()
class FanOutNormal:
    """Initial weights of every convolution: normal, variance 2 / fan-out, bias 0.

    Fan-out is counted per group: a 3x3 depthwise kernel starts at std sqrt(2/9) = 0.471,
    where MMEngine's ``Kaiming`` counts all groups together and starts it near 0.01.
    Source: ``conv_kernel_initializer`` in the reference TPU code.
    """

    def __call__(self, module: nn.Module) -> None:
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d):
                fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
                nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info='FanOutNormal: variance 2 / fan-out per group')
