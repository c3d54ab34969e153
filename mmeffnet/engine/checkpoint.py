"""Reading checkpoints without ever running code from them.

PyTorch loads weights only, which refuses the few harmless objects that MMEngine 0.10 keeps
beside the weights. Importing this module lets exactly those through.
"""
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch.serialization import add_safe_globals

from mmeffnet.arch import Arch
from mmeffnet.engine.errors import InputError, one_line
from mmeffnet.variants import VARIANTS


def _history_method(owner, name: str):
    """Stands in for ``getattr``, which MMEngine's HistoryBuffer is pickled with.

    Hands out the four statistics of HistoryBuffer and nothing else: the real one would
    let a file reach any attribute of anything.
    """
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(owner, name)
    raise pickle.UnpicklingError(f'Unsupported global: getattr of {name} is not allowed')


def _safe_globals() -> list:
    """HistoryBuffer and the parts of a numeric numpy array, under both of numpy's names."""
    core = np._core if hasattr(np, '_core') else np.core
    parts = {'_reconstruct': core.multiarray._reconstruct, 'scalar': core.multiarray.scalar}
    both_names = [(part, f'{package}.multiarray.{name}') for name, part in parts.items()
                  for package in ('numpy.core', 'numpy._core')]
    dtypes = {type(np.dtype(kind)) for kind in ('float64', 'float32', 'int64', 'int32')}
    getattrs = [(_history_method, f'{module}.getattr') for module in ('builtins', '__builtin__')]
    return [HistoryBuffer, np.ndarray, np.dtype, *dtypes, *both_names, *getattrs]


add_safe_globals(_safe_globals())


def read_checkpoint(path, map_location='cpu'):
    """Load a checkpoint file, weights only; tensors are mapped, not copied, where possible.

    Raises InputError for a file that is missing, truncated, or holds pickled code.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f'checkpoint {str(path)!r} does not exist')
    try:
        return torch.load(path, map_location=map_location, weights_only=True,
                          mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if 'Unsupported global' in str(error) or 'Unsupported operand' in str(error) or \
                'GLOBAL' in str(error):
            raise InputError(
                f'checkpoint {str(path)!r} holds pickled objects besides weights '
                f'({_refused(error)}), and loading them could run code: save its state_dict '
                'alone, where it comes from, and load that') from error
        raise InputError(f'checkpoint {str(path)!r} is no PyTorch checkpoint: '
                         f'its first bytes are {path.open("rb").read(8)!r}') from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(
            f'checkpoint {str(path)!r} ({path.stat().st_size:,} bytes) is truncated or damaged: '
            'copy or download it again, or resume from an earlier one') from error


def _refused(error: Exception) -> str:
    """The name PyTorch refused, out of its long message."""
    words = str(error).replace('`', ' ').split()
    dotted = [word.strip('.,:') for word in words if word.count('.') and word[0].isalpha()]
    global_at = [words[i + 1].strip('.,:') for i, word in enumerate(words[:-1])
                 if word in ('GLOBAL', 'global')]
    return (global_at + dotted + ['an unknown object'])[0]


def weights_of(checkpoint) -> dict[str, torch.Tensor]:
    """The state dict inside a checkpoint, without the prefix that DDP adds.

    Raises InputError where there is none.
    """
    if isinstance(checkpoint, Mapping):
        for wrapper in ('state_dict', 'model'):
            if isinstance(checkpoint.get(wrapper), Mapping):
                checkpoint = checkpoint[wrapper]
                break
        weights = {str(k).removeprefix('module.'): v for k, v in checkpoint.items()
                   if isinstance(v, torch.Tensor)}
        if weights:
            return weights
    raise InputError('the checkpoint holds no weights: neither itself nor its entries '
                     '"state_dict" and "model" are a dict of tensors')


def variant_of_weights(weights: Mapping[str, torch.Tensor]) -> str | None:
    """The variant that weights in our layout belong to, None where no variant fits.

    The block counts and widths of every group, the stem and the head have to agree.
    """
    found = _signature(weights)
    if not found:
        return None
    return next((name for name, variant in VARIANTS.items()
                 if _expected(variant.arch) == found), None)


# Per block, the shapes that tell variants apart: width, squeeze width, hidden width.
_TELLING = {'linear_conv.conv.weight': 'out', 'conv2.conv.weight': 'out',
            'se.conv1.conv.weight': 'squeeze', 'depthwise_conv.conv.weight': 'hidden',
            'conv1.conv.weight': 'hidden'}


def _signature(weights) -> dict:
    found = {}
    for key, tensor in weights.items():
        _, layers, rest = key.rpartition('layers.')
        place, _, tail = rest.partition('.')
        if not layers or not place.isdigit():
            continue
        if tail == 'conv.weight':
            found[place, 'conv'] = tensor.shape[0]
        block, _, name = tail.partition('.')
        if block.isdigit() and name in _TELLING:
            found[place, block, _TELLING[name]] = tensor.shape[0]
    return found


def _expected(arch: Arch) -> dict:
    groups = arch.blocks()
    expected = {('0', 'conv'): arch.stem, (str(len(groups) + 1), 'conv'): arch.head}
    for i, group in enumerate(groups, start=1):
        for j, block in enumerate(group):
            place = str(i), str(j)
            expected[(*place, 'out')] = block.out_channels
            expected[(*place, 'hidden')] = block.hidden
            if block.squeeze:
                expected[(*place, 'squeeze')] = block.squeeze
    return expected


def check_variant(weights: Mapping[str, torch.Tensor], model: torch.nn.Module, path) -> None:
    """Refuse the weights of another variant, naming it.

    Other differences are allowed: fine-tuning starts from another head.
    """
    theirs, ours = variant_of_weights(weights), variant_of_weights(model.state_dict())
    if theirs and ours and theirs != ours:
        raise InputError(f'checkpoint {str(path)!r} is of variant {theirs!r}, and the config '
                         f'builds {ours!r}: give a config with arch={theirs!r}, or another file')


def load_whole(path, model: torch.nn.Module) -> None:
    """Load weights and refuse those that would leave the model partly random.

    MMEngine itself loads what fits and warns of the rest. Raises InputError naming the
    variant that the file really is, or the keys.
    """
    weights = weights_of(read_checkpoint(path))
    check_variant(weights, model, path)
    try:
        missing = model.load_state_dict(weights, strict=False).missing_keys
    except RuntimeError as error:
        shapes = [line.strip() for line in str(error).splitlines() if 'size mismatch' in line]
        raise InputError(f'checkpoint {str(path)!r} does not fit the model: '
                         f'{_few(shapes) or one_line(error)}') from error
    # Means and deviations of the input come with the config; counters change no result.
    missing = [key for key in missing if not key.startswith('data_preprocessor.')
               and not key.endswith('num_batches_tracked')]
    if missing:
        alone = any(key.startswith('layers.') for key in weights)
        raise InputError(f'checkpoint {str(path)!r} lacks {len(missing)} tensors of the model: '
                         f'{_few(missing)}' + ('; it holds a backbone alone' if alone else ''))


def _few(items: list[str], most: int = 3) -> str:
    more = len(items) - most
    return ', '.join(items[:most]) + (f' and {more} more' if more > 0 else '')
