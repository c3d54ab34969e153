"""An exported file in the place of a classifier's network, for tools/test.py."""
from __future__ import annotations

import torch
from torch import nn

from mmeffnet.errors import InputError
from mmeffnet.export.runtime import normalisation, open_exported, takes_bgr, tests_rgb

NO_PIXEL = 0.01  # from a whole number: what normalising and taking it back cannot make of one


class Graph(nn.Module):
    """(N, 3, H, W) images to a tuple of (N, classes) logits, by an exported file on the CPU.

    bgr: what the images are; a file takes RGB. norm: mean and standard deviation by which they
    are normalised, where the file does that itself and takes pixels.
    """

    def __init__(self, path, call, metadata: dict, bgr: bool, norm=None):
        super().__init__()
        self.path, self.call, self.metadata, self.bgr = path, call, metadata, bgr
        self.norm = norm and [torch.tensor(values).view(1, 3, 1, 1) for values in norm]

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        size, dynamic = list(images.shape[-2:]), self.metadata['dynamic']
        if 'size' not in dynamic and size != self.metadata['size']:
            raise InputError(f'{str(self.path)!r} takes images of {self.metadata["size"]} px and '
                             f'the pipeline gives {size}: export it for these with --size or '
                             '--dynamic size')
        rgb = images.cpu().flip(1) if self.bgr else images.cpu()
        if self.norm:
            rgb = self._pixels(rgb)
        groups = rgb.split(len(images) if 'batch' in dynamic else 1)
        return torch.cat([self.call(group) for group in groups]).to(images.device),

    def _pixels(self, normalised: torch.Tensor) -> torch.Tensor:
        """What was normalised; InputError where that is no image, but has been padded since."""
        mean, std = self.norm
        found = normalised * std + mean
        pixels = found.round().clamp(0, 255)
        if (found - pixels).abs().max() > NO_PIXEL:
            raise InputError(f'{str(self.path)!r} takes pixels, which it normalises itself, and '
                             'the data preprocessor pads normalised images (pad_size_divisor, or '
                             'unequal images in a batch): export it without --preprocess')
        return pixels


def take_over(model: nn.Module, path, cfg) -> list[str]:
    """Let an ImageClassifier predict by an exported file; data, head and metrics stay its own.

    The file is given RGB, in whatever order the model takes its images. cfg: of the test, whose
    pipeline says in which order the images come. Gives the names of the classes that the file was
    exported with; none where it was given none.

    Raises InputError for another model, another number of classes, or another normalisation than
    the file was exported with.
    """
    from mmeffnet.inference.network import class_names  # with it comes mmpretrain
    head = getattr(model, 'head', None)
    if not isinstance(getattr(head, 'fc', None), nn.Linear):
        named = type(model).__name__ if head is None else f'model.head {type(head).__name__}'
        raise InputError(f'an exported file is evaluated in an image classifier with a linear '
                         f'head, and {named} is none')
    call, metadata = open_exported(path)
    if len(metadata['classes']) != head.fc.out_features:
        raise InputError(f'{str(path)!r} has {len(metadata["classes"])} classes and the config has '
                         f'{head.fc.out_features}')
    preprocessor = model.data_preprocessor
    bgr = takes_bgr(preprocessor, tests_rgb(cfg))
    norm = normalisation(preprocessor, bgr)
    inside = metadata['normalised_inside']
    for name, given in zip(('mean', 'std'), map(list, norm)):
        if given != metadata[name] and not inside:
            raise InputError(f'{str(path)!r} was exported for images with {name} '
                             f'{metadata[name]}, and the config has {given}')
    # The preprocessor goes on to normalise: it pads after that, with what may be no pixel.
    model.backbone = Graph(path, call, metadata, bgr, norm if inside else None)
    model.neck = None
    head.fc = nn.Identity()
    names = metadata['classes']
    return names if tuple(names) != class_names(None, len(names)) else []
