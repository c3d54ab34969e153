"""A config that trains a scaled network, inheriting one of ours."""
from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mmeffnet.analysis.complexity import complexity
from mmeffnet.analysis.other_network import check_parts, with_weights
from mmeffnet.analysis.resizing import TEST, TRAIN, VAL, resized
from mmeffnet.engine.adjust import accumulated
from mmeffnet.engine.config import load_config
from mmeffnet.errors import InputError
from mmeffnet.features import resolve_arch
from mmeffnet.files import whole
from mmeffnet.plugin import MIM
from mmeffnet.scaling import ModelScaling
from mmeffnet.variants import DROP_PATH_RATE, EDGE, LITE, MBCONV, VARIANTS, Variant

# What is inherited unless something else is asked for: the recipe of the reference code.
BASES = {MBCONV: 'efficientnet/efficientnet-b0_8xb256-paper_in1k.py',
         EDGE: 'efficientnet_edgetpu/efficientnet-es_8xb256-paper_in1k.py',
         LITE: 'efficientnet_lite/efficientnet-lite0_8xb256-paper_in1k.py'}


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
    each device, classes: of the data, None for those of the base. devices: how many train.
    """
    arch: str
    scaling: ModelScaling | None
    resolution: int
    dropout: float
    head: int
    base: str
    batch: int | None = None
    classes: int | None = None
    devices: int = 8


def write(recipe: Recipe, path: Path) -> list[str]:
    """Write the config to ``path``, whole or not at all; InputError for a base that won't do.

    Gives what is to be known of it, a line each. A file that the base is read from is kept.
    """
    cfg = base_config(recipe.base)
    check_parts(cfg, f'--base {recipe.base!r}')
    if _is_read(path, cfg):
        raise InputError(f'--out {str(path)!r} is --base {recipe.base!r} or a file that it '
                         'inherits: name another')
    dropped = _for_other_weights(recipe, cfg)
    title = (f'# {recipe.arch} scaled: written by tools/scale.py. Not trained by whoever wrote it.'
             if recipe.scaling else f'# {recipe.arch}: written by tools/scale.py.')
    lines = [title, f'_base_ = {_reference(recipe.base, path.parent)!r}', '',
             *_model(recipe, cfg, dropped), *_data(recipe, cfg), *_schedule(recipe, cfg)]
    if 'load_from' in dropped:
        lines.append('load_from = None')
    text = '\n'.join([*lines, ''])
    _read_back(text, path.parent, recipe.base)
    with whole(path) as part:
        part.write_text(text, encoding='utf-8')
    return list(_notes(recipe, cfg, dropped))


def _is_read(path: Path, cfg) -> bool:
    """Whether ``path`` is a file that ``cfg`` was read from, under whatever name."""
    # MMEngine heads the text of each file with its path.
    files = (line for line in cfg.text.splitlines() if os.path.isabs(line))
    return path.exists() and any(os.path.isfile(file) and path.samefile(file) for file in files)


def _read_back(text: str, folder: Path, base: str) -> None:
    """InputError for a text that is no config in ``folder``, before it replaces one."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile('w', dir=folder, suffix='.py', encoding='utf-8') as file:
        file.write(text)
        file.flush()
        try:
            load_config(file.name)
        except InputError as error:
            raise InputError(f'--base {base!r}: what would inherit it cannot be read, and is not '
                             f'written ({error})') from error


def base_config(base: str):
    """The config ``base``: the name of a shipped one, or a path."""
    return load_config(str(MIM / 'configs' / base) if _is_shipped(base) else base)


def _is_shipped(base: str) -> bool:
    """Whether ``base`` is a name of ours; absolute paths and ``..`` lead out of our folder."""
    path = Path(base)
    return (not path.is_absolute() and '..' not in path.parts
            and (MIM / 'configs' / path).is_file())


def _for_other_weights(recipe: Recipe, cfg) -> dict[str, int | None]:
    """What of the base goes with weights of another network, and what is written in its place."""
    backbone = cfg.model.backbone
    try:
        if resolve_arch(backbone.get('arch', 'b0'), backbone.get('scaling')) == resolve_arch(
                recipe.arch, recipe.scaling):
            return {}
    except ValueError as error:
        raise InputError(f'--base {recipe.base!r}: {error}') from error
    return with_weights(cfg)


def _notes(recipe: Recipe, cfg, dropped) -> Iterator[str]:
    if dropped:
        yield (f'not inherited: {", ".join(dropped)}; the weights that {recipe.base} is for are '
               'those of another network')
    if recipe.classes not in (None, cfg.model.head.num_classes):
        yield (f'{recipe.base} is for {cfg.model.head.num_classes} classes: name data sets of '
               f'{recipe.classes} in the config before training')
    if cfg.get('test_dataloader') and TEST not in resized(cfg, recipe.base, recipe.resolution):
        yield (f'the test set of {recipe.base} is inherited as it is: no transform of {TEST} sets '
               'a size')


def _model(recipe: Recipe, cfg, dropped) -> list[str]:
    """Backbone and head, and the classes wherever the base has them."""
    scaling = recipe.scaling and (
        f"dict(\n            {'_delete_=True, ' if 'scaling' in cfg.model.backbone else ''}"
        f"type='mmeffnet.ModelScaling', width={recipe.scaling.width!r}, "
        f'depth={recipe.scaling.depth!r},\n            resolution={recipe.resolution})')
    classes = recipe.classes or cfg.model.head.num_classes
    lines = [
        'model = dict(',
        *_instead(dropped, 'model'),
        '    backbone=dict(',
        *_instead(dropped, 'model.backbone'),
        f'        arch={recipe.arch!r}, drop_path_rate={DROP_PATH_RATE}, scaling={scaling}),',
        '    head=dict(',
        *_instead(dropped, 'model.head'),
        f'        in_channels={recipe.head}, dropout={recipe.dropout}, num_classes={classes}))']
    if 'num_classes' in (cfg.model.get('data_preprocessor') or {}):
        lines.insert(1, f'    data_preprocessor=dict(num_classes={classes}),')
    if 'num_classes' in (cfg.get('data_preprocessor') or {}):
        lines.append(f'data_preprocessor = dict(num_classes={classes})')
    return lines


def _instead(dropped, part: str) -> Iterator[str]:
    """What is written in the arguments of ``part`` for those of the base, a line each."""
    for place, value in dropped.items():
        owner, _, name = place.rpartition('.')
        if owner == part:
            yield f'{"    " * len(part.split("."))}{name}={value},'


def _data(recipe: Recipe, cfg) -> list[str]:
    """Pipelines, and what else holds transforms, for the images of the network."""
    rows = {place: _lines(found)
            for place, found in resized(cfg, recipe.base, recipe.resolution).items()}
    val, test = rows.pop(VAL), rows.pop(TEST, None)
    lines = [
        f'train_pipeline = {rows.pop(TRAIN)}', f'test_pipeline = {val}',
        f'train_dataloader = dict(batch_size={_batch(recipe, cfg)}, '
        'dataset=dict(pipeline=train_pipeline))',
        'val_dataloader = dict(dataset=dict(pipeline=test_pipeline))']
    if test:  # a base may have no test set, or one of another form, which is inherited as it is
        lines.append('test_dataloader = val_dataloader' if test == val else
                     f'test_dataloader = dict(dataset=dict(pipeline={test}))')
    return [*lines, *(f'{place} = {found}' for place, found in rows.items())]


def _schedule(recipe: Recipe, cfg) -> list[str]:
    """The base's learning rate, in proportion to the images of a step, all passes counted."""
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    images = (cfg.get('auto_scale_lr') or {}).get('base_batch_size')
    if not optimizer.get('lr') or not images:
        raise InputError(f'--base {recipe.base!r}: it has no optim_wrapper.optimizer.lr with '
                         'auto_scale_lr.base_batch_size, so no learning rate can be set')
    total = _batch(recipe, cfg) * recipe.devices * accumulated(cfg)
    rate = float(f'{optimizer["lr"] * total / images:.6g}')
    return [f'optim_wrapper = dict(optimizer=dict(lr={rate!r}))  # for {total} images a step',
            f'auto_scale_lr = dict(base_batch_size={total})']


def _batch(recipe: Recipe, cfg) -> int:
    return recipe.batch or cfg.train_dataloader.batch_size


def _lines(rows) -> str:
    """A list of dicts as Python, one a line."""
    inside = ''.join(
        f'    dict({", ".join(f"{name}={value!r}" for name, value in row.items())}),\n'
        for row in rows)
    return f'[\n{inside}]'


def _reference(base: str, folder: Path) -> str:
    """How a config in ``folder`` names its base: by the package, or by a path from there."""
    if _is_shipped(base):
        return f'mmeffnet::{base}'
    return os.path.relpath(base, folder)
