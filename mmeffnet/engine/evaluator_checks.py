"""Checks of evaluators before the first step: a wrong one would surface after the first epoch."""
import traceback
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import METRICS
from torch import nn

from mmeffnet.arch import nearest
from mmeffnet.engine.class_checks import parts_of
from mmeffnet.engine.coco_content import read_coco
from mmeffnet.engine.model_checks import check_windows, predicts_boxes_alone
from mmeffnet.errors import InputError
from mmeffnet.weights.translate import few

NAMED = 3  # pictures in a message
# Values that a metric takes without a look, by its class: the argument and what it knows.
KNOWN = {'IoUMetric': ('iou_metrics', ('mIoU', 'mDice', 'mFscore'))}


def check_evaluator(cfg: Config, stage: str, evaluator, dataset, model: nn.Module) -> None:
    """Refuse a COCO metric whose annotations are of other pictures than it will see, or lack
    what it counts with, and one that counts what the model does not predict. Other metrics are
    left alone.

    Raises InputError naming both files, the annotation or the field.
    """
    check_windows(model)
    for field, settings, metric in _metrics(cfg, stage, getattr(evaluator, 'metrics', ())):
        # mmdet's hold their file by pycocotools, or by the library of LVIS.
        coco, lvis = (getattr(metric, name, None) for name in ('_coco_api', '_lvis_api'))
        api, wanted = coco or lvis, getattr(metric, 'metrics', ())
        if type(metric).__name__ in KNOWN:  # a class that is derived from it may know more
            argument, known = KNOWN[type(metric).__name__]
            _check_known(f'{field}.{argument}', wanted, known)
        masks = hasattr(metric, 'proposal_nums') and 'segm' in wanted
        if masks and predicts_boxes_alone(model):
            raise InputError(f"{field}.metric has 'segm', which compares masks, and "
                             f"{type(model).__name__} predicts boxes alone: set {field}.metric="
                             "'bbox', or take a model with a mask_head")
        if api is None or not hasattr(metric, 'format_only'):
            continue
        where = f'{field}.ann_file: {str(settings.get("ann_file") or type(metric).__name__)!r}'
        _check_same_pictures(api, settings.get('ann_file'), field, dataset, f'{stage}_dataloader')
        if metric.format_only:  # nothing is compared with the annotations
            continue
        annotations = api.dataset.get('annotations') or ()
        counted = _of_classes(annotations, api, dataset)
        if not annotations:
            raise InputError(f'{where} has no annotations, and every score would be -1: name a '
                             f'file that has them, or set {field}.format_only=True with an '
                             'outfile_prefix to write the predictions alone')
        if coco:
            _check_key('iscrowd', counted, where, 'add it, 0 for a single object')
        if masks:
            _check_key('segmentation', counted, where, 'add its polygons')


def evaluator_problem(cfg: Config, stage: str, error: Exception) -> str | None:
    """The field of an evaluator that could not be built, and what is wrong with its file.

    None where the error comes from elsewhere, and '' where no file is to blame.
    """
    frames = traceback.walk_tb(error.__traceback__)
    if not any(frame.f_code.co_name == 'build_evaluator' for frame, _ in frames):
        return None
    for field, settings, _ in _metrics(cfg, stage):
        path, kind = settings.get('ann_file'), settings.get('type')
        if not isinstance(path, str) or '://' in path or settings.get('backend_args'):
            continue
        if not Path(path).is_file():
            return f'{field}.ann_file: {path!r} does not exist'
        if isinstance(kind, str):
            with METRICS.switch_scope_and_registry(None) as registry:  # of this run's project
                kind = registry.get(kind)
        if hasattr(kind, 'gt_to_coco_json'):
            read_coco(path, f'{field}.ann_file')
    return ''


def _metrics(cfg: Config, stage: str, built: Sequence | None = None) -> Iterator[tuple]:
    """Field, config and object of each metric of an evaluator; no objects before it is built."""
    field, given = f'{stage}_evaluator', cfg.get(f'{stage}_evaluator')
    if isinstance(given, Mapping) and 'metrics' in given:
        field, given = f'{field}.metrics', given['metrics']
    if isinstance(given, (list, tuple)):
        fields = [(f'{field}.{i}', settings) for i, settings in enumerate(given)]
    else:
        fields = [(field, given)]
    for (name, settings), metric in zip(fields, [None] * len(fields) if built is None else built):
        yield name, settings if isinstance(settings, Mapping) else {}, metric


def _check_known(field: str, given, known: Sequence[str]) -> None:
    for value in given if isinstance(given, (list, tuple)) else [given]:
        if value not in known:
            raise InputError(f'{field} has {value!r}, which is none of '
                             f'{", ".join(map(repr, known))}{nearest(value, known)}')


def _check_same_pictures(api, ann_file, field: str, dataset, loader: str) -> None:
    """Refuse a file whose pictures are neither those of one data set nor those of all."""
    parts = [part for part in parts_of(dataset)
             if hasattr(part, 'cat_ids') and Path(part.ann_file).is_file()]
    files = [part.ann_file for part in parts]
    if not files or (ann_file and Path(ann_file).resolve() in {
            Path(path).resolve() for path in files}):
        return
    seen = [_pictures(read_coco(path, loader).images) for path in files]
    own = _pictures(api.imgs.values())
    # A data set may be cut by its indices, and the file with it.
    infos = (part.get_data_info(i) for part in parts for i in range(len(part)))
    cut = {(info.get('img_id'), Path(info.get('img_path', '')).stem) for info in infos}
    if own in (*seen, cut) or own == set().union(*seen):
        return
    others = set().union(*seen)
    only = [f'{len(some):,} only in {name}, such as ' + few(
        (f'{picture!r} (id {number!r})' for number, picture in sorted(some, key=str)), NAMED)
        for name, some in (('the first', own - others), ('the second', others - own)) if some]
    raise InputError(
        f'{field}.ann_file {str(ann_file or "")!r} is not of the images of {loader}.dataset.'
        f'ann_file {str(files[0])!r}, and scores would be wrong: {len(own):,} images against '
        f'{len(others):,}, of which {" and ".join(only)}. Set {field}.ann_file={str(files[0])!r}')


def _pictures(images) -> set[tuple]:
    """Number and name of pictures; folders and suffixes are written in several ways."""
    names = (str(image.get('file_name') or image.get('coco_url') or '') for image in images)
    return {(image['id'], name.rpartition('/')[2].rpartition('.')[0])
            for image, name in zip(images, names)}


def _of_classes(annotations: Sequence[dict], api, dataset) -> list[tuple[int, dict]]:
    """The annotations that are counted, with their numbers: others may lack anything."""
    classes = {name for part in parts_of(dataset)
               for name in (getattr(part, 'metainfo', None) or {}).get('classes') or ()}
    numbers = {item['id'] for item in api.dataset.get('categories') or ()
               if not classes or item.get('name') in classes}
    return [(i, item) for i, item in enumerate(annotations)
            if 'segments_info' in item or item.get('category_id') in numbers]


def _check_key(key: str, annotations: Sequence[tuple[int, dict]], where: str, way_out: str
               ) -> None:
    """Refuse the first annotation, or segment of panoptic data, without a key."""
    lacking = chain.from_iterable(
        (f'annotations[{i}]{inner}' for inner, entry in _entries(item) if key not in entry)
        for i, item in annotations)
    place = next(lacking, None)
    if place:
        raise InputError(f'{where}: {place} has no {key!r}, which is needed to evaluate: '
                         f'{way_out}')


def _entries(annotation: dict) -> Iterator[tuple[str, dict]]:
    if 'segments_info' not in annotation:
        return iter([('', annotation)])
    return ((f'.segments_info[{k}]', segment)
            for k, segment in enumerate(annotation['segments_info']))
