"""Checks of the data before the first step, where a mistake would surface hours later."""
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from mmeffnet.engine.class_checks import check_names, classes_of_head, parts_of
from mmeffnet.engine.coco_checks import check_annotations, check_categories, classes_of
from mmeffnet.engine.config import explain
from mmeffnet.engine.evaluator_checks import evaluator_problem
from mmeffnet.engine.model_checks import check_predictors
from mmeffnet.engine.seg_maps import check_files
from mmeffnet.errors import InputError
from mmeffnet.weights.data import dataset_configs
from mmeffnet.weights.files import expanded

LAYOUTS = {
    'ImageNet': 'expected there: train/<class>/*.JPEG and val/<class>/*.JPEG, a folder for '
                'each of the 1000 classes such as n01440764, or train/ and val/ with '
                'meta/train.txt and meta/val.txt of lines "file label"; set data_root, or '
                'IMAGENET in the environment',
    'CustomDataset': 'expected there: a folder of images for each class, or an ann_file of '
                     'lines "file label"',
}
# How Python says that a call lacks an argument or has one too many.
ARGUMENT = re.compile('(keyword|positional) argument')
# What MMEngine says where nothing is left of a data set; numpy's words, of packing.
NO_SAMPLE = 'need at least one array to concatenate'
# Python's words for a line of a list that is no name and number.
NO_LINE = 'not enough values to unpack', 'invalid literal for int()'


def data_problem(cfg: Config, loader: str) -> str | None:
    """What is wrong with the files that a dataloader of the config names, None for nothing.

    To be asked when a data set could not be built: some download what they need, so that
    a missing folder alone is no mistake. Raises InputError for classes that are no categories.
    """
    for field, dataset in dataset_configs(cfg, loader):
        for name, path, exists in _paths(dataset):
            if not exists(path):
                layout = LAYOUTS.get(_type(dataset), '')
                return (f'{field}.{name}: {str(path)!r} does not exist'
                        + (f'; {layout}' if layout else ''))
            classes = classes_of(dataset) if name == 'ann_file' else None
            if classes:
                check_categories(path, classes, loader)
        folder = class_folder(dataset)
        hidden = folder and [path for path in sorted(folder.glob('.*')) if path.is_dir()]
        if hidden:
            return _hidden_message(hidden[0])
    return None


def _wrong_line(dataset: dict) -> str:
    """The first line of a data set's list that is no name and label, for a message; or nothing."""
    if _type(dataset) not in LAYOUTS or not dataset.get('with_label', True):
        return ''
    listed = list_and_folder(dataset)
    path = listed[0] if listed else _split_list(dataset)
    if path is None or not path.is_file():
        return ''
    with path.open(errors='replace') as lines:
        for number, line in enumerate(lines, start=1):
            try:  # as mmpretrain reads it
                _, label = line.strip().rsplit(' ', 1)
                int(label)
            except ValueError:
                return (f'line {number} of {str(path)!r} is {line.strip()!r}, and a file, a space '
                        'and the number of a class are due; repair or remove it')
    return ''


def build_problem(error: Exception, cfg: Config, stage: str) -> str:
    """What is wrong where the data set or the evaluator of a loop could not be built.

    stage: 'train', 'val' or 'test'. Raises InputError as ``data_problem`` does.
    """
    text, loader = explain(error, cfg), f'{stage}_dataloader'
    problem = evaluator_problem(cfg, stage, error)
    if problem is not None:
        return problem or f'{stage}_evaluator: {text}'
    if NO_SAMPLE in str(error):
        text = _where_to_look(cfg, loader)
    if any(words in str(error) for words in NO_LINE):
        text = next(filter(None, (_wrong_line(dataset) for _, dataset in dataset_configs(
            cfg, loader))), text)
    # A key that is not known, or one too few: no file is to blame for it.
    by_config = isinstance(error, TypeError) and ARGUMENT.search(str(error))
    return ((None if by_config else data_problem(cfg, loader))
            or f'{loader}{_data_source(cfg, loader)}: {text}')


def _where_to_look(cfg: Config, loader: str) -> str:
    """What may have left no sample of a dataloader's data set."""
    for field, dataset in dataset_configs(cfg, loader):
        prefix = dataset.get('data_prefix')
        if isinstance(prefix, dict) and 'seg_map_path' in prefix:  # mmseg lists what it reads
            folder = Path(dataset.get('data_root') or '', prefix.get('img_path') or '')
            suffix = f'={dataset["img_suffix"]!r}' if 'img_suffix' in dataset else ''
            return (f'no picture is left; look at {field}.img_suffix{suffix} and '
                    f'data_prefix.img_path, which is {str(folder)!r}')
    return 'no sample is left; look at its filter_cfg, indices and classes'


def _data_source(cfg: Config, loader: str) -> str:
    """The annotation files that a dataloader reads, for a message; empty where there are none."""
    files = [str(path) for _, dataset in dataset_configs(cfg, loader)
             for name, path, _ in _paths(dataset) if name == 'ann_file']
    return f' (ann_file {", ".join(map(repr, files))})' if files else ''


def check_dataset(dataset, model: nn.Module, loader: str, most_missing: int = 0) -> None:
    """Refuse classes, labels, hidden folders and encoded pictures that ``model`` cannot have.

    So are classes that are the folders of their pictures in another order.

    most_missing: pictures of a COCO data set, or samples with maps, that may lack their file.
    Raises InputError naming the data set and both numbers.
    """
    num_classes = classes_of_head(model)
    for part in parts_of(dataset):
        check_annotations(part, loader, most_missing)
        check_files(part, loader, most_missing)
        check_predictors(part, model, loader)
        _check_decoding(part, model, loader)
        folders = getattr(part, 'folder_to_idx', None) or {}
        _check_hidden(part, folders, loader)
        if num_classes is None:
            continue
        check_names(part, num_classes, loader)
        if not folders:  # labels made from folders are right by construction
            _check_labels(part, num_classes, loader)


def _check_hidden(dataset, folders: Iterable[str], loader: str) -> None:
    """Refuse hidden folders that are classes, and those in classes whose pictures are read."""
    for folder in folders:
        if folder.startswith('.'):
            raise InputError(_hidden_message(Path(dataset.img_prefix, folder)))
    # What takes files by their suffixes looks into all folders; a list names what it means.
    if not hasattr(dataset, 'extensions') or getattr(dataset, 'ann_file', ''):
        return
    start = len(str(dataset.img_prefix).rstrip('/'))
    paths = (dataset.get_data_info(i)['img_path'] for i in range(len(dataset)))
    read = [path for path in paths if '/.' in path[start:]]
    if read:
        hidden = read[0][:read[0].index('/', read[0].index('/.', start) + 1)]
        raise InputError(f'{loader}: {len(read):,} of its pictures lie in hidden folders, such as '
                         f'{hidden!r}, and would be read like all others: delete these folders '
                         'or move them away')


def _check_decoding(dataset, model, loader: str) -> None:
    """Refuse pipelines that load what is decoded already, and that nothing decodes."""
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    if type(dataset).__name__ == 'PackedImages' and any(
            type(step).__name__ == 'LoadImageFromFile' for step in steps):
        raise InputError(f'{loader}: PackedImages gives pictures that are decoded, and '
                         'LoadImageFromFile in its pipeline takes files: leave it out')
    if not any(type(step).__name__ == 'PackEncoded' for step in steps):
        return
    from mmeffnet.datasets.encoded import DecodingDataPreprocessor  # of mmpretrain's runs alone
    preprocessor = getattr(model, 'data_preprocessor', None)
    if not isinstance(preprocessor, DecodingDataPreprocessor):
        raise InputError(
            f'{loader}: PackEncoded leaves the decoding to the data preprocessor, which is '
            f'{type(preprocessor).__name__}: set '
            "data_preprocessor.type='mmeffnet.DecodingDataPreprocessor'")


def _check_labels(dataset, num_classes: int, loader: str) -> None:
    if not hasattr(dataset, 'get_data_info'):
        return
    print_log(f'{loader}: checking {len(dataset):,} labels', 'current')
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        labels = info.get('gt_label', ())
        for label in labels if isinstance(labels, (list, tuple)) else (labels, ):
            if not 0 <= label < num_classes:
                where = getattr(dataset, 'ann_file', None) or type(dataset).__name__
                raise InputError(
                    f'{loader}: label {label} of {str(info.get("img_path", index))!r} in '
                    f'{str(where)!r} is out of range: with {num_classes} classes labels run '
                    f'from 0 to {num_classes - 1}')


def _type(dataset: dict) -> str:
    """The name of a data set config's class, without the scope."""
    return str(dataset.get('type')).rpartition('.')[2]


def _paths(dataset: dict) -> Iterator[tuple]:
    """Name, path and test of what a data set config says to be on this machine's disk."""
    root = dataset.get('data_root') or ''
    ann_file, prefix = dataset.get('ann_file'), dataset.get('data_prefix')
    if _type(dataset) in LAYOUTS:  # mmpretrain's, to which '~' is the home folder there
        ann_file, prefix = (expanded(value) if isinstance(value, str) else value
                            for value in (ann_file, prefix))
    # ImageNet's split is the name of a folder where a root is given to look in.
    by_split = _type(dataset) in ('ImageNet', 'ImageNet21k')
    prefixes = prefix if isinstance(prefix, dict) else {
        '': prefix or (by_split and root and dataset.get('split'))}
    found = [('data_root', root, Path.is_dir), ('ann_file', ann_file, Path.is_file)]
    found += [(f'data_prefix.{key}'.rstrip('.'), value, Path.is_dir)
              for key, value in prefixes.items()]
    for name, value, exists in found:
        if isinstance(value, str) and value and '://' not in f'{root}{value}':
            yield name, Path(value) if name == 'data_root' else Path(root, value), exists


def class_folder(dataset: dict) -> Path | None:
    """The folder whose folders are the classes of a data set config, None where they are not."""
    found = {name: path for name, path, _ in _paths(dataset)}
    if _type(dataset) not in LAYOUTS or not dataset.get('with_label', True) or (
            'ann_file' in found or _split_list(dataset)):
        return None
    root = found.get('data_root')
    return found.get('data_prefix', found.get('data_prefix.img_path', root))


def _split_list(dataset: dict) -> Path | None:
    """The list that ImageNet's split has in its root; None where there is none."""
    root, split = dataset.get('data_root'), dataset.get('split')
    path = Path(root, f'meta/{split}.txt') if root and split else None
    return path if path and path.is_file() else None


def list_and_folder(dataset: dict) -> tuple[Path, Path] | None:
    """The list of files and labels of a data set config, and the folder that its names begin in.

    None where it names no such list.
    """
    found = {name: path for name, path, _ in _paths(dataset)}
    if 'ann_file' not in found or _type(dataset) not in LAYOUTS or not dataset.get(
            'with_label', True):
        return None
    root = found.get('data_root', Path())
    return found['ann_file'], found.get('data_prefix', found.get('data_prefix.img_path', root))


def _hidden_message(hidden: Path) -> str:
    return (f'folder {str(hidden)!r} would be counted as a class and shift the labels of '
            'all others: delete it or move it away')
