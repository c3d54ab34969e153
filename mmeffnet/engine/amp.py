"""Mixed precision that fits the device, chosen where the run happens."""
from contextlib import contextmanager
from functools import partial

import torch
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper as Float16OptimWrapper
from mmengine.optim import OptimWrapper
from torch import nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from mmeffnet.registry import OPTIM_WRAPPERS

PRECISIONS = ('auto', 'mixed', 'bfloat16', 'float16', 'float32')


class Bfloat16OptimWrapper(OptimWrapper):
    """Forward passes under autocast to bfloat16, on any device.

    bfloat16 has the exponent of float32: the loss needs no scaling. Layers and losses that lack it
    compute in float32, see :func:`keep_in_float32`.
    """

    @contextmanager
    def optim_context(self, model):
        keep_in_float32(model)
        with super().optim_context(model), torch.autocast(get_device(), dtype=torch.bfloat16):
            yield


def lacks_bfloat16(module: nn.Module) -> bool:
    """Whether a module calls operators that mmcv compiles for float32 and float16 alone.

    These are mmcv's own layers, such as RoIAlign, mmdet's FocalLoss on CUDA, and its extractors of
    regions, which gather what RoIAlign gives into a tensor of their input's type.
    """
    return any(kind.__module__.startswith('mmcv.ops.')
               or kind.__name__ in ('FocalLoss', 'BaseRoIExtractor')
               for kind in type(module).__mro__)


def keep_in_float32(model: nn.Module) -> None:
    """Have what lacks bfloat16 compute in float32 where autocast to it is on; once is enough.

    That is in detectors the last step too, from the outputs of a head to boxes: mmcv's ``nms``,
    which lacks it, is a function and no module.
    """
    for module in model.modules():
        for name, lacks in (('forward', lacks_bfloat16(module)),
                            ('predict_by_feat', hasattr(module, 'predict_by_feat'))):
            if lacks and getattr(getattr(module, name), 'func', None) is not _in_float32:
                setattr(module, name, partial(_in_float32, getattr(module, name)))


def _in_float32(method, *args, **kwargs):
    device = get_device()
    if (not torch.is_autocast_enabled(device)
            or torch.get_autocast_dtype(device) != torch.bfloat16):
        return method(*args, **kwargs)
    args, kwargs = tree_map_only(
        torch.Tensor, lambda t: t.float() if t.dtype == torch.bfloat16 else t, (args, kwargs))
    with torch.autocast(device, enabled=False):
        return method(*args, **kwargs)


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
