"""What a published set needs, in a config: put there, or compared with what is there."""
from __future__ import annotations

from collections.abc import Iterator

from mmeffnet.variants import Norm
from mmeffnet.weights.catalog import Entry

LOADERS = ('val_dataloader', 'test_dataloader')
BATCH_NORM_EPS = 1e-3  # of our backbone, unless norm_cfg says otherwise


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
    norm = dict(mean=list(entry.norm.mean), std=list(entry.norm.std), to_rgb=True)
    for owner in (cfg, cfg['model']):
        if owner.get('data_preprocessor'):
            owner['data_preprocessor'].update(norm)
    if not any(owner.get('data_preprocessor') for owner in (cfg, cfg['model'])):
        cfg['data_preprocessor'] = norm
    cfg['model']['backbone'].update(model_settings(entry))
    for name in LOADERS:
        pipeline = ((cfg.get(name) or {}).get('dataset') or {}).get('pipeline')
        if pipeline:
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
    given = model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    if given.get('mean') is not None:
        yield 'mean', _few(entry.norm.mean), _few(given['mean'])
        yield 'std', _few(entry.norm.std), _few(given['std'])
        if cfg.get('default_scope') == 'mmpretrain':
            yield 'channel order', entry.channel_order, 'rgb' if given.get('to_rgb') else 'bgr'
    backbone = model.get('backbone') or {}
    if str(backbone.get('type')).endswith('EfficientNet'):
        conv = (backbone.get('conv_cfg') or {}).get('type', 'same')
        yield 'padding', entry.padding, {'Conv2d': 'symmetric', 'same': 'same'}.get(conv)
        norm = backbone.get('norm_cfg') or {}
        yield 'BatchNorm eps', entry.eps, norm.get('eps', BATCH_NORM_EPS)
    yield 'resolution', entry.resolution, resolution_of(cfg)


def _few(values) -> str:
    return '/'.join(f'{value:g}' for value in values)


def resolution_of(cfg) -> int | None:
    """The side of the square that the test pipeline ends with."""
    if cfg.get('default_scope') != 'mmpretrain':
        return None
    pipeline = ((cfg.get('test_dataloader') or {}).get('dataset') or {}).get('pipeline') or []
    for transform in reversed(pipeline):
        size = transform.get('crop_size') or (
            transform.get('scale') if transform.get('type') == 'Resize' else None)
        if isinstance(size, (tuple, list)):
            size = size[0] if len(set(size)) == 1 else None
        if size:
            return size
    return None


def norm_mismatch(norm: Norm, source: str, cfg) -> str | None:
    """The same for a file that states its normalisation itself and is in no catalog."""
    given = (cfg.get('model') or {}).get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    ours = [given.get('mean'), given.get('std')]
    if None in ours or [list(map(float, x)) for x in ours] == [list(norm.mean), list(norm.std)]:
        return None
    return (f'{source} states mean {_few(norm.mean)} and std {_few(norm.std)} where the config '
            f'has {_few(ours[0])} and {_few(ours[1])}')
