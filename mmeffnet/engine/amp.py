"""Mixed precision that fits the device, chosen where the run happens."""
from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper as Float16OptimWrapper
from mmengine.optim import OptimWrapper
from torch.optim import Optimizer

from mmeffnet.registry import OPTIM_WRAPPERS

PRECISIONS = ('auto', 'mixed', 'bfloat16', 'float16', 'float32')


class Bfloat16OptimWrapper(OptimWrapper):
    """Forward passes under autocast to bfloat16, on any device.

    bfloat16 has the exponent of float32: the loss needs no scaling.
    """

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast(get_device(), dtype=torch.bfloat16):
            yield


def choose_precision(precision: str = 'auto') -> str:
    """The precision that ``precision`` means on the device of this process.

    'mixed' is bfloat16 where the device computes it, else float16. 'auto' is the same on
    an accelerator and float32 on a CPU, where bfloat16 trains slower (docs/architecture.md).
    Raises ValueError for an unknown name.
    """
    if precision not in PRECISIONS:
        raise ValueError(f'precision={precision!r} must be one of {PRECISIONS}')
    if precision not in ('auto', 'mixed'):
        return precision
    device = get_device()
    if device == 'cpu':
        return 'float32' if precision == 'auto' else 'bfloat16'
    if device == 'cuda' and not torch.cuda.is_bf16_supported(including_emulation=False):
        return 'float16'
    return 'bfloat16'


@OPTIM_WRAPPERS.register_module()
def AmpOptimWrapper(optimizer: Optimizer, precision: str = 'auto', accumulative_counts: int = 1,  # noqa: N802
                    clip_grad: dict | None = None) -> OptimWrapper:
    """An optimizer wrapper in the precision that fits the device.

    precision: 'auto' (default), 'mixed', 'bfloat16', 'float16' or 'float32', see
    ``choose_precision``; float16 scales the loss dynamically. accumulative_counts: batches
    per step. clip_grad: arguments of gradient clipping.
    """
    common = dict(optimizer=optimizer, accumulative_counts=accumulative_counts,
                  clip_grad=clip_grad)
    precision = choose_precision(precision)
    if precision == 'float16':
        return Float16OptimWrapper(loss_scale='dynamic', dtype='float16', **common)
    if precision == 'bfloat16':
        return Bfloat16OptimWrapper(**common)
    return OptimWrapper(**common)
