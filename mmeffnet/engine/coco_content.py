"""A COCO file as it is read: each entry has what mmdet takes of it, and which objects it uses."""
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmeffnet.errors import InputError, one_line


class _Rule(NamedTuple):
    """The types that a value may have as JSON is read, and words for them."""
    types: frozenset[type]
    words: str


NAME = _Rule(frozenset({int, float, str}), 'a number or text')
NUMBER = _Rule(frozenset({int, float}), 'a number')
RULES = {'id': NAME, 'image_id': NAME, 'category_id': NAME, 'name': NAME,
         'file_name': _Rule(frozenset({str}), 'text'), 'width': NUMBER, 'height': NUMBER,
         'area': NUMBER, 'isthing': _Rule(frozenset({int, bool}), 'true or false'),
         'segments_info': _Rule(frozenset({list}), 'a list of segments'),
         'bbox': _Rule(frozenset({list}), '4 finite numbers (x, y, width, height)')}
# Without these mmdet, or pycocotools' index of a file, ends in a KeyError.
NEEDED = {'categories': ('id', 'name'), 'images': ('id', 'file_name', 'width', 'height'),
          'annotations': ('id', 'image_id', 'category_id')}
READ = ('bbox', 'area')  # of annotations that are not to be ignored, of a picture of the file
# Of panoptic data, where an annotation is a picture and its segments are the objects.
PANOPTIC = {**NEEDED, 'categories': ('id', 'name', 'isthing'),
            'annotations': ('image_id', 'segments_info')}
SEGMENT = ('id', 'category_id', 'bbox', 'area')
OTHERWISE = {'file_name': 'coco_url'}  # LVIS names its pictures so
# Why mmdet passes over objects of known classes.
NO_PICTURE = 'their image_id is no picture of the file'
TINY = 'their box is less than a pixel wide or high'
FLAT = 'their area is not above 0'
OUTSIDE = 'their box lies outside its picture'
SHOWN = 60  # letters of a wrong value


@dataclass(frozen=True)
class CocoContent:
    """What a COCO file holds, with objects that are annotations or segments of panoptic data."""
    images: Sequence[dict]
    categories: dict  # names by number
    objects: Sequence[dict]
    pictures: Sequence  # the image_id of each object
    place: Callable[[int], str]  # of an object in the file
    panoptic: bool

    def unused(self) -> dict[str, np.ndarray]:
        """For each reason why mmdet passes over objects, whether it does over each."""
        if not self.objects:
            return {}
        sizes = {image['id']: (image['width'], image['height']) for image in self.images}
        nowhere = (np.nan, np.nan)
        width, height = np.array([sizes.get(i, nowhere) for i in self.pictures], float).T
        unknown = np.isnan(width)
        read = [(item['bbox'], item['area']) if known and not item.get('ignore')
                else (4 * nowhere[:1], np.nan) for item, known in zip(self.objects, ~unknown)]
        x, y, w, h = np.array([box for box, _ in read], float).T
        tiny = (w < 1) | (h < 1)
        flat = ~tiny & (np.array([area for _, area in read], float) <= 0)
        found = {NO_PICTURE: unknown, TINY: tiny, FLAT: flat}
        if not self.panoptic:  # segments are taken wherever their boxes are
            across = np.minimum(x + w, width) - np.maximum(x, 0)
            down = np.minimum(y + h, height) - np.maximum(y, 0)
            found[OUTSIDE] = ~tiny & ~flat & ((across <= 0) | (down <= 0))
        return found

    def used(self, classes: Sequence[str]) -> np.ndarray:
        """Whether mmdet uses each object."""
        return self.counted(classes) & ~np.logical_or.reduce(
            [*self.unused().values(), np.zeros(len(self.objects), bool)])

    def shown(self, number: int) -> str:
        """An object with its place, picture and box, for a message."""
        return (f'{self.place(number)} of image_id={self.pictures[number]!r} with '
                f'bbox={self.objects[number].get("bbox")}')

    def counted(self, classes: Sequence[str]) -> np.ndarray:
        """Whether each object is of a class and not marked as one to ignore."""
        wanted = {*classes}
        numbers = {number for number, name in self.categories.items() if name in wanted}
        return np.array([item['category_id'] in numbers and not item.get('ignore')
                         for item in self.objects], bool)


def read_coco(ann_file, loader: str) -> CocoContent:
    """A COCO file that mmdet can read.

    loader: the field of the config that a message begins with.
    Raises InputError naming the first entry that lacks something or has something else in its
    place, and numbers of pictures and categories that occur twice.
    """
    where = f'{loader}: {str(ann_file)!r}'
    try:
        content = json.loads(Path(ann_file).read_bytes())
    except ValueError as error:
        raise InputError(f'{where} is no JSON ({one_line(error)}): it is torn or of another '
                         'kind') from error
    if not isinstance(content, dict) or not content.get('categories'):
        raise InputError(f"{where} has no 'categories': it is no annotation file as COCO has them")
    parts = {name: [item if isinstance(item, dict) else {} for item in content.get(name) or ()]
             for name in NEEDED}
    annotations = parts['annotations']
    panoptic = any('segments_info' in item for item in annotations)
    for name, keys in (PANOPTIC if panoptic else NEEDED).items():
        _check_entries(parts[name], keys, _numbered(name), where)
    objects, pictures, place = annotations, [], _numbered('annotations')
    if panoptic:
        objects, numbers = [], []
        for i, item in enumerate(annotations):
            for k, segment in enumerate(item['segments_info']):
                objects.append(segment if isinstance(segment, dict) else {})
                pictures.append(item['image_id'])
                numbers.append(f'annotations[{i}].segments_info[{k}]')
        place = numbers.__getitem__
        _check_entries(objects, SEGMENT, place, where)
    else:
        pictures, known = [item['image_id'] for item in annotations], {
            image['id'] for image in parts['images']}
        read = [i for i, item in enumerate(annotations)
                if item['image_id'] in known and not item.get('ignore')]
        _check_entries([annotations[i] for i in read], READ, lambda i: place(read[i]), where)
    for name in ('categories', 'images'):
        for first, second in _twice(parts[name], 'id'):
            if name == 'images' and parts[name][first] == parts[name][second]:
                continue
            raise InputError(f'{where}: {name}[{second}].id={parts[name][second]["id"]!r} is that '
                             f'of {name}[{first}] too, and one of them would be lost: give each '
                             'its own')
    return CocoContent(parts['images'], {item['id']: item['name'] for item in parts['categories']},
                       objects, pictures, place, panoptic)


def _numbered(part: str) -> Callable[[int], str]:
    return lambda number: f'{part}[{number}]'


def _check_entries(entries: Sequence[dict], keys: Sequence[str], place: Callable[[int], str],
                   where: str) -> None:
    """Refuse the first entry without a key, or with another value than the key may have."""
    for key in keys:
        rule, other = RULES[key], OTHERWISE.get(key)
        values = [entry.get(key, entry.get(other)) if other else entry.get(key)
                  for entry in entries]
        # All at once first: a file may have a million of them.
        if {type(value) for value in values} <= rule.types and (
                key != 'bbox' or _are_boxes(values)):
            continue
        number = next(i for i, value in enumerate(values) if type(value) not in rule.types or (
            key == 'bbox' and not _are_boxes([value])))
        if key not in entries[number] and values[number] is None:
            raise InputError(f'{where}: {place(number)} has no {key!r}, which mmdet needs: add it '
                             'or take the entry out')
        raise InputError(f'{where}: {place(number)}.{key}={repr(values[number])[:SHOWN]} must be '
                         f'{rule.words}: set it right or take the entry out')


def _are_boxes(values: Sequence[list]) -> bool:
    if not values:
        return True
    try:
        found = np.array(values)
    except ValueError:  # of several lengths
        return False
    return bool(found.shape == (len(values), 4) and found.dtype.kind in 'iuf'
                and np.isfinite(found).all())


def _twice(entries: Sequence[dict], key: str) -> Iterator[tuple[int, int]]:
    """The two places of each value that occurs more than once."""
    first = {}
    for i, entry in enumerate(entries):
        if first.setdefault(entry[key], i) != i:
            yield first[entry[key]], i
