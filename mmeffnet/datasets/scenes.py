"""Pictures to detect and segment that need no download: real digits on real photographs."""
import json
import shutil
from importlib.resources import files
from importlib.util import find_spec
from numbers import Integral
from pathlib import Path
from uuid import uuid4

import numpy as np
from PIL import Image

from mmeffnet.datasets.digit_images import digit_images
from mmeffnet.errors import InputError
from mmeffnet.version import EXTRAS

CLASSES = tuple('0123456789')
# Photographs that scikit-image carries; none is in both parts.
PHOTOGRAPHS = {
    'train': ('astronaut.png', 'coffee.png', 'motorcycle_left.png', 'rocket.jpg', 'brick.png',
              'grass.png'),
    'val': ('chelsea.png', 'camera.png', 'gravel.png', 'hubble_deep_field.jpg'),
}
STAMP = 'scenes.json'
VERSION = 2

MOST_DIGITS = 5
TRIES = 20             # to find room for a digit
EMPTY_EVERY = 16       # one scene of so many has no digit
SIDES = (28, 56)       # of a digit, in pixels
VISIBLE = 0.75         # least share of a digit's ink inside the picture
OPACITY = 1.5          # of the ink: a pen's pale strokes would be lost on gravel and fur
INK = 0.5              # what counts as the digit: pixels with more ink than this
QUALITY = 92           # of the JPEG files


def make_scenes(root: Path | str, *, train: int = 2400, val: int = 120, size: int = 160,
                seed: int = 0) -> None:
    """Make the scenes in ``root``, unless they are there.

    Handwritten digits of scikit-learn, enlarged and tinted, lie scattered on crops of
    photographs of scikit-image, up to five on each and none on some; those of ``val`` are other
    digits on other photographs. Written are ``images/{train,val}/*.jpg``, boxes and masks as
    COCO has them in ``annotations/{train,val}.json`` (category i + 1 is digit i), and
    ``masks/{train,val}/*.png`` with 0 for the background and i + 1 for digit i.

    train, val: numbers of pictures. size: their height and width in pixels, at least 64. Equal
    arguments give equal pictures. The folder appears once it is complete.
    Raises InputError for wrong numbers, for a missing scikit-image, and where ``root`` holds
    anything else.
    """
    root = Path(root).resolve()  # a link stays, and what it leads to is made
    given = dict(train=train, val=val, size=size, seed=seed)
    for name, least in (('train', 1), ('val', 1), ('size', 64), ('seed', 0)):
        if not isinstance(given[name], Integral) or given[name] < least:
            raise InputError(f'digit scenes: {name}={given[name]!r} must be a whole number of at '
                             f'least {least}')
    wanted = dict(version=VERSION, **{name: int(value) for name, value in given.items()})
    if _is_there(root, wanted):
        return
    # Processes of other hosts and containers may have the same number.
    part = root.with_name(f'.{root.name}.{uuid4().hex}.part')
    try:
        for split in ('train', 'val'):
            _make_split(part, split, wanted[split], wanted['size'], wanted['seed'])
        (part / STAMP).write_text(json.dumps(wanted))
        if root.is_dir():
            root.rmdir()  # an empty one
        try:
            part.rename(root)
        except OSError:
            if not _is_there(root, wanted):  # else another process was faster
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _is_there(root: Path, wanted: dict) -> bool:
    stamp = root / STAMP
    if stamp.is_file():
        try:
            found = json.loads(stamp.read_text())
        except ValueError as error:
            raise InputError(f'{str(stamp)!r} is torn: delete the folder, and the digit scenes are '
                             'made anew') from error
        if found == wanted:
            return True
        raise InputError(f'{str(root)!r} holds digit scenes made with {found}, and wanted are '
                         f'{wanted}: delete the folder or set another data_root')
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise InputError(f'{str(root)!r} is there and holds no digit scenes: move it away or set '
                         'another data_root')
    return False


def _make_split(root: Path, split: str, count: int, size: int, seed: int) -> None:
    from rich.progress import track
    photographs, digits = _photographs(split, size), _digits(split)
    for folder in ('images', 'masks'):
        (root / folder / split).mkdir(parents=True)
    (root / 'annotations').mkdir(exist_ok=True)
    coco = dict(images=[], annotations=[], categories=[
        dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)])
    for index in track(range(count), f'Digit scenes, {split}', transient=True):
        # Each scene has draws of its own, so that more scenes do not change the first ones.
        rng = np.random.default_rng([seed, split == 'val', index])
        picture, mask, instances = _scene(rng, photographs, digits, size,
                                          empty=index % EMPTY_EVERY == EMPTY_EVERY - 1)
        name = f'{index:05d}'
        Image.fromarray(picture).save(root / 'images' / split / f'{name}.jpg', quality=QUALITY)
        Image.fromarray(mask).save(root / 'masks' / split / f'{name}.png')
        coco['images'].append(dict(id=index, file_name=f'{name}.jpg', width=size, height=size))
        for label, ink in instances:
            coco['annotations'].append(dict(
                id=len(coco['annotations']) + 1, image_id=index, category_id=label + 1,
                iscrowd=0, area=int(ink.sum()), bbox=_box(ink), segmentation=_runs(ink)))
    (root / 'annotations' / f'{split}.json').write_text(json.dumps(coco))


def _photographs(split: str, size: int) -> list[np.ndarray]:
    if find_spec('skimage') is None:
        raise InputError('the photographs of the digit scenes are those of scikit-image, which is '
                         f'not installed. Run: {EXTRAS["skimage"]}')
    found = []
    for name in PHOTOGRAPHS[split]:
        with (files('skimage.data') / name).open('rb') as file:
            image = Image.open(file).convert('RGB')
        scale = size / min(image.size)
        if scale > 1:
            image = image.resize([round(side * scale) for side in image.size])
        found.append(np.asarray(image))
    return found


def _digits(split: str) -> list[tuple[int, np.ndarray]]:
    """Label and ink, 0 to 1, of the digits of one part; the split of the classifier's data."""
    images, labels, _ = digit_images('train' if split == 'train' else 'test')
    return list(zip(labels.tolist(), images.astype(np.float32) / 255))


def _scene(rng, photographs, digits, size: int, empty: bool):
    """A picture (size, size, 3), its mask (size, size), and label and ink of each digit."""
    photograph = photographs[rng.integers(len(photographs))]
    top, left = (rng.integers(side - size + 1) for side in photograph.shape[:2])
    picture = photograph[top:top + size, left:left + size].astype(np.float32)
    mask, instances = np.zeros((size, size), np.uint8), []
    for _ in range(0 if empty else rng.integers(1, MOST_DIGITS + 1)):
        label, digit = digits[rng.integers(len(digits))]
        ink = _place(rng, digit, mask)
        if ink is None:  # no room left
            continue
        picture = _paint(rng, picture, ink)
        mask[ink > INK] = label + 1
        instances.append((label, ink > INK))
    return picture.round().clip(0, 255).astype(np.uint8), mask, instances


def _place(rng, digit: np.ndarray, taken: np.ndarray) -> np.ndarray | None:
    """The ink of an enlarged digit in a picture like ``taken``, where nothing lies yet."""
    side = int(rng.integers(SIDES[0], SIDES[1] + 1))
    large = np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC))
    large = (OPACITY * large).clip(0, 1)
    size, margin = len(taken), side // 2
    for _ in range(TRIES):
        top, left = rng.integers(-margin, size - side + margin + 1, 2)
        ink = np.zeros((size + 2 * side, ) * 2, np.float32)
        ink[top + side:top + 2 * side, left + side:left + 2 * side] = large
        ink = ink[side:-side, side:-side]
        if ((ink > INK).sum() < VISIBLE * (large > INK).sum()):
            continue
        x, y, w, h = _box(ink > INK)
        if not taken[max(0, y - 2):y + h + 2, max(0, x - 2):x + w + 2].any():
            return ink
    return None


def _paint(rng, picture: np.ndarray, ink: np.ndarray) -> np.ndarray:
    """Tinted ink over a picture, light where it is dark and dark where it is light."""
    below = picture[ink > INK].mean()
    tint = rng.uniform(0, 80, 3) if below > 127 else rng.uniform(175, 255, 3)
    return picture + ink[..., None] * (tint.astype(np.float32) - picture)


def _box(ink: np.ndarray) -> list[int]:
    """x, y, width and height of the smallest box around what is True."""
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1),
            int(rows[-1] - rows[0] + 1)]


def _runs(ink: np.ndarray) -> dict:
    """COCO's run lengths: column by column, of zeros and ones by turns, zeros first."""
    flat = ink.ravel(order='F')
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, flat.size]).tolist()
    return dict(size=list(ink.shape), counts=[0, *counts] if flat[0] else counts)
