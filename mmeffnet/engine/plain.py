"""Checkpoints that load with weights only, whatever hooks and schedulers put into them."""
import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer

from mmeffnet.registry import HOOKS


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Write checkpoints of tensors, numbers, strings and containers only.

    Such a file loads with weights only in any process, this package installed or not.
    MMEngine by itself adds its HistoryBuffer, which pickles methods.
    """
    priority = 'LOWEST'  # whatever another hook adds is there

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        if 'param_schedulers' in checkpoint:
            checkpoint['param_schedulers'] = without_functions(checkpoint['param_schedulers'])
        for key in [key for key in checkpoint if key not in WEIGHTS]:
            checkpoint[key] = plain(checkpoint[key])

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        scalars = checkpoint.get('message_hub', {}).get('log_scalars', {})
        for name, value in scalars.items():
            if isinstance(value, dict) and value.keys() == {'history', 'counts', 'max_length'}:
                scalars[name] = HistoryBuffer(
                    value['history'].tolist(), value['counts'].tolist(), value['max_length'])


# Plain by their nature, and too large to walk through for nothing.
WEIGHTS = ('state_dict', 'ema_state_dict', 'optimizer')


def without_functions(state):
    """The state of schedulers without functions, such as OneCycleLR has: a config makes its own."""
    if isinstance(state, dict):
        return {key: without_functions(value) for key, value in state.items()
                if not callable(value)}
    return [*map(without_functions, state)] if isinstance(state, list) else state


def plain(value):
    """``value`` out of plain containers, with numpy's numbers and MMEngine's histories made so.

    Raises TypeError naming the type of an object that has no plain form.
    """
    if isinstance(value, HistoryBuffer):
        history, counts = value.data
        # Copies: a slice would be written with all of the buffer behind it.
        return dict(history=torch.tensor(history), counts=torch.tensor(counts),
                    max_length=value.max_length)
    if value is None or isinstance(value, (bool, int, float, str, bytes, torch.Tensor)):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return torch.tensor(value)
    if isinstance(value, dict):
        return {plain(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        kind = tuple if isinstance(value, tuple) else type(value)
        return kind(map(plain, value))
    raise TypeError(f'{type(value).__name__} cannot be kept in a checkpoint: {value!r}')
