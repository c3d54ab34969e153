"""A config that trains a scaled network, inheriting one of ours."""
from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from mmeffnet.analysis.complexity import complexity
from mmeffnet.engine.config import load_config
from mmeffnet.errors import InputError
from mmeffnet.files import whole
from mmeffnet.plugin import MIM
from mmeffnet.scaling import ModelScaling
from mmeffnet.variants import DROP_PATH_RATE, EDGE, LITE, MBCONV, VARIANTS, Variant

# What is inherited unless something else is asked for: the recipe of the reference code.
BASES = {MBCONV: 'efficientnet/efficientnet-b0_8xb256-paper_in1k.py',
         EDGE: 'efficientnet_edgetpu/efficientnet-es_8xb256-paper_in1k.py',
         LITE: 'efficientnet_lite/efficientnet-lite0_8xb256-paper_in1k.py'}
# Transforms that know the size of their output, and the argument that says it.
SIZED = {'mmeffnet.LoadRandomCrop': 'scale', 'mmeffnet.LoadEncodedRandomCrop': 'scale',
         'EfficientNetRandomCrop': 'scale', 'RandomResizedCrop': 'scale', 'Resize': 'scale',
         'ResizeEdge': 'scale', 'EfficientNetCenterCrop': 'crop_size', 'CenterCrop': 'crop_size',
         'RandomCrop': 'crop_size'}


def dropout(family: Variant, multiply_adds: int) -> float:
    """Dropout before the classifier, between those of the family's published members.

    Straight lines over the logarithm of the multiply-adds; beyond the ends, the end's. (The
    drop path rate needs no line: all members were trained with 0.2.)
    """
    known = sorted((math.log(complexity(name).multiply_adds), variant.dropout)
                   for name, variant in VARIANTS.items() if variant.family == family.family)
    place = math.log(multiply_adds)
    for (left, low), (right, high) in zip(known, known[1:]):
        if left <= place <= right:
            return round(low + (high - low) * (place - left) / (right - left), 3)
    return known[0][1] if place < known[0][0] else known[-1][1]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a written config says beside the data.

    arch: a name of VARIANTS. scaling: None where ``arch`` is scaled already. batch: images on
    each device, None for those of the base. devices: None for those of the base's name.
    """
    arch: str
    scaling: ModelScaling | None
    resolution: int
    dropout: float
    head: int
    base: str
    batch: int | None = None
    devices: int = 8


def write(recipe: Recipe, path: Path) -> None:
    """Write the config to ``path``, whole or not at all; InputError for a base that won't do."""
    text = text_of(recipe, path.parent)
    with whole(path) as part:
        part.write_text(text)


def base_config(base: str):
    """The config ``base``: the name of a shipped one, or a path."""
    shipped = MIM / 'configs' / base
    return load_config(str(shipped if shipped.is_file() else base))


def text_of(recipe: Recipe, folder: Path) -> str:
    """The lines of the config, as they lie in ``folder``."""
    cfg = base_config(recipe.base)
    backbone = (cfg.get('model') or {}).get('backbone') or {}
    if backbone.get('type') != 'mmeffnet.EfficientNet':
        raise InputError(f'--base {recipe.base!r}: its backbone is {backbone.get("type")!r}, and '
                         "only 'mmeffnet.EfficientNet' is scaled here")
    batch = recipe.batch or cfg.train_dataloader.batch_size
    total = batch * recipe.devices
    rate = _learning_rate(cfg, recipe.base, total)
    pipelines = {part: cfg[f'{part}_dataloader'].dataset.pipeline for part in ('train', 'val')}
    side = _side(pipelines['val'], recipe.base)
    train, test = (_lines(pipelines[part], recipe.resolution / side) for part in pipelines)
    scaling = recipe.scaling and (
        f"dict(\n            type='mmeffnet.ModelScaling', width={recipe.scaling.width!r}, "
        f'depth={recipe.scaling.depth!r},\n            resolution={recipe.resolution})')
    lines = [
        f'# {recipe.arch} scaled: written by tools/scale.py. Not trained by whoever wrote it.'
        if scaling else f'# {recipe.arch}: written by tools/scale.py.',
        f'_base_ = {_reference(recipe.base, folder)!r}', '',
        'model = dict(',
        f'    backbone=dict(arch={recipe.arch!r}, drop_path_rate={DROP_PATH_RATE}'
        + (f', scaling={scaling}),' if scaling else '),'),
        f'    head=dict(in_channels={recipe.head}, dropout={recipe.dropout}))',
        f'train_pipeline = {train}', f'test_pipeline = {test}',
        f'train_dataloader = dict(batch_size={batch}, dataset=dict(pipeline=train_pipeline))',
        'val_dataloader = dict(dataset=dict(pipeline=test_pipeline))',
        'test_dataloader = val_dataloader',
        f'optim_wrapper = dict(optimizer=dict(lr={rate!r}))  # for {total} images a step',
        f'auto_scale_lr = dict(base_batch_size={total})', '']
    return '\n'.join(lines)


def _learning_rate(cfg, base: str, total: int) -> float:
    """The base's learning rate, in proportion to the images of a step."""
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    images = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    if not optimizer.get('lr') or not images:
        raise InputError(f'--base {base!r}: it has no optim_wrapper.optimizer.lr with '
                         'auto_scale_lr.base_batch_size, so no learning rate can be set')
    return float(f'{optimizer["lr"] * total / images:.6g}')


def _side(pipeline, base: str) -> int:
    """What the last transform that sets a size makes of an image, in pixels."""
    sizes = [t[SIZED[t['type']]] for t in pipeline if t['type'] in SIZED]
    if not sizes:
        raise InputError(f'--base {base!r}: no transform of its validation sets a size; known are '
                         f'{", ".join(SIZED)}')
    return sizes[-1] if isinstance(sizes[-1], int) else sizes[-1][0]


def _lines(pipeline, factor: float) -> str:
    """A pipeline with its sizes scaled, as Python."""
    rows = []
    for transform in pipeline:
        row = dict(transform)
        key = SIZED.get(row['type'])
        if key:
            row[key] = (round(row[key] * factor) if isinstance(row[key], int)
                        else tuple(round(value * factor) for value in row[key]))
        rows.append(f'    dict({", ".join(f"{k}={_python(v)}" for k, v in row.items())}),\n')
    return f'[\n{"".join(rows)}]'


def _python(value) -> str:
    return repr(value.to_dict() if hasattr(value, 'to_dict') else value)


def _reference(base: str, folder: Path) -> str:
    """How a config in ``folder`` names its base: by the package, or by a path from there."""
    if (MIM / 'configs' / base).is_file():
        return f'mmeffnet::{base}'
    return os.path.relpath(base, folder)
