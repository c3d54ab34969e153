"""Where trainers put the weights inside of a checkpoint."""
from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from mmeffnet.errors import InputError

# The averaged ones first: MMEngine writes its averaged weights to 'state_dict' itself, timm and
# torchvision beside the raw ones.
WRAPPERS = ('state_dict_ema', 'model_ema', 'state_dict', 'model')
# Ends of keys that have a tensor in every layout.
TENSORS = ('.weight', '.bias', '.running_mean', '.running_var')
DEPTH = 3  # of dicts in dicts that are looked through for tensors


def weights_of(checkpoint) -> dict[str, torch.Tensor]:
    """The state dict inside a checkpoint; averaged weights where there are both.

    Raises InputError where there is none, and for something else in the place of a tensor.
    """
    if isinstance(checkpoint, Mapping):
        held = [checkpoint[wrapper] for wrapper in WRAPPERS
                if isinstance(checkpoint.get(wrapper), Mapping)]
        for place in held or [checkpoint]:
            # Some averages are kept with their counter: model_ema=dict(module=..., updates=3).
            place = place['module'] if isinstance(place.get('module'), Mapping) else place
            weights = {str(k).removeprefix('module.'): v for k, v in place.items()
                       if isinstance(v, torch.Tensor)}
            _check_tensors(place)
            if weights:
                return weights
    raise InputError('the checkpoint holds no weights: neither itself nor one of its entries '
                     f'{", ".join(map(repr, WRAPPERS))} is a dict of tensors'
                     f'{_way_out(checkpoint)}')


def _check_tensors(place: Mapping) -> None:
    # What lies beside the layers of a network may be anything.
    layers = {str(key).rpartition('.')[0] for key, value in place.items()
              if isinstance(value, torch.Tensor)}
    for key, value in place.items():
        if (str(key).endswith(TENSORS) and value is not None and not isinstance(value, torch.Tensor)
                and str(key).rpartition('.')[0] in layers):
            kind = f'{type(value).__module__}.{type(value).__qualname__}'
            raise InputError(f'{key} is no tensor but of {kind.removeprefix("builtins.")}: save '
                             'it as a tensor, as by torch.as_tensor(value)')


def _way_out(checkpoint) -> str:
    """Where the tensors lie instead; nothing where there are none."""
    places = dict(_places(checkpoint, ''))
    if not places:
        return ''
    most = max(places, key=places.get)
    return (f'; tensors lie in checkpoint{most}: save that alone, by '
            f"torch.save(checkpoint{most}, 'weights.pth')")


def _places(node, path: str, depth: int = DEPTH) -> Iterator[tuple[str, int]]:
    """Each dict of tensors below a checkpoint, as it is reached in Python, and how many it has."""
    if isinstance(node, Mapping) and depth >= 0:
        tensors = sum(isinstance(value, torch.Tensor) for value in node.values())
        if tensors and path:
            yield path, tensors
        for key, value in node.items():
            yield from _places(value, f'{path}[{key!r}]', depth - 1)
