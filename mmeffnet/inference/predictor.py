"""Class names and probabilities for pictures, from Python."""
from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image

from mmeffnet.errors import InputError
from mmeffnet.inference import DEFAULT_WEIGHTS
from mmeffnet.inference.images import ImageError, as_image
from mmeffnet.inference.network import build_network

SHOWN_SIDE = 2000


@dataclass(frozen=True)
class Prediction:
    """One class: its index, its name, and its probability from 0 to 1."""
    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Outcome:
    """What became of one picture: its predictions, or an error.

    image: the picture, a large one made smaller, for showing.
    """
    source: object
    image: Image.Image | None = None
    predictions: tuple[Prediction, ...] = ()
    error: ImageError | None = None


class Predictor:
    """A network that is built once and asked often.

    Args:
        weights: A file, an address such as 'lite://lite0' (the default), a name of the
            catalog, or what :func:`mmeffnet.weights.load_weights` returned.
        device: Such as 'cpu' or 'cuda:0'; None, the default, takes CUDA where there is one.
        batch_size (int): Pictures that are run together. Defaults to 16.
        resampler (str, optional): 'pil' or 'cv2', see :class:`Settings`; None, the default, is
            that of the checkpoint's training, and 'pil' where it is not known.
        classes: Names of the classes, or a file of them, one a line; None, the default,
            knows those that a training's checkpoint states, and ImageNet's.

    Raises InputError naming the argument, its value and the rule.
    """

    def __init__(self, weights=DEFAULT_WEIGHTS, *, device=None, batch_size: int = 16,
                 resampler: str | None = None, classes=None):
        if not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f'batch size {batch_size!r} must be a whole number above 0')
        self.batch_size = batch_size
        self.network = build_network(weights, device=device, resampler=resampler,
                                     classes=classes)

    def __call__(self, images, topk: int = 5) -> list:
        """The ``topk`` classes of one picture, or a list of such lists for several.

        images: a path, a PIL image or a numpy array (RGB, uint8), or a sequence of these.
        Raises ImageError for the first picture that cannot be read.
        """
        single = isinstance(images, (str, os.PathLike, Image.Image, np.ndarray))
        results = []
        for outcome in self.stream([images] if single else images, topk):
            if outcome.error:
                raise outcome.error
            results.append(list(outcome.predictions))
        return results[0] if single else results

    def stream(self, images: Iterable, topk: int = 5) -> Iterator[Outcome]:
        """One outcome a picture, in order, read as they are needed; errors are outcomes too."""
        if not isinstance(topk, int) or topk < 1:
            raise InputError(f'topk={topk!r} must be a whole number above 0')
        waiting: list[Outcome] = []
        tensors: list[torch.Tensor] = []
        for source in images:
            try:
                image = as_image(source)
                tensors.append(self._tensor(image, source))
                waiting.append(Outcome(source, _for_showing(image)))
            except ImageError as error:
                waiting.append(Outcome(source, error=error))
            # Failures count too, so that no outcome waits for a batch that never fills.
            if len(waiting) == self.batch_size:
                yield from self._finish(waiting, tensors, topk)
                waiting, tensors = [], []
        yield from self._finish(waiting, tensors, topk)

    @torch.inference_mode()
    def probabilities(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """(N, classes) float32 on the CPU, of N normalised (3, H, W) tensors."""
        device = self.network.device
        batch = torch.stack(list(tensors)).to(device, memory_format=torch.channels_last)
        try:
            return self.network.shares(batch)
        except torch.OutOfMemoryError:
            raise InputError(f'{len(batch)} pictures at once do not fit into the memory of '
                             f'{device}: choose a smaller batch size') from None

    def _tensor(self, image: Image.Image, source) -> torch.Tensor:
        try:
            return self.network.settings.tensor(image)
        except cv2.error as error:  # the crop of a strip one pixel wide is empty
            raise ImageError(source, f"the resampler 'cv2' cannot take {image.width} x "
                             f"{image.height} pixels: 'pil' can") from error

    def _finish(self, waiting: list[Outcome], tensors: list[torch.Tensor],
                topk: int) -> Iterator[Outcome]:
        rows = iter(self.probabilities(tensors) if tensors else ())
        for outcome in waiting:
            if outcome.error:
                yield outcome
            else:
                yield Outcome(outcome.source, outcome.image, self._best(next(rows), topk))

    def _best(self, row: torch.Tensor, topk: int) -> tuple[Prediction, ...]:
        best = row.topk(min(topk, len(row)))
        return tuple(Prediction(index, self.network.names[index], probability)
                     for probability, index in zip(best.values.tolist(), best.indices.tolist()))


def _for_showing(image: Image.Image) -> Image.Image:
    """A batch of large pictures would not fit into memory: about 2000 pixels are enough."""
    factor = max(image.size) // SHOWN_SIDE
    return image.reduce(factor) if factor > 1 and min(image.size) >= factor else image


def predict(images, weights=DEFAULT_WEIGHTS, topk: int = 5, device=None, batch_size: int = 16,
            resampler: str | None = None, classes=None) -> list:
    """The most probable classes of pictures; builds a :class:`Predictor` for this one call.

    One picture gives a list of ``topk`` :class:`Prediction` (index, name, probability), best
    first; a sequence of pictures gives a list of such lists. Arguments and errors are those
    of :class:`Predictor`.
    """
    predictor = Predictor(weights, device=device, batch_size=batch_size, resampler=resampler,
                          classes=classes)
    return predictor(images, topk)
