"""What a training's checkpoint says of its network: names of classes, and the text of its config.

MMEngine keeps both in ``meta``.
This module imports the standard library, ``arch``, ``config_text``, ``variants`` and ``settings``.
"""
from __future__ import annotations

from collections.abc import Mapping

from mmeffnet.arch import Arch
from mmeffnet.config_text import read_config
from mmeffnet.variants import VARIANTS
from mmeffnet.weights.settings import (
    LOADERS,
    bare,
    channel_order_of,
    eps_of,
    norm_of,
    padding_of,
    preprocessor_of,
)

READ = ('default_scope', 'model', 'data_preprocessor', *LOADERS)  # of a config
PREPROCESSORS = (None, 'ClsDataPreprocessor', 'DecodingDataPreprocessor')
# What changes no pixel of a picture that has been read, beside the decoder's last bit.
LOADING = {'type', 'backend_args', 'file_client_args', 'ignore_empty', 'imdecode_backend'}
PACKING = ('PackInputs', 'PackChannelsLast')
# Of the arguments of a transform: the values that are followed, in the first place its default.
FOLLOWED = {
    'EfficientNetCenterCrop': dict(interpolation=('bicubic', 'bilinear', 'nearest', 'lanczos'),
                                   backend=('cv2', 'pillow')),
    'ResizeEdge': dict(interpolation=('bilinear', 'bicubic', 'nearest', 'lanczos'),
                       backend=('cv2', 'pillow'), edge=('short', )),
    'Resize': dict(interpolation=('bilinear', 'bicubic', 'nearest', 'lanczos'),
                   backend=('cv2', 'pillow'), keep_ratio=(False, )),
    'CenterCrop': {},
}
SIZES = {'EfficientNetCenterCrop': ('crop_size', 'crop_padding'), 'ResizeEdge': ('scale', ),
         'Resize': ('scale', ), 'CenterCrop': ('crop_size', )}


def trained(meta: Mapping) -> dict:
    """What ``meta`` of a checkpoint of MMEngine says; empty where it says nothing.

    'names' of the classes; 'padding' and 'eps'; 'norm' (:class:`Norm`, of RGB) and
    'channel_order', 'rgb' or 'bgr', of the input; 'input': arguments of
    :class:`mmeffnet.inference.settings.Settings`, which the test pipeline is; 'arch'.
    'unread': what could not be told of these; 'parts': of the model, those that compute
    something else than a classifier of ours, though its tensors fit.
    """
    found = {}
    dataset = meta.get('dataset_meta')
    names = dataset.get('classes') if isinstance(dataset, Mapping) else None
    if names and isinstance(names, (list, tuple)):
        found['names'] = tuple(map(str, names))
    if 'cfg' in meta:
        cfg = read_config(meta['cfg'], READ)
        try:
            found |= dict(unread=('the config', )) if cfg is None else _of_config(cfg)
        except (AttributeError, TypeError):  # a dict of the config is something else
            found['unread'] = ('the config', )
    return found


def _of_config(cfg: Mapping) -> dict:
    model = cfg.get('model') or {}
    backbone = model.get('backbone') or {}
    arch = _arch(backbone)
    numerics = dict(padding=padding_of(backbone, arch),
                    eps=eps_of(backbone, cfg.get('default_scope')))
    found = dict(arch=arch, **numerics, parts=tuple(_other_parts(model, arch, **numerics)))
    unread, given = [], preprocessor_of(cfg)
    try:
        if bare(given.get('type')) not in PREPROCESSORS:
            raise ValueError(f'type={given["type"]!r}')
        found |= dict(norm=norm_of(given), channel_order=channel_order_of(given))
    except ValueError as error:
        unread.append(f'data_preprocessor.{error}')
    pipeline = _test_pipeline(cfg)
    found['input'] = read_pipeline(pipeline)
    divisor = given.get('pad_size_divisor', 1)
    if found['input'] is None:
        steps = ', '.join(str(step.get('type')) for step in pipeline) or 'none'
        unread.append(f'the test pipeline ({steps})')
    elif divisor != 1 and found['input']['resolution'] % divisor:
        unread.append(f'data_preprocessor.pad_size_divisor={divisor}')
    return {**{key: value for key, value in found.items() if value is not None},
            'unread': tuple(unread)}


def _arch(backbone: Mapping) -> Arch | None:
    """The architecture that a backbone's ``arch`` is; None where it is none, or is scaled."""
    arch = backbone.get('arch', 'b0')
    if backbone.get('scaling'):
        return None
    try:
        return Arch.from_dict(arch) if isinstance(arch, Mapping) else VARIANTS[arch].arch
    except (ValueError, KeyError, TypeError):
        return None


def _other_parts(model: Mapping, arch: Arch | None, padding: str | None, eps: float | None):
    """'neck.type=...' and the like, where no tensor tells that the model is another."""
    backbone = model.get('backbone') or {}
    for name, part, key, same in (
            ('type', model, 'type', ('ImageClassifier', )),
            ('neck.type', model.get('neck') or {}, 'type', ('GlobalAveragePooling', )),
            ('head.type', model.get('head') or {}, 'type', ('LinearClsHead', 'EfficientNetHead')),
            ('backbone.type', backbone, 'type', ('EfficientNet', )),
            ('backbone.act_cfg.type', backbone.get('act_cfg') or {}, 'type',
             (None, arch.activation) if arch else (None, )),
            ('backbone.output_stride', backbone, 'output_stride', (None, ))):
        value = part.get(key)
        if (bare(value) if key == 'type' else value) not in same:
            yield f'model.{name}={value!r}'
    for name, known in (('conv_cfg', padding), ('norm_cfg', eps)):
        if known is None:
            yield f'model.backbone.{name}={backbone.get(name)!r}'


def _test_pipeline(cfg: Mapping) -> list:
    """The transforms of the test, or of the validation where there is no test."""
    for loader in reversed(LOADERS):
        dataset = (cfg.get(loader) or {}).get('dataset') or {}
        if dataset.get('pipeline'):
            return list(dataset['pipeline'])
    return []


def read_pipeline(pipeline) -> dict | None:
    """A test pipeline as arguments of ``Settings``; None where these cannot say it.

    It ends with a square of the whole picture, or of its middle: one of the forms in
    ``_square``, and nothing beside it.
    """
    if pipeline and bare(pipeline[0].get('type')) == 'LoadImageFromFile':
        if pipeline[0].keys() - LOADING or pipeline[0].get('imdecode_backend', 'cv2') not in (
                'cv2', 'pillow'):
            return None
        pipeline = pipeline[1:]
    if not pipeline or bare(pipeline[-1].get('type')) not in PACKING:
        return None
    steps = [{**step, 'type': bare(step.get('type'))} for step in pipeline[:-1]]
    square = _square(steps) if all(map(_followed, steps)) else None
    if square is None:
        return None
    resized = {key: steps[0].get(key, FOLLOWED[steps[0]['type']][key][0])
               for key in ('interpolation', 'backend')}
    return dict(**square, interpolation=resized['interpolation'], transforms=tuple(steps),
                resampler='pil' if resized['backend'] == 'pillow' else 'cv2')


def _followed(step: Mapping) -> bool:
    """Whether each argument of a transform is known here, and has a value that is followed."""
    values = FOLLOWED.get(step['type'])
    return values is not None and all(
        value in values[key] if key in values else key in ('type', *SIZES[step['type']])
        for key, value in step.items())


def _square(steps: list[dict]) -> dict | None:
    """The ``resolution``, ``scale`` and ``squash`` of transforms, None for other transforms."""
    match steps:
        case [{'type': 'EfficientNetCenterCrop', 'crop_size': int(side), **more}]:
            border = more.get('crop_padding', 32)
            return dict(resolution=side, scale=side + border, squash=False)
        case [{'type': 'ResizeEdge', 'scale': int(scale)},
              {'type': 'CenterCrop', 'crop_size': int(side) | (int(side), int())}] if (
                  scale >= side and steps[1]['crop_size'] in (side, (side, side))):
            return dict(resolution=side, scale=scale, squash=False)
        case [{'type': 'Resize', 'scale': int(side) | (int(side), int())}] if (
                steps[0]['scale'] in (side, (side, side))):
            return dict(resolution=side, scale=side, squash=True)
    return None
