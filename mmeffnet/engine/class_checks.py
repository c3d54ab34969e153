"""Names of classes: whether the labels of data sets and weights mean the same."""
import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from mmengine.logging import print_log
from torch import nn

from mmeffnet.engine.model_checks import OF_BOTH, OF_OBJECTS, OF_PIXELS
from mmeffnet.errors import InputError

# What detectors and segmenters predict classes with, and what tells a model whose classes are
# others with each data set: a retriever's, or words that it reads.
PREDICTORS = (*OF_OBJECTS, *OF_PIXELS, *OF_BOTH, 'roi_head')
FREE = ('image_encoder', 'language_model', 'text_encoder')


class _Names(NamedTuple):
    """What the labels of a data set are called, from 0 on; empty where nothing says it."""
    folders: tuple[str, ...]  # the labels are made of these
    classes: tuple[str, ...]  # these folders again, or names to show


def _names(dataset) -> _Names:
    folders = getattr(dataset, 'folder_to_idx', None) or {}
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()
    return _Names(tuple(sorted(folders, key=folders.get)), tuple(map(str, classes)))


def _first_difference(some: Sequence[str], others: Sequence[str]) -> int | None:
    """The first label that is called otherwise, None where all are called alike."""
    return next((i for i, (a, b) in enumerate(zip(some, others)) if a != b), None)


def check_names(dataset, num_classes: int, loader: str) -> None:
    """Refuse another number of classes than the model's, and names that belong to other folders.

    Raises InputError naming both numbers, or the first label that would be called otherwise.
    """
    names = _names(dataset)
    classes = names.classes or names.folders
    if classes and len(classes) != num_classes:
        raise InputError(
            f'{loader}: the data set has {len(classes)} classes and the model has '
            f'{num_classes}: set model.head.num_classes={len(classes)}')
    label = _first_difference(names.folders, classes)
    if label is not None and {*names.folders} == {*classes}:  # others are names to show
        raise InputError(
            f'{loader}: label {label} is folder {names.folders[label]!r} and would be called '
            f'{classes[label]!r}: folders are numbered in the order of their names, whatever '
            'metainfo.classes says; leave it out, or give it that order')


def check_mixing(model: nn.Module, hooks: Sequence, dataset) -> None:
    """Refuse labels that a classifier's data preprocessor cannot mix as images are mixed.

    hooks: of the run; mmpretrain's SwitchRecipeHook may bring augmentations of batches. dataset: of
    the training; its own scores are vectors already.
    Raises InputError naming the field, and both numbers of classes where they differ.
    """
    preprocessor, classes = getattr(model, 'data_preprocessor', None), classes_of_head(model)
    vectors = getattr(preprocessor, 'to_onehot', None)
    given = getattr(preprocessor, 'num_classes', None)
    # By name: what comes before a model is built imports no mmpretrain.
    switches = [hook for hook in hooks
                if any(kind.__name__ == 'SwitchRecipeHook' for kind in type(hook).__mro__)]
    later = [epoch for hook in switches for epoch, recipe in hook.schedule.items()
             if recipe.get('batch_augments')]
    scored = any('gt_score' in part.get_data_info(0) for part in parts_of(dataset)
                 if later and hasattr(part, 'get_data_info') and len(part))
    if later and vectors is False and not scored:
        raise InputError(f'custom_hooks: from epoch {later[0]} on SwitchRecipeHook would mix '
                         'images, and mixes none whose labels are numbers: set '
                         'data_preprocessor.to_onehot=True')
    if vectors and classes and given and given != classes:
        raise InputError(f'data_preprocessor.num_classes={given}, which labels are made vectors '
                         f'of, and the model has {classes}: set '
                         f'data_preprocessor.num_classes={classes}')


def check_same_classes(datasets: Mapping[str, object], model: nn.Module) -> None:
    """Refuse data sets of a model with classes where one name has different labels.

    datasets: by their dataloader. Names that differ otherwise may be other spellings: one line
    warns of them, but for names to show that have none in common with the folders or names of the
    other, as in another language.
    Another line warns where one of two data sets of segmentation leaves label 0 out.
    Raises InputError naming both dataloaders and the first label that is called otherwise.
    """
    found = [(loader, part) for loader, dataset in datasets.items()
             for part in parts_of(dataset)] if _has_classes(model) else []
    for (one, first), (other, second) in combinations(found, 2):
        _check_zero_label(one, first, other, second)
        some, others = _names(first), _names(second)
        by_folder = bool(some.folders and others.folders)
        if not by_folder and {*filter(None, some)} & {*filter(None, others)}:
            continue  # the names to show of one are the folders of the other
        a, b = (names.folders if by_folder else names.classes for names in (some, others))
        label, common = _first_difference(a, b), {*a} & {*b}
        if label is None or not (by_folder or common):
            continue
        text = (f'{other}.dataset: label {label} is {b[label]!r}, and it is {a[label]!r} in '
                f'{one}.dataset')
        if any(a.index(name) != b.index(name) for name in common):
            way = 'the class folders of both the same names' if by_folder else \
                'both the same metainfo.classes'
            if any(hasattr(part, 'cat_ids') for part in (first, second)):  # numbered by the file
                way += ", and the 'categories' of their annotation files this order"
            raise InputError(f'{text}, so that they mean different classes: give {way}')
        _warn(f'{text}: if these are different classes, scores mean nothing')


def _check_zero_label(one: str, first, other: str, second) -> None:
    """Data sets of one kind both leave label 0 out, or none does: it shifts all others.

    Unless their maps are numbered so, which nothing says; a test set may have none.
    """
    a, b = (getattr(part, 'reduce_zero_label', None) for part in (first, second))
    maps = all((getattr(part, 'data_prefix', None) or {}).get('seg_map_path')
               for part in (first, second))
    if type(first) is type(second) and maps and a != b:
        _warn(f'{other}.dataset.reduce_zero_label={b} and {one}.dataset has {a}: unless the maps '
              'of one are numbered from 1 and those of the other from 0, their labels mean '
              'different classes')


def warn_of_names(dataset, loader: str, model: nn.Module, trained: Sequence[str], source) -> None:
    """Warn where labels of a data set may mean other classes than the model was trained for.

    trained: the names that ``source``, its weights, has for them; empty for none. They may be names
    to show, so that nothing is refused.
    """
    for part in parts_of(dataset) if _has_classes(model) else ():
        known = [names for names in _names(part) if names]
        labels = [_first_difference(trained, names) for names in known]
        if known and None not in labels:
            names, label = known[0], labels[0]
            _warn(f'{loader}.dataset: label {label} is {names[label]!r}, and in {str(source)!r} it '
                  f'is {trained[label]!r}: if these are different classes, scores mean nothing')
            return


def _warn(text: str) -> None:
    print_log(text, 'current', level=logging.WARNING)


def classes_of_head(model) -> int | None:
    """The number of classes of a classifier, None for other models.

    So it is for retrievers: they are trained on some classes and tested on others.
    """
    if hasattr(model, 'image_encoder'):
        return None
    found = getattr(getattr(model, 'head', None), 'num_classes', None)
    return found if isinstance(found, int) else None


def _has_classes(model) -> bool:
    """Whether labels mean the classes that a model was trained for, whatever it predicts."""
    if any(hasattr(model, name) for name in FREE):
        return False
    # mmdet's RPN has its rpn_head among them, which tells objects from background alone.
    proposes = any(kind.__name__ == 'RPN' for kind in type(model).__mro__)
    return classes_of_head(model) is not None or not proposes and any(
        hasattr(model, name) for name in PREDICTORS)


def parts_of(dataset) -> Iterator:
    """The data sets inside wrappers."""
    if hasattr(dataset, 'datasets'):
        for child in dataset.datasets:
            yield from parts_of(child)
    elif hasattr(dataset, 'dataset'):
        yield from parts_of(dataset.dataset)
    else:
        yield dataset
