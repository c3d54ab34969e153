"""What a config must have, and what it loses, where its network is exchanged for another."""
from __future__ import annotations

from collections.abc import Mapping
from functools import reduce

from mmeffnet.errors import InputError

# The parts of a model that are scaled, and the types whose arguments do it.
PARTS = {'backbone': 'mmeffnet.EfficientNet', 'head': 'mmeffnet.EfficientNetHead'}
# What goes with weights, by its place in a config, and what it is without them. Of the initial
# weights of a part only those of a checkpoint do.
WITH_WEIGHTS = {'load_from': None, 'model.pretrained': None, 'model.init_cfg': None,
                'model.head.init_cfg': None, 'model.backbone.init_cfg': None,
                'model.backbone.frozen_stages': 0, 'model.backbone.norm_eval': False}


def check_parts(cfg, named: str) -> None:
    """InputError where the model of ``cfg``, which the message calls ``named``, is not ours."""
    for part, kind in PARTS.items():
        given = ((cfg.get('model') or {}).get(part) or {}).get('type')
        if given != kind:
            raise InputError(f'{named}: its {part} is {given!r}, and only {kind!r} is scaled here')


def with_weights(cfg) -> dict[str, int | None]:
    """What of a config goes with weights of its network, and what it is without them."""
    found = {place: reduce(lambda part, name: part.get(name), place.split('.'), cfg)
             for place in WITH_WEIGHTS}
    return {place: WITH_WEIGHTS[place] for place, value in found.items()
            if (_loads(value) if place.endswith('init_cfg') else value)}


def _loads(initial) -> bool:
    """Whether initial weights, of one ``init_cfg`` or a list, come from a checkpoint."""
    return any('checkpoint' in part for part in (
        [initial] if isinstance(initial, Mapping) else initial or ()))
