"""The input that a Keras network normalises inside, from its file."""
from __future__ import annotations

import json
import re
from collections.abc import Iterator

import numpy as np

from mmeffnet.errors import InputError, one_line
from mmeffnet.variants import IMAGENET_NORM, Norm

WAY_OUT = 'save the whole network by model.save("....h5") and give that file'

# The last digit of float32 and of the rounded numbers that are published.
CLOSE = 1e-4


def normalisation(layer: dict[str, np.ndarray], config, path) -> Norm:
    """What RGB in 0..255 has to be normalised by, where the network's own layer is left out.

    layer: 'mean' and 'variance' of x / 255. config: the network's description as JSON, None
    where the file has none. The published files keep *standard deviations* in place of the
    variances, and the network that loads them divides once more by their root
    (tensorflow#49930 and #48412), which comes to the usual ImageNet numbers. So: those,
    written either way, are ImageNet's; mean 0 and variance 1 is x / 255; other numbers need
    the architecture, which only ``model.save`` writes.
    Raises InputError for a normalisation that cannot be told.
    """
    mean, variance = (np.asarray(layer[key], float).reshape(-1) for key in ('mean', 'variance'))
    if config is not None:
        return _from_architecture(mean, variance, config, path)
    known, std = np.array(IMAGENET_NORM.mean) / 255, np.array(IMAGENET_NORM.std) / 255
    if any(_close(mean, known) and _close(variance, stored) for stored in (std, std ** 2)):
        return IMAGENET_NORM
    if _close(mean, np.zeros(len(mean))) and _close(variance, np.ones(len(mean))):
        return Norm(mean=(0., ) * len(mean), std=(255., ) * len(mean))
    raise InputError(
        f'{str(path)!r} normalises by mean {mean.round(4).tolist()} and variance '
        f'{variance.round(4).tolist()}, and whether the network rescales after that is not in '
        f'the file: {WAY_OUT}')


def _close(values: np.ndarray, known: np.ndarray) -> bool:
    return values.shape == known.shape and np.allclose(values, known, rtol=0, atol=CLOSE)


# What may stand before the stem and leaves the values of the input alone, at inference.
HARMLESS = re.compile(r'InputLayer|Normalization|ZeroPadding2D|Resizing|CenterCrop|Random\w+')


def layers_of(network: dict) -> Iterator[dict]:
    """The layers by a network's description, those of a network among them in its place."""
    for layer in network['config']['layers']:
        if 'layers' in layer['config']:
            yield from layers_of(layer)
        else:
            yield layer


def _from_architecture(mean, variance, config, path) -> Norm:
    """What the layers before the stem do, by the network's own description."""
    before = after = np.ones(len(mean))
    seen = False
    try:
        for layer in layers_of(json.loads(config)):
            kind = layer['class_name']
            if kind == 'Conv2D':
                break  # the stem
            seen = seen or kind == 'Normalization'
            if not HARMLESS.fullmatch(kind):
                factor = _factor(layer, path)
                before, after = (before, after * factor) if seen else (before * factor, after)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(f'{str(path)!r} describes its network otherwise than Keras 2 and 3 do '
                         f'({one_line(error)}): {WAY_OUT}') from error
    mean, std = mean / before, np.sqrt(variance) / (before * after)
    if _close(mean / 255, np.array(IMAGENET_NORM.mean) / 255) and _close(
            std / 255, np.array(IMAGENET_NORM.std) / 255):
        return IMAGENET_NORM
    return Norm(mean=tuple(mean.round(6).tolist()), std=tuple(std.round(6).tolist()))


def _factor(layer: dict, path) -> np.ndarray:
    """What a layer before the stem multiplies its input by."""
    kind, settings = layer['class_name'], layer['config']
    if kind == 'Rescaling' and not np.any(np.asarray(settings.get('offset', 0.), float)):
        return np.asarray(settings['scale'], float).reshape(-1)
    if kind == 'TFOpLambda' and settings['function'] == 'math.multiply':
        # Keras 2 divides by the roots of the deviations in this way, with its call's arguments.
        return np.asarray(layer['inbound_nodes'][0][3]['y'], float).reshape(-1)
    raise InputError(f'{str(path)!r}: layer {settings["name"]!r} ({kind}) changes the input '
                     'before the stem in a way that cannot be told: give a network without it')
