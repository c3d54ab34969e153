"""The classifier of a config as the plain function that is exported."""
from __future__ import annotations

import contextlib
import copy
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmeffnet.engine import pretrained
from mmeffnet.engine.checkpoint import load_whole
from mmeffnet.engine.config import explain
from mmeffnet.errors import InputError, one_line
from mmeffnet.export.runtime import normalisation, takes_bgr, tests_rgb
from mmeffnet.inference.network import class_names
from mmeffnet.models import EfficientNet
from mmeffnet.variants import variant_of
from mmeffnet.version import __version__
from mmeffnet.weights.settings import resolution_of

SIDE = 64  # pixels of the images that a model is tried with


class Exportable(nn.Module):
    """(N, 3, H, W) images to (N, classes) logits.

    norm: None for images that are normalised already, or mean and standard deviation of RGB in
    0..255, which the graph then takes as they are, uint8 or floating point.
    """

    def __init__(self, backbone: EfficientNet, fc: nn.Linear, norm: tuple | None = None):
        super().__init__()
        self.backbone, self.fc = backbone, fc
        self.raw = norm is not None
        for name, values in zip(('mean', 'std'), norm or ()):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = images.to(self.fc.weight.dtype)
        if self.raw:
            images = (images - self.mean) / self.std
        logits = self.fc(self.backbone(images)[-1].mean((2, 3)))
        return logits.float() if logits.dtype == torch.float16 else logits


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A trained classifier on the CPU, in eval mode, and what a user of its file has to know.

    network: as trained, for RGB images that are normalised. size: height and width of its images.
    mean, std: of RGB in 0..255. names: of the classes, by index. arch: the name of a variant, or
    what :meth:`mmeffnet.arch.Arch.from_dict` reads.
    """
    network: Exportable
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    names: tuple[str, ...]
    arch: str | dict

    def deployed(self, raw: bool, half: bool = False) -> Exportable:
        """What is exported: with BatchNorm folded, where that is what normalises.

        raw: takes images as they are read. half: weights and arithmetic in float16; logits stay
        float32.
        """
        backbone = copy.deepcopy(self.network.backbone)
        with contextlib.suppress(ValueError):  # another norm stays a layer of its own
            backbone.switch_to_deploy()
        network = Exportable(backbone, copy.deepcopy(self.network.fc),
                             (self.mean, self.std) if raw else None)
        return (network.half() if half else network).eval().requires_grad_(False)

    def metadata(self, raw: bool, **more) -> dict:
        """What goes into the file beside the graph."""
        return dict(
            arch=self.arch, classes=list(self.names), size=list(self.size), channels='RGB',
            mean=list(self.mean), std=list(self.std), normalised_inside=raw,
            written_by=f'mmeffnet {__version__}', **more)


def read_classifier(cfg, checkpoint: str, classes=None, size=None) -> Classifier:
    """Build the classifier of a config for mmpretrain and load its weights.

    checkpoint: whatever tools/test.py takes. classes: names, or a file of them; None takes those
    that the checkpoint was trained with, or ImageNet's. size: height and width of the images;
    None takes the side of the square that the test pipeline ends with.
    A network that takes BGR, in which images are read, becomes one of RGB.
    Raises InputError for a model that is no image classifier of three channels on our backbone, or
    computes something else behind it than a mean and a linear layer, for weights that give no
    numbers, and for names of another number of classes.
    """
    cfg.load_from = checkpoint
    pretrained.for_testing(cfg)
    init_default_scope(cfg.get('default_scope') or 'mmpretrain')
    config = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor'):
        config.setdefault('data_preprocessor', cfg.data_preprocessor)
    try:
        model = MODELS.build(config)
    except Exception as error:
        raise InputError(explain(error, cfg)) from error
    backbone, fc = _parts(model, config)
    channels = backbone.layers[0].conv.in_channels
    if channels != 3:
        raise InputError(f'model.backbone.in_channels={channels}: what can be exported takes RGB '
                         'images, of 3 channels')
    load_whole(cfg.load_from, model)
    side = resolution_of(cfg)
    if size is None and side is None:
        raise InputError('the config does not say how large its images are: its test pipeline '
                         'ends with no square crop; give --size')
    divisor = getattr(model.data_preprocessor, 'pad_size_divisor', 1)
    if size is None and side % divisor:
        padded = math.ceil(side / divisor) * divisor
        raise InputError(f'data_preprocessor.pad_size_divisor={divisor} pads images of {side} px '
                         f'to {padded}, which no file does: give --size {padded}, and pad before '
                         'the network, once images are normalised')
    network = Exportable(backbone, fc).eval().requires_grad_(False)
    _check_same(model.eval(), network, checkpoint)
    bgr = takes_bgr(model.data_preprocessor, tests_rgb(cfg))
    if bgr:
        stem = backbone.layers[0].conv.weight
        stem.data = stem.data.flip(1)
    mean, std = normalisation(model.data_preprocessor, bgr)
    return Classifier(
        network=network, size=size or (side, side), mean=mean, std=std,
        arch=variant_of(backbone.arch) or backbone.arch.to_dict(),
        names=class_names(classes or _trained_with(checkpoint, fc.out_features), fc.out_features))


def _parts(model: nn.Module, config) -> tuple[EfficientNet, nn.Linear]:
    """The backbone and the linear layer of a classifier; InputError names the part that is none."""
    backbone, head = (getattr(model, name, None) for name in ('backbone', 'head'))
    fc = getattr(head, 'fc', None)
    if isinstance(backbone, EfficientNet) and isinstance(fc, nn.Linear):
        return backbone, fc
    named, part = 'model', config
    if backbone is not None and head is not None:
        name = 'head' if isinstance(backbone, EfficientNet) else 'backbone'
        named, part = f'model.{name}', config[name]
    raise InputError(f'{named}.type={part.get("type")!r}: what can be exported is an image '
                     'classifier with mmeffnet.EfficientNet and a linear head')


@torch.no_grad()
def _check_same(model: nn.Module, network: Exportable, checkpoint: str) -> None:
    """Whether the model is what is exported, whatever its neck and head are called."""
    images = torch.randn((2, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0))
    logits = network(images)
    if not logits.isfinite().all():
        raise InputError(f"{checkpoint}: the network's output is no number: the weights are "
                         'damaged or diverged: take an earlier or another file')
    try:
        given, why = model(images, mode='tensor'), ''
    except Exception as error:
        given, why = None, f' ({one_line(error)})'
    if not (isinstance(given, torch.Tensor) and given.shape == logits.shape
            and torch.allclose(given, logits, rtol=0, atol=1e-3 * logits.abs().max().item())):
        neck = type(model.neck).__name__ if model.neck is not None else None
        raise InputError(f'model.neck {neck} and model.head {type(model.head).__name__}: what can '
                         'be exported computes a mean over the pixels and a linear layer behind '
                         f'the backbone, and nothing else{why}')


def _trained_with(checkpoint: str, count: int) -> tuple[str, ...] | None:
    """The names of the classes that MMEngine keeps in a checkpoint; InputError if not ``count``."""
    from mmeffnet.weights.files import kind_of_file, read_checkpoint, statements
    if '://' in str(checkpoint) or not Path(checkpoint).is_file() or kind_of_file(
            checkpoint) != 'torch':
        return None
    names = statements(read_checkpoint(checkpoint)).get('names')
    if names is not None and len(names) != count:
        raise InputError(f'{checkpoint}: dataset_meta.classes has {len(names)} names and the '
                         f'classifier {count} classes: give their names with --classes')
    return names
