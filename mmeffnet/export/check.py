"""An exported file against PyTorch, on real pictures."""
from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torchvision.transforms import functional as F  # noqa: N812

from mmeffnet.errors import InputError, RunError, one_line
from mmeffnet.export.graph import Classifier

# Largest difference of the logits from those in float64, as a share of the largest. Rounding of
# float32 in another order stays below; a network that amplifies it more than that may differ by so
# many times what PyTorch's own float32 differs by. A wrong pad or epsilon shows as 1e-3 and more.
TOLERANCE = {'float32': 1e-4, 'float16': 2e-2}
TIMES = {'float32': 4, 'float16': 4 * 2**13}  # float16 has 13 bits less
# Beside the size of the config, where sizes are open: odd, smaller, larger, wide; all above the
# stride.
OTHER_SIZES = ((-1, -1), (-32, -32), (33, 33), (0, 65))


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One size: how far logits are from those in float64, and how often the best class is theirs.

    allowed: what rounding explains, None for int8, whose loss is told and not judged.
    """
    size: tuple[int, int]
    pictures: int
    difference: float
    same_class: int
    allowed: float | None


def compare(call: Callable[[torch.Tensor], torch.Tensor], classifier: Classifier, raw: bool,
            pictures: Sequence[Image.Image], dynamic: tuple = (),
            precision: str = 'float32') -> list[Compared]:
    """Run a file and the network as trained on pictures, at each size that the file allows.

    Raises RunError where they differ by more than rounding explains.
    """
    height, width = classifier.size
    sizes = [(height, width)]
    if 'size' in dynamic:
        least = max(32, classifier.network.backbone.arch.out_strides[-1]) + 1
        sizes += [(max(least, height + h), max(least, width + w)) for h, w in OTHER_SIZES]
    exact = copy.deepcopy(classifier.network).double()
    found = []
    for size in track(sizes, 'Comparing', transient=True):
        images = torch.stack([resized(picture, size) for picture in pictures])
        groups = images.split(len(images) if 'batch' in dynamic else 1)
        try:
            given = torch.cat([call(prepared(group, classifier, raw)) for group in groups])
        except Exception as error:  # each runtime has its own
            raise RunError(f'the exported file does not run at {size[0]} x {size[1]} px: '
                           f'{one_line(error)}') from error
        with torch.no_grad():
            plain = prepared(images, classifier, False)
            own, expected = classifier.network(plain), exact(plain.double())
        noise, tolerance = _apart(own, expected), TOLERANCE.get(precision)
        found.append(Compared(
            size=size, pictures=len(pictures), difference=_apart(given, expected),
            allowed=tolerance and max(tolerance, TIMES[precision] * noise),
            same_class=int((given.argmax(1) == expected.argmax(1)).sum())))
    for row in found:
        if row.allowed is not None and not row.difference <= row.allowed:
            raise RunError(f'the exported file is not the network: at {row.size[0]} x '
                           f'{row.size[1]} px its logits are {row.difference:.1e} of the largest '
                           f'apart, where {row.allowed:.1e} is allowed')
    return found


def _apart(given: torch.Tensor, expected: torch.Tensor) -> float:
    largest = expected.abs().max().item() or 1.  # all are 0 where nothing was trained
    return (given.double() - expected).abs().max().item() / largest


def resized(picture: Image.Image, size: tuple[int, int]) -> torch.Tensor:
    """A picture as (3, height, width) uint8, its sides stretched to ``size``."""
    return torch.from_numpy(np.array(F.resize(picture, list(size)))).permute(2, 0, 1)


def prepared(images: torch.Tensor, classifier: Classifier, raw: bool) -> torch.Tensor:
    """uint8 RGB images as a file takes them: as they are where ``raw``, else normalised."""
    if raw:
        return images
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (classifier.mean, classifier.std))
    return (images.float() - mean) / std


def real_pictures(folder: str | None = None, most: int = 8) -> list[Image.Image]:
    """The pictures of a folder, or the two photographs that scikit-learn carries."""
    if folder is None:
        from sklearn.datasets import load_sample_images
        return [Image.fromarray(image) for image in load_sample_images().images]
    from mmeffnet.inference.images import read_image
    return [read_image(path) for path in pictures_below(folder, '--pictures')[:most]]


def pictures_below(folder: str, flag: str) -> list[Path]:
    """The pictures below a folder, in order of their paths; links are followed, and what is hidden
    is left alone.

    flag: that the folder was given by. Raises InputError where there are none.
    """
    from mmeffnet.inference.files import files_below
    from mmeffnet.inference.images import SUFFIXES
    if not Path(folder).is_dir():
        raise InputError(f'{flag} {folder!r} is no folder: give one with pictures below it')
    found = sorted(path for path in files_below(Path(folder)) if path.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f'{flag} {folder!r} has no pictures: {", ".join(sorted(SUFFIXES))}')
    return found
