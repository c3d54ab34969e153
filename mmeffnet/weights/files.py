"""Reading files of weights, of any library, without ever running code from them.

PyTorch loads weights only, which refuses the few harmless objects that MMEngine 0.10 and the
trainers of timm and torchvision keep beside the weights. Importing this module lets exactly those
through.
"""
import argparse
import importlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch.serialization import add_safe_globals

from mmeffnet.errors import InputError
from mmeffnet.variants import Norm
from mmeffnet.weights.trained import stated_network, trained


def _history_method(owner, name: str):
    """Stands in for ``getattr``, which MMEngine's HistoryBuffer is pickled with.

    Hands out the four statistics of HistoryBuffer and nothing else: the real one would
    let a file reach any attribute of anything.
    """
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(owner, name)
    raise pickle.UnpicklingError(f'Unsupported global: getattr of {name} is not allowed')


def _safe_globals() -> list:
    """HistoryBuffer, the options of a command line, and the parts of numpy's arrays of numbers and
    of strings, such as names of classes, under both of numpy's names."""
    core = np._core if hasattr(np, '_core') else np.core
    parts = {'_reconstruct': core.multiarray._reconstruct, 'scalar': core.multiarray.scalar}
    both_names = [(part, f'{package}.multiarray.{name}') for name, part in parts.items()
                  for package in ('numpy.core', 'numpy._core')]
    dtypes = {type(np.dtype(kind)) for kind in '?bBhHiIlLqQefdSU'}
    getattrs = [(_history_method, f'{module}.getattr') for module in ('builtins', '__builtin__')]
    # What a Namespace holds is checked like everything else.
    return [HistoryBuffer, argparse.Namespace, np.ndarray, np.dtype, *dtypes, *both_names,
            *getattrs]


PICKLE = b'\x80'  # the first byte of every protocol that PyTorch has written

FROM_WHICH = 'give the checkpoint it was exported from; of the tools, test.py alone runs such files'
PROGRAMS = {'.onnx': 'ONNX', '.xml': 'OpenVINO'}  # exported ones that are no archives
# Archives that PyTorch takes for torn ones of its own, by the name of a member.
OTHER_ARCHIVES = {
    'constants.pkl': 'is a TorchScript program: save its state_dict alone, where it comes from, '
                     'and load that',
    'archive_format': f'is a program of torch.export: {FROM_WHICH}',
    'model.weights.h5': 'is an archive of Keras: unpack model.weights.h5 from it, and load that'}

WEIGHT_SUFFIXES = ('.pth', '.pt', '.bin', '.safetensors', '.h5', '.index')
# Endings of checkpoints that no file made of one keeps.
ENDINGS = (*WEIGHT_SUFFIXES, '.pkl', '.keras', '.ckpt')

_SAFE_GLOBALS = _safe_globals()
add_safe_globals(_SAFE_GLOBALS)


def read_checkpoint(path):
    """Load a checkpoint file, weights only; tensors are mapped, not copied, where possible.

    Raises InputError for a file that is missing, truncated, or holds pickled code.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f'checkpoint {str(path)!r} is a folder: {_files_in(path)}')
    if not path.is_file():
        raise InputError(f'checkpoint {str(path)!r} does not exist')
    # Once more: the fork of MMEngine adds the same ones for each load of its own, and takes
    # them away after it.
    add_safe_globals(_SAFE_GLOBALS)
    archive = zipfile.is_zipfile(path)
    if archive and (other := _other_archive(path)):  # of which PyTorch warns over several lines
        raise InputError(f'checkpoint {str(path)!r} {other}')
    try:
        return torch.load(path, map_location='cpu', weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        with path.open('rb') as file:
            start = file.read(8)
        # What lies in an archive has been checked by its sum.
        if archive or start[:1] == PICKLE or any(
                word in str(error) for word in ('Unsupported global', 'GLOBAL')):
            raise InputError(
                f'checkpoint {str(path)!r} holds pickled objects besides weights '
                f'({_refused(error)}), and loading them could run code: save its state_dict '
                'alone by torch.save, where it comes from, and load that') from error
        exported = PROGRAMS.get(path.suffix)
        raise InputError(f'checkpoint {str(path)!r} is ' + (
            f'a program of {exported}: {FROM_WHICH}' if exported else
            f'no PyTorch checkpoint: its first bytes are {start!r}; remove it, and copy or '
            'download it again')) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise InputError(
            f'checkpoint {str(path)!r} ({path.stat().st_size:,} bytes) is truncated or damaged: '
            'remove it, and copy or download it again, or resume from an earlier one') from error


def _refused(error: Exception) -> str:
    """What PyTorch refused, out of its long message: mostly the name of a class."""
    # Around it stand advice and addresses.
    text = str(error).rpartition('WeightsUnpickler error:')[2].partition('Check the doc')[0]
    if 'ObjectDType' in text:
        return 'an array of Python objects'
    if 'Unsupported operand' in text:
        return 'a pickle that torch.save did not write'
    words = text.replace('`', ' ').split()
    dotted = [word.strip('.,:') for word in words if '.' in word[1:-1] and word[0].isalpha()]
    global_at = [words[i + 1].strip('.,:') for i, word in enumerate(words[:-1])
                 if word in ('GLOBAL', 'global')]
    return (global_at + dotted + ['an unknown object'])[0]


def _other_archive(path: Path) -> str:
    """What an archive of another program is, with the way out; empty for any other file."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.rpartition('/')[2] for name in archive.namelist()}
    except zipfile.BadZipFile:
        return ''
    return next((what for member, what in OTHER_ARCHIVES.items() if member in members), '')


def _files_in(folder: Path) -> str:
    """The way out for who gave a folder: the files of weights in it."""
    # Two levels, which those of TensorFlow's SavedModel are, and not the whole of a home folder.
    found = sorted(str(path.relative_to(folder)) for level in ('*', '*/*')
                   for path in folder.glob(level) if path.suffix in WEIGHT_SUFFIXES)
    if not found:
        return f'give a file of weights; there is none in it ({", ".join(WEIGHT_SUFFIXES)})'
    more = f' or {len(found) - 3} more' if len(found) > 3 else ''
    return f'give the file of weights in it ({", ".join(found[:3])}{more})'


def need(module: str, extra: str):
    """Import an optional library; InputError with the install command where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition('.')[0]:
            raise
        raise InputError(f'{error.name} is not installed and is needed here: '
                         f'pip install "mmeffnet[{extra}]"') from error


def stem_of(source) -> str:
    """The name of a file or an address of weights, less the ending of a checkpoint."""
    _, address, rest = str(source).rpartition('://')
    path = Path(re.split('[?#]', rest)[0] if address else rest)
    path = path.with_name(path.name.removesuffix('.gz').removesuffix('.tar')) if path.name else path
    return path.stem if path.suffix.lower() in ENDINGS else path.name


def expanded(source) -> str:
    """A source with the home folder in the place of '~', as MMEngine reads paths."""
    source = str(source)
    return source if '://' in source else os.path.expanduser(source)


def is_tensorflow(path: Path) -> bool:
    """Whether a path is a TensorFlow checkpoint: a prefix, one of its files or its folder."""
    parts = re.search(r'\.(index|meta|data-\d{5}-of-\d{5})$', path.name)
    folder = path.is_dir() and ((path / 'checkpoint').is_file() or any(path.glob('*.index')))
    return bool(parts) or folder or Path(f'{path}.index').is_file()


def kind_of_file(path) -> str:
    """'tensorflow', 'keras', 'safetensors' or 'torch', by content and not by name.

    Raises InputError for what cannot be read, such as another user's.
    """
    try:
        return _kind(Path(path))
    except OSError as error:
        raise InputError(f'{str(path)!r} cannot be read: {error.strerror}') from error


def _kind(path: Path) -> str:
    if is_tensorflow(path):
        return 'tensorflow'
    if not path.is_file():
        return 'torch'  # whose reader says what is wrong
    with path.open('rb') as file:
        start = file.read(9)
    if start[:8] == b'\x89HDF\r\n\x1a\n':
        return 'keras'
    # Eight bytes of length, then a JSON object.
    if start[8:] == b'{' and int.from_bytes(start[:8], 'little') < path.stat().st_size:
        return 'safetensors'
    return 'safetensors' if path.suffix == '.safetensors' else 'torch'


def read_safetensors(path) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors of a .safetensors file, and what it states (see ``statements``).

    Raises InputError for a damaged one.
    """
    library = need('safetensors', 'timm')
    try:
        with library.safe_open(path, framework='pt') as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            meta = {key: _parsed(value) for key, value in (file.metadata() or {}).items()}
    except (OSError, library.SafetensorError) as error:
        raise InputError(f'{str(path)!r} ({Path(path).stat().st_size:,} bytes) is no whole '
                         f'safetensors file ({error}): remove it, and copy or download it '
                         'again') from error
    return tensors, statements(dict(meta=meta))


def _parsed(value: str):
    try:
        return json.loads(value)
    except ValueError:
        return value


def statements(checkpoint) -> dict:
    """What a file of tools/convert.py or of a training says of itself; empty for other files.

    'norm' (:class:`Norm`), 'padding', 'eps', 'published', the name of a set, 'channel_order',
    'names', 'parts', 'arch' and 'input', where known; for these, and for more that a training says,
    see :func:`mmeffnet.weights.trained.trained`. 'called': the network's name, of timm's trainer.
    """
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    if not isinstance(meta, Mapping):
        name = checkpoint.get('arch') if isinstance(checkpoint, Mapping) else None
        return dict(called=name) if isinstance(name, str) else {}
    if 'mmeffnet_weights' not in meta:
        return trained(meta)
    found = {key: meta[key] for key in ('padding', 'eps', 'published', 'channel_order')
             if meta.get(key)}
    found |= {key: tuple(map(str, meta[key])) for key in ('names', 'parts') if meta.get(key)}
    if meta.get('mean') and meta.get('std'):
        found['norm'] = Norm(mean=tuple(meta['mean']), std=tuple(meta['std']))
    return {**found, **stated_network(meta)}
