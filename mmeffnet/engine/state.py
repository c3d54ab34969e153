"""What a run's checkpoint holds beside the weights, and how a run goes on from it."""
import random

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.logging import HistoryBuffer

from mmeffnet.registry import HOOKS


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Save the random state with every checkpoint and go on from it after a resume.

    Validation leaves the state as it found it, so that how often one validates does not
    change the training. The state of the main process is kept, of rank 0: workers and the
    sampler are seeded by MMEngine from seed, epoch and rank.
    """
    # Before LoggerHook and CheckpointHook: nothing may draw in between.
    priority = 'VERY_HIGH'

    def __init__(self):
        self._resumed = self._before_val = None

    def before_val(self, runner) -> None:
        self._before_val = random_state()

    def after_val(self, runner) -> None:
        set_random_state(self._before_val)
        self._before_val = None

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        # A new best score has the last checkpoint written again in the midst of validation.
        checkpoint['random_state'] = self._before_val or random_state()

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        self._resumed = checkpoint.get('random_state')

    def before_train(self, runner) -> None:
        # Not while loading: MMEngine sets the seed once more after that. A fine-tuning from
        # someone's weights starts with its own seed.
        if runner._resume and self._resumed is not None:
            set_random_state(self._resumed)


def random_state() -> dict:
    """The state of Python, numpy and PyTorch, as tensors and numbers only."""
    name, keys, position, has_gauss, gauss = np.random.get_state()
    state = dict(python=random.getstate(), torch=torch.get_rng_state(),
                 numpy=(name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss))
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict) -> None:
    """Go back to a state of ``random_state``."""
    name, keys, position, has_gauss, gauss = state['numpy']
    random.setstate(_as_tuples(state['python']))
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state['torch'].cpu())
    if 'cuda' in state and torch.cuda.device_count() == len(state['cuda']):
        torch.cuda.set_rng_state_all([s.cpu() for s in state['cuda']])


def _as_tuples(value):
    return tuple(map(_as_tuples, value)) if isinstance(value, (list, tuple)) else value


@HOOKS.register_module()
class PlainCheckpointHook(Hook):
    """Write checkpoints of tensors, numbers, strings and containers only.

    Such a file loads with weights only in any process, this package installed or not.
    MMEngine by itself adds its HistoryBuffer, which pickles methods.
    """
    priority = 'LOWEST'  # whatever another hook adds is there

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
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
