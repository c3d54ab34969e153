"""A classifier built from published weights, with the preprocessing they were trained for."""
from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

import torch
from torch import nn

from mmeffnet.arch import nearest
from mmeffnet.errors import InputError, one_line
from mmeffnet.inference import DEFAULT_WEIGHTS, origins
from mmeffnet.inference.settings import Settings
from mmeffnet.models import EfficientNet, EfficientNetHead
from mmeffnet.models.deploy import folded
from mmeffnet.models.efficientnet import CONVS
from mmeffnet.weights import load_weights
from mmeffnet.weights.layouts import BACKBONE
from mmeffnet.weights.translate import COUNTERS

IMAGENET_CLASSES = 1000


class Classifier(nn.Module):
    """Backbone, mean over the image, classifier: (N, 3, H, W) to (N, classes) logits."""

    def __init__(self, backbone: EfficientNet, head: EfficientNetHead):
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((self.backbone(x)[-1].mean((2, 3)), ))


@dataclass(frozen=True, kw_only=True)
class Network:
    """A classifier in eval mode on its device, and what has to be known to use it.

    title: for people, such as 'EfficientNet-Lite0'. source: what the weights were asked for
    as. names: of the classes, by index. variant: None for another architecture.
    """
    model: Classifier
    settings: Settings
    names: tuple[str, ...]
    variant: str | None
    title: str
    source: str
    device: torch.device

    def shares(self, batch: torch.Tensor) -> torch.Tensor:
        """(N, classes) probabilities on the CPU; InputError where they are no numbers."""
        shares = self.model(batch).softmax(1).cpu()
        if not shares.isfinite().all():
            raise InputError(f"{self.source}: the network's output is no number: the weights are "
                             'damaged or diverged: take an earlier or another file')
        return shares


def build_network(weights=DEFAULT_WEIGHTS, *, device=None, resampler: str | None = None,
                  classes: Sequence[str] | str | Path | None = None) -> Network:
    """Build the network that ``weights`` are of, and load them.

    weights: whatever :func:`mmeffnet.weights.load_weights` takes, or what it returned.
    device: such as 'cpu' or 'cuda:1'; None takes CUDA where there is one. resampler: see
    :meth:`Settings.of`. classes: names of the classes, or a file of them, one a line; None
    knows those that a training's checkpoint states, and ImageNet's.
    Raises InputError for weights without a classifier, for those of no known variant whose file
    does not say enough, for a training's checkpoint of another model, and for a device or class
    names that do not fit.
    """
    source = weights if isinstance(weights, (str, Path)) else weights.source
    device = choose_device(device)
    if isinstance(weights, (str, Path)):
        weights = load_weights(weights)
    if weights.classes is None:
        origins.refuse_other_heads(weights)
        raise InputError(f'{source}: these weights have no classifier, only a backbone: there '
                         'is nothing to predict with')
    origins.refuse_other_models(weights)
    origins.refuse_unknown_networks(weights)
    own_names = origins.own_names(weights)
    names = class_names(own_names if classes is None else classes, weights.classes)
    settings = Settings.of(weights, resampler)
    if weights.entry is None:
        origins.tell(weights, settings, names if classes is None else None)
    model = _build(weights).eval().to(device=device, memory_format=torch.channels_last)
    return Network(model=model, settings=settings, names=names, variant=weights.variant,
                   title=title_of(weights.variant), source=str(source), device=device)


def choose_device(device=None) -> torch.device:
    """The device asked for, or CUDA where there is one; InputError where it does not work."""
    if device is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(device)
        # A device that cannot be written to and read back is none.
        torch.zeros(1, device=device).cpu()
    except Exception as error:
        raise InputError(f'device {str(device)!r} does not work here ({one_line(error)}); '
                         "'cpu' always does") from error
    return device


def class_names(classes, count: int) -> tuple[str, ...]:
    """``count`` names: those given, those in a file, ImageNet's, or 'class 0' and so on."""
    if isinstance(classes, (str, Path)):
        names, origin = _names_in(Path(classes)), f'class file {str(classes)!r}'
    elif classes is not None:
        names, origin = tuple(map(str, classes)), 'classes'
    elif count == IMAGENET_CLASSES:
        from mmpretrain.datasets.categories import IMAGENET_CATEGORIES
        return tuple(IMAGENET_CATEGORIES)
    else:
        return tuple(f'class {index}' for index in range(count))
    if len(names) != count:
        raise InputError(f'{origin}: {len(names)} names, and the classifier has {count} classes')
    return names


def find_class(names: Sequence[str], wanted) -> int:
    """The index of a class given by its index, its whole name or one of its synonyms.

    A text is a name where a class has it, and then an index: classes may be called by numbers.
    Raises InputError where there is none, naming the nearest, and where there are several.
    """
    if isinstance(wanted, Integral):
        return _checked_index(names, int(wanted))
    given = str(wanted).strip()
    wanted = given.casefold()
    spellings = {}
    for index, name in enumerate(names):
        for spelling in {name.casefold(), *(part.strip().casefold() for part in name.split(','))}:
            spellings.setdefault(spelling, []).append(index)
    found = spellings.get(wanted, [])
    # A whole name goes before a synonym: 'maillot' is one, and half of 'maillot, tank suit'.
    whole = [index for index in found if names[index].casefold() == wanted]
    found = whole or found
    if not found and re.fullmatch('-?[0-9]+', wanted):  # str.isdigit() takes a superscript too
        return _checked_index(names, int(wanted))
    if not found:
        raise InputError(f'no class is called {given!r}{nearest(wanted, spellings) or "."} An '
                         f'index from 0 to {len(names) - 1} is taken too')
    if len(found) > 1:
        raise InputError(f'{len(found)} classes are called {given!r}: give an index '
                         f'({", ".join(map(str, found))})')
    return found[0]


def _checked_index(names: Sequence[str], index: int) -> int:
    if not 0 <= index < len(names):
        raise InputError(f'class {index} does not exist: there are 0 to {len(names) - 1}')
    return index


def title_of(variant: str | None) -> str:
    """'EfficientNet-B0', 'EfficientNet-Lite0', 'EfficientNet-EdgeTPU-S'; 'EfficientNet' of none."""
    if variant is None:
        return 'EfficientNet'
    if variant in ('es', 'em', 'el'):
        return f'EfficientNet-EdgeTPU-{variant[1].upper()}'
    return f'EfficientNet-{variant.capitalize()}'


def _build(weights) -> Classifier:
    """The network with the weights' own padding and BatchNorm epsilon, on the CPU."""
    stem = weights.state['backbone.layers.0.conv.weight'].shape[1]
    if stem != 3:
        raise InputError(f'{weights.source}: the stem takes {stem} channels, and a picture has 3')
    with torch.device('meta'):
        # Every tensor comes from the file: no memory and no time for random ones.
        padding, eps = origins.numerics(weights)
        backbone = EfficientNet(arch=weights.variant or weights.stated['arch'],
                                conv_cfg=CONVS[padding], norm_cfg=dict(type='BN', eps=eps),
                                deploy=folded(weights.state, BACKBONE))
        model = Classifier(backbone, EfficientNetHead(num_classes=weights.classes,
                                                      in_channels=backbone.out_channels))
    _check_tensors(weights, model.state_dict())
    counters = {key: torch.zeros((), dtype=torch.long) for key in model.state_dict()
                if key.endswith(COUNTERS)}
    # Copies: a second network of the same weights may live on another device.
    state = {**counters, **{key: tensor.clone() for key, tensor in weights.state.items()}}
    model.load_state_dict({key: tensor if key.endswith(COUNTERS) else tensor.float()
                           for key, tensor in state.items()}, strict=True, assign=True)
    return model.requires_grad_(False)


def _check_tensors(weights, expected) -> None:
    """InputError where the tensors are not those of the network."""
    named = weights.variant or 'the architecture that its training had'
    missing = {key for key in expected if not key.endswith(COUNTERS)} - set(weights.state)
    if missing:
        raise InputError(f'{weights.source}: tensors of {named} are missing: '
                         f'{", ".join(sorted(missing)[:3])}')
    other = [key for key, tensor in weights.state.items()
             if key not in expected or tensor.shape != expected[key].shape]
    if other:
        raise InputError(f'{weights.source}: {", ".join(other[:3])} have other shapes than in '
                         f'{named}, or no place there: use tools/test.py with their config')


def _names_in(path: Path) -> tuple[str, ...]:
    try:
        # Editors of Windows begin a file with a byte order mark, which is no part of a name.
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'class file {str(path)!r} cannot be read: {one_line(error)}') from error
    return tuple(line.strip() for line in lines if line.strip())
