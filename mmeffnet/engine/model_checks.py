"""Checks of detectors and segmenters; knows mmdet and mmseg by attributes."""
from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from mmeffnet.errors import InputError

# Parts that predict the class of an object, and of a pixel.
OF_OBJECTS = ('bbox_head', 'mask_head', 'track_head')
OF_PIXELS = ('decode_head', 'auxiliary_head')
# Those that count things and stuff apart.
OF_BOTH = ('panoptic_head', 'panoptic_fusion_head', 'semantic_head')
# mmdet's detectors that predict boxes, where none of their parts is of masks.
OF_BOXES = ('SingleStageDetector', 'TwoStageDetector', 'DetectionTransformer')


def check_predictors(dataset, model: nn.Module, loader: str) -> None:
    """Refuse another number of classes in a head than in the data set; InputError names both."""
    metainfo = getattr(dataset, 'metainfo', None) or {}
    classes = metainfo.get('classes')
    if not classes or isinstance(classes, str):
        return
    # Of panoptic data, objects are the things alone.
    things = metainfo.get('thing_classes')
    kinds = [(OF_PIXELS, classes, 'classes')]
    if not things:
        kinds.append((OF_OBJECTS, classes, 'classes'))
    elif set(things) <= set(classes):
        kinds.append((OF_OBJECTS, things, 'classes of things'))
    else:  # a config's own classes stand beside COCO's things
        things = None
    _check_panoptic(model, len(classes), len(things or ()), loader)
    for names, known, words in kinds:
        for field, number in _class_numbers(model, names):
            if number != len(known):
                raise InputError(f'{loader}: the data set has {len(known)} {words} and the model '
                                 f'has {number}: set {field}.num_classes={len(known)}')


def _check_panoptic(model: nn.Module, classes: int, things: int, loader: str) -> None:
    """Things and stuff are counted each; where the data set has no things, both together."""
    for name in OF_BOTH:
        head = getattr(model, name, None)
        numbers = [getattr(head, f'num_{kind}_classes', None) for kind in ('things', 'stuff')]
        if None in numbers:
            continue
        if things:
            fits = numbers == [things, classes - things]
            words, right = (f'{things} classes of things and {classes - things} of stuff',
                            f'{things} and {classes - things}')
        else:
            fits = sum(numbers) == classes
            words, right = f'{classes} classes', f'numbers that add up to {classes}'
        if not fits:
            raise InputError(
                f'{loader}: the data set has {words} and the model has {numbers[0]} of things and '
                f'{numbers[1]} of stuff: set model.{name}.num_things_classes and num_stuff_classes '
                f'to {right}')


def _class_numbers(model: nn.Module, names: Sequence[str]) -> Iterator[tuple[str, int]]:
    # mmdet's RPN has its rpn_head there, which tells objects from background and no classes.
    if any(kind.__name__ == 'RPN' for kind in type(model).__mro__):
        return
    for owner, path in ((model, 'model'), (getattr(model, 'roi_head', None), 'model.roi_head')):
        for name in names:
            heads = getattr(owner, name, None)
            several = isinstance(heads, nn.ModuleList)
            for i, head in enumerate(heads if several else [heads]):
                number = getattr(head, 'num_classes', None)
                # The classes of mmseg's STDCHead are edge and no edge.
                if isinstance(number, int) and not hasattr(head, 'boundary_threshold'):
                    yield f'{path}.{name}' + (f'.{i}' if several else ''), number


def predicts_boxes_alone(model: nn.Module) -> bool:
    """Whether a model is known to give boxes and no masks; False where it may give both."""
    kinds = {kind.__name__ for kind in type(model).__mro__}
    parts = (f'{name} {type(part).__name__}'.lower() for name, part in model.named_modules())
    return not kinds.isdisjoint(OF_BOXES) and not any('mask' in part for part in parts)


def check_windows(model: nn.Module) -> None:
    """Refuse a segmenter that is to slide a window whose size or stride it does not know.

    Raises InputError naming the field.
    """
    settings = getattr(model, 'test_cfg', None)
    if not hasattr(model, 'decode_head') or not isinstance(settings, Mapping):
        return
    for key in ('crop_size', 'stride'):
        if settings.get('mode') in ('slide', 'slide_flip') and settings.get(key) is None:
            raise InputError(f"model.test_cfg.mode={settings['mode']!r} slides a window and "
                             f'model.test_cfg.{key} is missing: set it to height and width, as in '
                             f"model.test_cfg.{key}=(512, 512), or set mode='whole'")
