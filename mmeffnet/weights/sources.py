"""Weights of any source, under our names: a file of any library, an address, the catalog."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader

from mmeffnet.arch import Arch, nearest
from mmeffnet.errors import InputError
from mmeffnet.version import __version__
from mmeffnet.weights.addresses import DEFAULTS, SCHEMES, through_mmengine
from mmeffnet.weights.catalog import CATALOG, Entry, get_entry, identify, verify
from mmeffnet.weights.files import (
    expanded,
    kind_of_file,
    read_checkpoint,
    read_safetensors,
    statements,
)
from mmeffnet.weights.trained import network_of, other_parts
from mmeffnet.weights.translate import Weights, of_timm, plain_key, translate
from mmeffnet.weights.wrappers import weights_of


def load_weights(source, *, prefix: str | None = None, also: Arch | None = None,
                 average: bool = True) -> Weights:
    """Weights of any published layout, under our keys.

    source: path of a file (PyTorch, safetensors, Keras, TensorFlow), an address
    ('timm://NAME', 'torchvision://NAME', 'keras://NAME', 'lite://lite0', 'mmeffnet://NAME or
    path', 'https://...'), or a name of the catalog.
    prefix: of the network among the file's keys, where there are several. also: an
    architecture to look for besides the published ones. average: of a TensorFlow checkpoint,
    take the moving averages; refuse a file without them.
    Raises InputError naming the source, what is wrong with it, and the way out.
    """
    source = expanded(str(source).removeprefix('mmeffnet://'))
    if not source:
        raise InputError("'' names no weights, as of a variable of the shell that is not set: give "
                         'a file, an address or a set of the catalog')
    path, entry = source, published(source)
    if '://' in source:
        scheme, name = source.split('://', 1)
        path = SCHEMES[scheme](name) if scheme in SCHEMES else through_mmengine(source)
    elif source in CATALOG:
        entry = get_entry(source)
        if entry.source != source:
            return replace(load_weights(entry.source, prefix=prefix, also=also,
                                        average=average), entry=entry)
    elif kind_of_file(source) != 'tensorflow' and not Path(source).exists():
        raise InputError(f'checkpoint {source!r} does not exist, and no set of the catalog is '
                         f'called so{nearest(source, CATALOG)} (mmeffnet.weights.CATALOG has all)')
    if isinstance(path, dict):
        state, stated = weights_of(path), {}
    else:
        if entry and Path(path).is_file():
            verify(path, entry)
        state, stated = read_state(path, average=average)
    if source.startswith('timm://'):
        stated = dict(called=source.removeprefix('timm://')) | stated
    if also is None:
        # A part of the model may have been compiled. Where there is a model, which ``also`` is
        # of, its own keys may be such, and stay.
        state = {plain_key(key): tensor for key, tensor in state.items()}
        prefix = prefix and plain_key(f'{prefix.rstrip(".")}.')
    return with_statements(translate(state, source, prefix=prefix, also=also, entry=entry), stated)


def described(weights: Weights) -> dict:
    """``meta`` of a checkpoint with these weights, in plain types, which ``statements`` reads."""
    meta = dict(mmeffnet_weights=__version__, source=Path(weights.source).name,
                layout=weights.layout, variant=weights.variant, classes=weights.classes,
                published=weights.entry.name if weights.entry else None,
                padding=weights.padding, eps=weights.eps,
                parts=list(other_parts(weights)) or None,
                names=list(weights.stated.get('names', ())) or None,
                channel_order=weights.stated.get('channel_order'), **network_of(weights.stated))
    norm = weights.norm or weights.stated.get('norm')
    if norm:
        meta |= dict(mean=list(norm.mean), std=list(norm.std))
    return {key: value for key, value in meta.items() if value is not None}


def published(source) -> Entry | None:
    """The set of the catalog that a source is, a library's own default included."""
    source = str(source).removeprefix('mmeffnet://')
    scheme, _, name = source.partition('://')
    if scheme in DEFAULTS:
        source = f'{scheme}://{DEFAULTS[scheme](name)}'
    return identify(source)


def with_statements(weights: Weights, stated: Mapping) -> Weights:
    """The weights, with what their file states of itself; a known set goes before that."""
    entry = weights.entry or CATALOG.get(stated.get('published'))
    if weights.layout == 'timm' and not entry:
        stated = {**of_timm(stated.get('called', ''), weights.source), **stated}
    # One of BGR is no norm of RGB input: who takes that from here would feed another network.
    own = stated.get('norm') if stated.get('channel_order', 'rgb') == 'rgb' else None
    norm = entry.norm if entry else own
    return replace(weights, entry=entry, norm=norm, stated=stated)


def read_state(path, average: bool = True) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors of a file, under its own keys, and what it states of itself.

    That is what :func:`mmeffnet.weights.files.statements` finds there.
    """
    path = expanded(path)
    kind = kind_of_file(path)
    if kind == 'tensorflow':
        from mmeffnet.weights.tensorflow import read_tensorflow
        return read_tensorflow(path, average=average), {}
    if kind == 'keras':
        from mmeffnet.weights.keras import read_keras
        state, norm = read_keras(path)
        return state, dict(norm=norm) if norm else {}
    if kind == 'safetensors':
        return read_safetensors(path)
    try:
        checkpoint = read_checkpoint(path)
        return weights_of(checkpoint), statements(checkpoint)
    except InputError as error:
        if str(path) in str(error):
            raise
        raise InputError(f'checkpoint {str(path)!r}: {error}') from error


# MMEngine takes prefixes as regular expressions and the longest first, so that a longer one
# than its own 'torchvision://' needs no force, nor one that comes after 'https:' by the alphabet.
# Its own loader keeps every other file, and files of these kinds behind addresses of others:
# ``through_mmengine`` would lead back here.
REGISTERED = ('timm://', 'torchvision://efficientnet_', 'keras://', 'lite://', 'mmeffnet://',
              r'(?!.*://).*\.safetensors$', r'(?!.*://).*\.h5$',
              r'https?://.*\.(safetensors|h5)(\?.*)?$')


def _loader(filename: str, map_location=None) -> dict:
    """What MMEngine calls: a checkpoint of a whole model, for any of its tools.

    With what lies beside the network, such as a detector's neck, without what comes before it.
    """
    weights = load_weights(filename)
    state = {**{key.removeprefix(weights.root): value
                for key, value in weights.others.items()}, **weights.state}
    if map_location not in (None, 'cpu'):
        state = {key: tensor.to(map_location) for key, tensor in state.items()}
    print_log(f'{filename}: {weights.variant or "custom"} network in the layout '
              f'{weights.layout!r}', 'current')
    return dict(state_dict=state, meta=described(weights))


def register() -> None:
    """Make the addresses known to MMEngine; done once, when this module is imported."""
    for prefix in REGISTERED:
        try:
            CheckpointLoader.register_scheme(prefix, _loader)
        except KeyError:  # somebody else's, and never taken by force
            print_log(f'{prefix} is loaded by another package', 'current')


register()
