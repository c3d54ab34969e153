"""Whether the anchors, points and regions of a detector lie on the grids of its levels.

No PyTorch here, unless a head of mmdet leaves its strides to the defaults of its class. A head
that all levels share has their channels, and a stride for each of them.
"""
import inspect
from collections.abc import Iterator, Mapping, Sequence

from mmeffnet.errors import InputError

# Where a detector says strides: of all levels of the neck, or of the first ones.
ALL_LEVELS = ('bbox_head', 'rpn_head')
STRIDES = ('strides', 'point_strides')
GENERATORS = ('anchor_generator', 'prior_generator', 'approx_anchor_generator',
              'square_anchor_generator')
# What our own head has where a config says nothing; others are asked.
DEFAULTS = {'EfficientDetHead': dict(anchor_generator=dict(
    type='mmeffnet.EfficientDetAnchorGenerator', strides=[8, 16, 32, 64, 128]))}
EXTRACTORS = ('bbox_roi_extractor', 'mask_roi_extractor')


def check_grids(path: str, part: Mapping, strides: list[int], channels: list[int] | None,
                source: str) -> None:
    """Refuse heads that take all levels, and extractors of regions, for other levels.

    part: a detector's config, at ``path``. strides, channels: of the levels that ``source``,
    'neck' or 'backbone', gives; channels None where they are not known.
    Raises InputError naming the field, its value and the right numbers.
    """
    for place, head in _level_heads(path, part):
        _check_strides(place, head, strides, source)
        _check_width(place, head, channels, source)
    _check_regions(path, part, strides, source)


def _level_heads(path: str, part: Mapping) -> Iterator[tuple[str, Mapping]]:
    """Heads that take all levels, with the stages of those that have any."""
    for name in ALL_LEVELS:
        head = part.get(name)
        if isinstance(head, Mapping):
            yield f'{path}.{name}', head
            for i, stage in enumerate(head.get('stages') or ()):
                yield f'{path}.{name}.stages.{i}', stage


def _with_defaults(head: Mapping) -> Mapping:
    """A head whose config says nothing of its anchors or points, with the default ones."""
    laying = (*STRIDES, *GENERATORS)
    if any(head.get(key) is not None for key in laying):
        return head
    if name_of(head) in DEFAULTS:
        return {**DEFAULTS[name_of(head)], **head}
    for kind in inspect.getmro(_class_of(head)):
        # The nearest class that has some: RepPoints' point_strides go before strides, which it
        # inherits and does not use.
        arguments = inspect.signature(kind.__init__).parameters.values()
        found = {a.name: a.default for a in arguments
                 if a.name in laying and isinstance(a.default, (Sequence, Mapping))}
        if found or not any(a.kind is a.VAR_KEYWORD for a in arguments):
            return {**found, **head}
    return head


def _class_of(part: Mapping) -> type:
    """The class that a config builds, ``object`` where mmdet cannot be asked for it."""
    kind = part.get('type')
    if kind and isinstance(kind, str):
        try:
            from mmdet.registry import MODELS  # here, for the checks need no mmdet
            kind = MODELS.get(kind)
        except ImportError:  # then nothing of it is built
            return object
    return kind if inspect.isclass(kind) else object


def _check_strides(place: str, head: Mapping, strides: list[int], source: str) -> None:
    """Anchors and points must be laid out on the grid of their level."""
    given, head = head, _with_defaults(head)
    note = '' if head is given else ' (the default)'
    owners = {'': head, **{f'{key}.': head.get(key) or {} for key in GENERATORS}}
    for prefix, owner in owners.items():
        for field in STRIDES:
            stated = owner.get(field)
            if stated is not None and not _same_grid(_squares(stated), strides):
                raise InputError(f'{place}.{prefix}{field}={list(stated)}{note}: the {source} '
                                 f'gives levels with strides {strides}; write {field}={strides}')


def _same_grid(stated: list, strides: list[int]) -> bool:
    """Whether strides are those of the levels; broken ones are, where no other level is nearer.

    Such are made for inputs of one size: YOLACT's first level has 69 points for 550 pixels.
    """
    if len(stated) == len(strides) and any(s % 1 for s in stated if not several(s)):
        return all(right / 2 < s * s / right < right * 2 for s, right in zip(stated, strides))
    return stated == strides


def _check_width(place: str, head: Mapping, channels: list[int] | None, source: str) -> None:
    """A head that all levels share takes their channels."""
    stated, right = head.get('in_channels'), set(channels or ())
    if isinstance(stated, int) and len(right) == 1 and stated not in right:
        raise InputError(f'{place}.in_channels={stated}: the {source} gives levels with '
                         f'{channels[0]} channels; write in_channels={channels[0]}')


def _check_regions(path: str, part: Mapping, strides: list[int], source: str) -> None:
    """Regions are taken from the grids of the first levels."""
    for name in EXTRACTORS:
        for extractor in as_list((part.get('roi_head') or {}).get(name)):
            stated = list(extractor.get('featmap_strides') or ())
            if stated != strides[:len(stated)]:
                raise InputError(
                    f'{path}.roi_head.{name}.featmap_strides={stated}: the first levels of the '
                    f'{source} have strides {strides[:len(stated)]}; write '
                    f'featmap_strides={strides[:len(stated)]}')


def _squares(strides) -> list:
    """(8, 8) means the same as 8."""
    return [s[0] if isinstance(s, Sequence) and len(set(s)) == 1 else s for s in strides]


def name_of(part: Mapping, full: bool = False) -> str:
    """The name of a part's type, without its scope unless ``full``."""
    kind = part.get('type', '')
    if not isinstance(kind, str):  # new configs hold the class itself
        kind = f'{kind.__module__.partition(".")[0]}.{kind.__name__}'
    return kind if full else kind.rpartition('.')[2]


def as_list(part) -> list:
    """The configs where one part or several may stand."""
    return [part] if isinstance(part, Mapping) else list(part or ())


def several(value) -> bool:
    """Whether a field states a number for each of several outputs."""
    return isinstance(value, Sequence) and not isinstance(value, str)
