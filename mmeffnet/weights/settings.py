"""What a published set needs, in a config: put there, or compared with what is there."""
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from mmeffnet.arch import Arch
from mmeffnet.variants import Norm
from mmeffnet.weights.catalog import Entry
from mmeffnet.weights.data import LOADERS, bare, data_are_rgb, pipelines_of, step_name

BATCH_NORM_EPS = 1e-3  # of our backbone, unless norm_cfg says otherwise
PYTORCH_EPS = 1e-5
BATCH_NORMS = ('BN', 'BN2d', 'SyncBN', 'MMSyncBN')
# Transforms that give a square, by the argument that has its side; others call it crop_size.
SIDES = {'Resize': 'scale', 'torchvision/CenterCrop': 'size'}
PADDINGS = {'Conv2dSame': 'same', 'Conv2dAdaptivePadding': 'same', 'Conv2d': 'symmetric',
            'Conv': 'symmetric'}


def test_transforms(entry: Entry) -> list[dict]:
    """The transforms between reading and packing an image, as the set was evaluated."""
    if entry.crop_mode == 'squash':
        return [dict(type='Resize', scale=(entry.resolution, entry.resolution),
                     backend='pillow', interpolation=entry.interpolation)]
    if entry.crop is None:
        return [dict(type='EfficientNetCenterCrop', crop_size=entry.resolution,
                     interpolation=entry.interpolation)]
    return [dict(type='ResizeEdge', scale=entry.scale, edge='short', backend='pillow',
                 interpolation=entry.interpolation),
            dict(type='CenterCrop', crop_size=entry.resolution)]


def model_settings(entry: Entry) -> dict:
    """The backbone's arguments that follow from the set."""
    if entry.padding == 'symmetric':
        return dict(conv_cfg=dict(type='Conv2d'), norm_cfg=dict(type='BN', eps=entry.eps))
    return dict(conv_cfg=None, norm_cfg=None)


def apply(entry: Entry, cfg) -> None:
    """Put the set's input, padding and test pipeline into a classifier's config, in place.

    cfg: MMEngine's Config, or a dict like it. Pipelines keep how images are read and packed.
    """
    norm = dict(mean=list(entry.norm.mean), std=list(entry.norm.std),
                to_rgb=not data_are_rgb(cfg))  # as all networks of the catalog take it
    for owner in (cfg, cfg['model']):
        if owner.get('data_preprocessor'):
            owner['data_preprocessor'].update(norm)
    if not any(owner.get('data_preprocessor') for owner in (cfg, cfg['model'])):
        cfg['data_preprocessor'] = norm
    cfg['model']['backbone'].update(model_settings(entry))
    for name in LOADERS:
        for pipeline in pipelines_of(cfg, name):
            pipeline[:] = [pipeline[0], *test_transforms(entry), pipeline[-1]]


def mismatch(entry: Entry, cfg) -> str | None:
    """One line that names both sides where a config does not suit the set, else None."""
    differ = [f'{what} {theirs} where the config has {ours}'
              for what, theirs, ours in _compared(entry, cfg)
              if ours is not None and theirs != ours]
    if not differ:
        return None
    return (f'{entry.name} was published for {"; ".join(differ)}. Give its name as the '
            'checkpoint to have its settings, or keep the config if this is meant')


def _compared(entry: Entry, cfg) -> Iterator[tuple]:
    """What is compared: its name, the set's value, and the config's, None where it has none."""
    model = cfg.get('model') or {}
    given = preprocessor_of(cfg)
    if given.get('mean') is not None:
        yield 'mean', _few(entry.norm.mean), _few(given['mean'])
        yield 'std', _few(entry.norm.std), _few(given['std'])
        if cfg.get('default_scope') == 'mmpretrain':
            yield ('channel order', entry.channel_order,
                   channel_order_of(given, data_are_rgb(cfg)))
    backbone = model.get('backbone') or {}
    if str(backbone.get('type')).endswith('EfficientNet'):
        package = package_of(cfg)
        yield 'padding', entry.padding, padding_of(backbone, package)
        yield 'BatchNorm eps', entry.eps, eps_of(backbone, package)
    yield 'resolution', entry.resolution, resolution_of(cfg)


def package_of(cfg) -> str:
    """The package whose backbone a config's model has: a name without one is meant in a scope."""
    model = cfg.get('model') or {}
    backbone = model.get('backbone') or {}
    named, dot, _ = str(backbone.get('type')).partition('.')
    return (named if dot else backbone.get('_scope_') or model.get('_scope_')
            or cfg.get('default_scope') or '')


def padding_of(backbone: Mapping, package: str, arch: Arch | None = None) -> str | None:
    """'same' or 'symmetric', None for convolutions of the user's choice.

    package: of the backbone. arch: what the config's ``arch`` is, where it may have a padding of
    its own.
    """
    conv = backbone.get('conv_cfg')
    if conv:
        return PADDINGS.get(bare(conv.get('type'))) if conv.keys() == {'type'} else None
    if 'conv_cfg' in backbone and package != 'mmeffnet':
        return 'symmetric'  # mmcv's own convolution
    return arch.padding if arch else 'same'


def eps_of(backbone: Mapping, package: str) -> float | None:
    """BatchNorm's epsilon, None for another normalisation. package: of the backbone."""
    norm = backbone.get('norm_cfg')
    if not norm:
        return BATCH_NORM_EPS
    # Ours completes what is given; mmpretrain's own takes PyTorch's default then.
    default = BATCH_NORM_EPS if package == 'mmeffnet' else PYTORCH_EPS
    return norm.get('eps', default) if bare(norm.get('type', 'BN')) in BATCH_NORMS else None


def preprocessor_of(cfg) -> Mapping:
    """The data preprocessor that a config's model gets, as the Runner chooses it."""
    model = cfg.get('model') or {}
    return (model if 'data_preprocessor' in model else cfg).get('data_preprocessor') or {}


def channel_order_of(preprocessor: Mapping, rgb: bool) -> str:
    """'rgb' or 'bgr', which the network of mmpretrain's data preprocessor takes.

    rgb: whether the images it is given are RGB, which ``to_rgb`` would turn to BGR."""
    return 'bgr' if bool(preprocessor.get('to_rgb')) == rgb else 'rgb'


def norm_of(preprocessor: Mapping, order: str) -> Norm:
    """Mean and deviation of mmpretrain's data preprocessor, of RGB whatever its ``order``.

    0 and 1 where it normalises nothing. Raises ValueError, 'mean=...', where they are not three
    numbers, or one for all channels, or a deviation is none above 0.
    """
    found = {}
    for name, default in (('mean', 0.), ('std', 1.)):
        values = default if preprocessor.get('mean') is None else preprocessor.get(name)
        values = _channels(values, order)
        if len(values) != 3 or not all(
                isinstance(value, (int, float)) and math.isfinite(value)
                and (name == 'mean' or value > 0) for value in values):
            raise ValueError(f'{name}={preprocessor.get(name)!r}')
        found[name] = tuple(map(float, values))
    return Norm(**found)


def _channels(values, order: str) -> list:
    """A value for each channel of RGB, of values in ``order`` or of one for all."""
    values = list(values) if isinstance(values, (list, tuple)) else [values]
    values = values * 3 if len(values) == 1 else values
    return values[::-1] if order == 'bgr' else values


def _few(values) -> str:
    return '/'.join(f'{value:g}' for value in values)


def resolution_of(cfg) -> int | None:
    """The side of the square that the test pipeline ends with; of several, that of all of them."""
    if cfg.get('default_scope') != 'mmpretrain':
        return None
    sides = {*map(_side, pipelines_of(cfg, 'test_dataloader'))}
    return sides.pop() if len(sides) == 1 else None


def _side(pipeline) -> int | None:
    for transform in reversed(pipeline):
        size = transform.get('crop_size') or transform.get(SIDES.get(step_name(transform)))
        if transform.get('keep_ratio'):
            return None
        if isinstance(size, (tuple, list)):
            size = size[0] if len(set(size)) == 1 else None
        if size:
            return size
    return None


def norm_mismatch(norm: Norm, source: str, cfg) -> str | None:
    """The same for a file that states its normalisation itself and is in no catalog."""
    given = preprocessor_of(cfg)
    ours = [given.get('mean'), given.get('std')]
    if None in ours:
        return None
    order = 'rgb' if cfg.get('default_scope') != 'mmpretrain' else channel_order_of(
        given, data_are_rgb(cfg))
    ours = [list(map(float, _channels(values, order))) for values in ours]
    if ours == [list(norm.mean), list(norm.std)]:
        return None
    return (f'{source} states mean {_few(norm.mean)} and std {_few(norm.std)} where the config '
            f'has {_few(ours[0])} and {_few(ours[1])}')
