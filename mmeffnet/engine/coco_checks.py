"""Checks of the COCO data that detectors are trained on; knows mmdet by attributes."""
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.fileio import list_from_file
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from mmeffnet.engine.coco_content import FLAT, CocoContent, read_coco
from mmeffnet.engine.missing import not_there, refuse
from mmeffnet.errors import InputError
from mmeffnet.weights.translate import few

NAMED = 5  # names in a message


def check_annotations(dataset, loader: str, most_missing: int = 0) -> None:
    """Refuse a COCO data set that would train on something else than its config says.

    most_missing: pictures that may lack their file, or masks that are loaded. Raises InputError
    for classes that the annotation file does not have or has in another order, and for pictures
    and masks that are not there; warns of annotations whose category is no class of the config.
    """
    if not hasattr(dataset, 'cat_ids') or not Path(dataset.ann_file).is_file():
        return
    content = check_categories(dataset.ann_file, dataset.metainfo['classes'], loader,
                               dataset.cat_ids)
    _check_masks(dataset, content, loader, most_missing)
    _check_pictures(dataset, loader, most_missing)


def classes_of(dataset: dict) -> Sequence[str] | None:
    """The classes that the config of a COCO data set means, None for another kind."""
    kind = dataset['type']
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(None) as registry:  # of the project of this run
            kind = registry.get(kind)
    if not hasattr(kind, 'COCOAPI'):
        return None
    classes = (dataset.get('metainfo') or {}).get('classes') or kind.METAINFO.get('classes')
    if isinstance(classes, str) and Path(classes).is_file():  # as MMEngine reads them
        return tuple(list_from_file(classes))
    return classes


def check_categories(ann_file, classes: Sequence[str], loader: str,
                     cat_ids=None) -> CocoContent:
    """Refuse classes that the categories of a COCO file are not; InputError names both.

    So are annotations of which mmdet would use none; a warning tells of some that it leaves out.
    cat_ids: the categories that a data set numbers its labels by, None where it is not built yet.
    """
    if isinstance(classes, str):
        raise InputError(f'{loader}.dataset.metainfo.classes={classes!r} is a string and no file '
                         f'with a name in each line: write classes=({classes!r}, )')
    where, classes = repr(str(ann_file)), tuple(classes)
    content = read_coco(ann_file, loader)
    _check_names(content.categories, classes, loader, where, cat_ids)
    if content.panoptic:
        _check_segments(content, classes, loader, where, cat_ids is not None)
    wanted = {*classes}
    lost = Counter(item['category_id'] for item in content.objects
                   if content.categories.get(item['category_id']) not in wanted)
    if lost:
        names = (f'{content.categories.get(number, number)!r} ({count:,})'
                 for number, count in lost.most_common())
        print_log(f'{loader}: {sum(lost.values()):,} annotations in {where} are left out, for '
                  f'their category is no class of the data set: {few(names, NAMED)}', 'current',
                  level=logging.WARNING)
    _check_used(content, classes, loader, where)
    return content


def _check_names(categories: dict, classes: Sequence[str], loader: str, where: str,
                 cat_ids) -> None:
    """Refuse classes that are no categories, are several, or lie in another order."""
    times = Counter(categories.values())
    missing = [name for name in classes if name not in times]
    if missing:
        raise InputError(
            f'{loader}: {where} has no category {few(map(repr, missing), NAMED)}, which the '
            'classes of the data set name; its categories are '
            f'{few(map(repr, categories.values()), NAMED)}. Set {loader}.dataset.metainfo.classes '
            f'to them and num_classes of the heads to {len(categories)}')
    name = next((name for name in classes if times[name] > 1), None)
    if name is not None:
        ids = [repr(number) for number, other in categories.items() if other == name]
        raise InputError(f'{loader}: {where} has {len(ids)} categories with the name {name!r}, of '
                         f'id {few(ids, NAMED)}, and mmdet would count each as a class: give them '
                         'one id, or names of their own')
    ordered = classes if cat_ids is None else tuple(categories[number] for number in cat_ids)
    if ordered != classes:  # mmdet numbers by the file and names by the config
        raise InputError(
            f'{loader}: {where} has the categories in another order than the classes of the data '
            f'set, and boxes would get wrong names: put its categories into the order {classes!r} '
            '(annotations name their ids, and stay as they are), or set metainfo.classes='
            f'{ordered!r} for all data sets of the run')


def _check_segments(content: CocoContent, classes: Sequence[str], loader: str, where: str,
                    built: bool) -> None:
    """Refuse a segment whose category mmdet does not know: it ends in a KeyError there.

    built: whether mmdet has taken the file, so that any of its categories is known to it.
    """
    categories = content.categories
    known = {number for number, name in categories.items() if built or name in classes}
    for i, segment in enumerate(content.objects):
        number = segment['category_id']
        if number not in known:
            whose = (f'is {categories[number]!r}, no class of the data set' if number in categories
                     else 'is no category of the file')
            raise InputError(f'{loader}: {where}: {content.place(i)}.category_id={number!r} '
                             f'{whose}, and mmdet leaves no segment out: add it there, or take '
                             'the segment out')


def _check_used(content: CocoContent, classes: Sequence[str], loader: str, where: str) -> None:
    """Refuse a file of whose annotations mmdet uses none; warn of those that it leaves out."""
    counted = content.counted(classes)
    unused = {reason: np.flatnonzero(counted & found) for reason, found in content.unused().items()}
    unused = {reason: places for reason, places in unused.items() if len(places)}
    total, lost = int(counted.sum()), sum(map(len, unused.values()))
    told = [f'{reason} ({len(places):,}), such as {content.shown(places[0])}'
            for reason, places in unused.items()]
    # Scores are counted with such an area as with any other.
    if lost and lost == total and (loader == 'train_dataloader' or FLAT not in unused):
        raise InputError(f'{loader}: all {total:,} annotations of its classes in {where} are left '
                         f'out, for {", and ".join(told)}: a box is x, y, width and height in '
                         'pixels of the picture that image_id names')
    if lost:
        print_log(f'{loader}: {lost:,} annotations in {where} are left out, for {", ".join(told)}',
                  'current', level=logging.WARNING)


def _check_masks(dataset, content: CocoContent, loader: str, most_missing: int) -> None:
    """Refuse objects without a mask where the pipeline takes one from each."""
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    # Masks of panoptic data are in pictures of their own, which other steps load.
    if content.panoptic or not any(getattr(step, 'with_mask', False)
                                   and hasattr(step, '_load_masks') for step in steps):
        return
    used = {dataset.get_data_info(i).get('img_id') for i in range(len(dataset))}
    lacking = [i for i in np.flatnonzero(content.used(dataset.metainfo['classes']))
               if not content.objects[i].get('segmentation') and content.pictures[i] in used]
    if not lacking:
        return
    pictures = {content.pictures[i] for i in lacking}
    text = (f'{loader}: {len(lacking):,} annotations in {str(dataset.ann_file)!r} have no '
            f"'segmentation', and the pipeline loads masks: {few(map(content.place, lacking), 3)}")
    refuse(text, 'Add polygons, take these annotations out, or load no masks (with_mask=False)',
           loader, len(pictures), most_missing, 'pictures')


def _check_pictures(dataset, loader: str, most_missing: int) -> None:
    if getattr(dataset, 'backend_args', None):  # they are not on a disk here
        return
    infos = (dataset.get_data_info(i) for i in range(len(dataset)))
    # A sample of a video data set is a video, with its pictures inside.
    paths = [Path(picture['img_path']) for info in infos
             for picture in info.get('images', (info, ))]
    absent = not_there(paths)
    missing = [path for path in paths if path in absent]
    if not missing:
        return
    text = (f'{loader}: {len(missing):,} of {len(paths):,} pictures of '
            f'{str(dataset.ann_file)!r} are not there: '
            f'{few((repr(str(p)) for p in missing), NAMED)}')
    refuse(text, 'Bring them, or take them out of the file', loader, len(missing), most_missing,
           'pictures')
