"""Channels last: every operation gives it, and none copies to get there."""
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from mmeffnet import EfficientNet
from mmeffnet.analysis.traffic import Traffic
from mmeffnet.models import conv_gradients


class Layouts(Traffic):
    """Counts bytes, and keeps the operations that gave another layout."""

    def __init__(self):
        super().__init__()
        self.others = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(func, types, args, kwargs)
        self.others += [
            f'{func} {tuple(tensor.shape)} {tensor.stride()}' for tensor in tree_leaves(result)
            # A view looks at what another operation has laid out.
            if isinstance(tensor, torch.Tensor) and tensor.dim() == 4 and not func.is_view
            and tensor.shape[1] > 1 and tensor.shape[-1] > 1 and tensor.stride(1) != 1]
        return result


def counted(training, precision, memory_format, **options):
    torch.manual_seed(0)
    network = EfficientNet(arch='b0', **options).to(memory_format=memory_format).train(training)
    images = torch.randn(2, 3, 96, 64).contiguous(memory_format=memory_format)
    with Layouts() as layouts, torch.set_grad_enabled(training):
        with precision():
            out = network(images)[-1].sum()
        if training:
            out.backward()
    return layouts


CASES = {'inference': (False, {}), 'training': (True, {}),
         'memory': (True, dict(memory_efficient=True)),
         'gradients': (True, dict(fast_gradients=True)),
         'both': (True, dict(memory_efficient=True, fast_gradients=True))}
PRECISIONS = {'float32': nullcontext, 'bfloat16': lambda: torch.autocast('cpu', torch.bfloat16)}


@pytest.mark.parametrize(('training', 'options'), CASES.values(), ids=CASES)
@pytest.mark.parametrize('precision', PRECISIONS.values(), ids=PRECISIONS)
def test_no_operation_leaves_channels_last(training, options, precision, monkeypatch):
    # Which formula is measured to be the fastest must not decide what is counted.
    monkeypatch.setattr(conv_gradients, 'CHOICES', {})
    monkeypatch.setattr(conv_gradients, '_fastest', lambda usable, _: list(usable)[-1])
    last = counted(training, precision, torch.channels_last, **options)
    assert not last.others
    first = counted(training, precision, torch.contiguous_format, **options)
    # 'clone' and the like would show as bytes; the rows of a product are no more than those.
    assert last.moved <= 1.001 * first.moved


def test_a_copy_to_another_layout_is_found():
    x = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    with Layouts() as layouts:
        nn.Conv2d(3, 3, 1)(x.contiguous())
    assert len(layouts.others) == 2  # the copy, and what the convolution makes of it
