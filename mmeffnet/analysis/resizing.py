"""The transforms of a config for images of another size, wherever they are."""
from __future__ import annotations

from collections.abc import Iterator, Mapping

from mmeffnet.errors import InputError
from mmeffnet.weights.data import bare

# Transforms that know the size of their output, and the argument that says it.
SIZED = {'LoadRandomCrop': 'scale', 'LoadEncodedRandomCrop': 'scale',
         'EfficientNetRandomCrop': 'scale', 'RandomResizedCrop': 'scale', 'Resize': 'scale',
         'ResizeEdge': 'scale', 'EfficientNetCenterCrop': 'crop_size', 'CenterCrop': 'crop_size',
         'RandomCrop': 'crop_size'}
TRAIN, VAL, TEST = (f'{part}_dataloader.dataset.pipeline' for part in ('train', 'val', 'test'))
# Where transforms may be besides: hooks that exchange pipelines, test-time augmentation.
BESIDE = ('custom_hooks', 'tta_pipeline')


def resized(cfg, base: str, resolution: int) -> dict[str, list]:
    """By their place in the config ``base``: pipelines, and lists that hold some.

    All sizes grow as the last one of the validation has to for images of ``resolution`` pixels.
    Raises InputError where training or validation sets no size; a test may do without.
    """
    needed = TRAIN, VAL
    places = {place: _at(cfg, place) for place in (*needed, TEST, *BESIDE)}
    sizes = {place: list(_sizes(node)) for place, node in places.items()}
    for place in needed:
        if not sizes[place]:
            raise InputError(f'config {base!r}: no transform of {place} sets a size; known are '
                             f'{", ".join(SIZED)}')
    side = sizes[VAL][-1]
    factor = resolution / (side if isinstance(side, int) else side[0])
    return {place: _scaled(node, factor) for place, node in places.items() if sizes[place]}


def _at(cfg, place: str):
    for name in place.split('.'):
        cfg = (cfg or {}).get(name)
    return cfg


def _size_key(node) -> str | None:
    """The argument of a transform that says the size of its output; None of anything else."""
    key = SIZED.get(bare(node.get('type'))) if isinstance(node, Mapping) else None
    return key if key and node.get(key) else None


def _sizes(node) -> Iterator[int | tuple[int, int]]:
    """The sizes in transforms and in what holds them, in their order."""
    if key := _size_key(node):
        yield node[key]
    parts = node.values() if isinstance(node, Mapping) else node
    for part in parts if isinstance(node, (Mapping, list, tuple)) else ():
        yield from _sizes(part)


def _scaled(node, factor: float):
    """Transforms, and what holds them, with their sizes times ``factor``."""
    if isinstance(node, (list, tuple)):
        return type(node)(_scaled(part, factor) for part in node)
    if not isinstance(node, Mapping):
        return node
    row = {name: _scaled(value, factor) for name, value in node.items()}
    if key := _size_key(node):
        row[key] = (round(row[key] * factor) if isinstance(row[key], int)
                    else tuple(round(side * factor) for side in row[key]))
    return row
