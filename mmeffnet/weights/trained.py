"""What a training's checkpoint says of its network: names of classes, and the text of its config.

MMEngine keeps both in ``meta``.
This module does without PyTorch.
"""
from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from mmeffnet.arch import Arch
from mmeffnet.config_text import read_config
from mmeffnet.features import resolve_arch
from mmeffnet.scaling import ModelScaling
from mmeffnet.weights.data import LOADERS, bare, data_are_rgb
from mmeffnet.weights.settings import (
    channel_order_of,
    eps_of,
    norm_of,
    package_of,
    padding_of,
    preprocessor_of,
)

READ = ('default_scope', 'model', 'data_preprocessor', *LOADERS)  # of a config
PREPROCESSORS = (None, 'ClsDataPreprocessor', 'DecodingDataPreprocessor')
# What changes no pixel of a picture that has been read, beside the decoder's last bit.
LOADING = {'type', 'backend_args', 'file_client_args', 'ignore_empty', 'imdecode_backend'}
SILU = dict(Swish='SiLU')  # mmcv's name of it
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
    names = names.tolist() if hasattr(names, 'tolist') else names  # of an array of numpy
    if names and isinstance(names, (list, tuple)):
        found['names'] = tuple(map(str, names))
    if 'cfg' in meta:
        cfg = read_config(meta['cfg'], READ)
        try:
            found |= dict(unread=('the config', )) if cfg is None else _of_config(cfg)
        except (AttributeError, TypeError):  # a dict of the config is something else
            found['unread'] = ('the config', )
    return found


def network_of(stated: Mapping) -> dict:
    """Architecture and test pipeline that a file states, in plain types for ``stated_network``."""
    found = {}
    if 'arch' in stated:
        found['arch'] = stated['arch'].to_dict()
    if 'input' in stated:
        found['pipeline'] = [*map(dict, stated['input']['transforms'])]
    return found


def stated_network(meta: Mapping) -> dict:
    """'arch' and 'input' of a file with what ``network_of`` gave; what is wrong is left out."""
    readers = dict(arch=lambda: Arch.from_dict(meta['arch']), input=lambda: read_pipeline(
        [*map(_with_tuples, meta['pipeline']), dict(type=PACKING[0])]))
    found = {}
    for name, read in readers.items():
        with suppress(LookupError, TypeError, ValueError, AttributeError):
            found[name] = read()
    return {name: value for name, value in found.items() if value is not None}


def _with_tuples(step: Mapping) -> dict:
    """A transform whose sizes have become lists in a file of JSON."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in step.items()}


def other_parts(weights) -> tuple[str, ...]:
    """What of a training's model computes something else than a classifier of ours with the
    tensors ``weights``, or its backbone where they are no more; empty of a published set."""
    if weights.entry:
        return ()
    arch = weights.stated.get('arch')
    parts = (*weights.stated.get('parts', ()), *(
        [f'a model.backbone.arch that is not {weights.variant!r}']
        if arch and weights.arch and _computed(arch) != _computed(weights.arch) else ()))
    return tuple(part for part in parts if weights.classes or 'model.backbone.' in part)


def _computed(arch: Arch) -> tuple:
    """What tells networks apart; stages may be called as one likes, and weights say how to pad."""
    return arch.stem, arch.blocks(), arch.head, arch.activation


def _of_config(cfg: Mapping) -> dict:
    model = cfg.get('model') or {}
    backbone = model.get('backbone') or {}
    arch = _arch(backbone)
    package = package_of(cfg)
    numerics = dict(padding=padding_of(backbone, package, arch), eps=eps_of(backbone, package))
    found = dict(arch=arch, **numerics,
                 parts=tuple(_other_parts(model, package, arch, **numerics)))
    unread, given = [], preprocessor_of(cfg)
    try:
        if bare(given.get('type')) not in PREPROCESSORS:
            raise ValueError(f'type={given["type"]!r}')
        order = channel_order_of(given, data_are_rgb(cfg))
        found |= dict(norm=norm_of(given, order), channel_order=order)
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
    """The architecture that an EfficientNet of a config has; None of another, and for none."""
    try:
        if bare(backbone.get('type')) != 'EfficientNet':
            return None
        scaling = backbone.get('scaling')
        if scaling:  # not by a registry, which would import and call what the file says
            if bare(scaling.get('type', 'ModelScaling')) != 'ModelScaling':
                return None
            scaling = ModelScaling(**{key: scaling[key] for key in
                                      scaling.keys() - {'type', '_scope_'}})
        return resolve_arch(backbone.get('arch', 'b0'), scaling)
    except (LookupError, TypeError, ValueError, AttributeError):
        return None


def _other_parts(model: Mapping, package: str, arch: Arch | None, padding: str | None,
                 eps: float | None):
    """'neck.type=...' and the like, where no tensor tells that the model is another."""
    backbone = model.get('backbone') or {}
    # Of mmpretrain's own, whatever the variant.
    default = arch.activation if arch and package == 'mmeffnet' else 'Swish'
    activation = (backbone.get('act_cfg') or {}).get('type', default)
    if not arch:
        yield f'model.backbone.arch={backbone.get("arch")!r}'
    elif SILU.get(activation, activation) != arch.activation:
        yield f'model.backbone.act_cfg.type={activation!r}'
    for name, part, key, same in (
            ('type', model, 'type', ('ImageClassifier', )),
            ('neck.type', _only(model.get('neck')) or {}, 'type', ('GlobalAveragePooling', )),
            ('head.type', model.get('head') or {}, 'type', ('LinearClsHead', 'EfficientNetHead')),
            ('backbone.type', backbone, 'type', ('EfficientNet', )),
            ('backbone.output_stride', backbone, 'output_stride', (None, ))):
        value = part.get(key)
        if (bare(value) if key == 'type' else value) not in same:
            yield f'model.{name}={value!r}'
    for name, known in (('conv_cfg', padding), ('norm_cfg', eps)):
        if known is None:
            yield f'model.backbone.{name}={backbone.get(name)!r}'


def _only(parts):
    """The one item of a list of one, anything else as it is."""
    return parts[0] if isinstance(parts, (list, tuple)) and len(parts) == 1 else parts


def _test_pipeline(cfg: Mapping) -> list:
    """The transforms of the test, or of the validation where there is no test."""
    for loader in reversed(LOADERS):
        dataset = (cfg.get(loader) or {}).get('dataset') or {}
        while dataset.get('pipeline') is None and (
                inner := dataset.get('dataset') or _only(dataset.get('datasets'))):
            dataset = inner if isinstance(inner, Mapping) else {}
        if cfg.get(loader):
            return list(dataset.get('pipeline') or ())
    return []


def read_pipeline(pipeline) -> dict | None:
    """A test pipeline as arguments of ``Settings``; None where these cannot say it.

    It ends with a square of the whole picture, or of its middle: one of the forms in
    ``_square``, and nothing beside it.
    """
    pipeline = [{key: value for key, value in step.items() if key != '_scope_'}
                for step in pipeline]
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
