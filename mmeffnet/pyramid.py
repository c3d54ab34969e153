"""Whether neck and heads of a config fit the outputs of its backbone, before anything is built.

No PyTorch here. OpenMMLab's necks and heads take channels and strides as numbers, and nothing
compares them: channels that do not fit end in an error inside a convolution, strides that do
not fit in a detector that learns nothing.
"""
from collections.abc import Iterator, Mapping, Sequence

from mmeffnet.errors import InputError
from mmeffnet.features import FeatureInfo, check_indices, feature_info

BACKBONE = 'mmeffnet.EfficientNet'

# Necks of mmdet, mmseg and ours that upsample each level to the one before it and add up.
PYRAMIDS = {'BiFPN', 'CSPNeXtPAFPN', 'FPG', 'FPN', 'FPN_CARAFE', 'NASFCOS_FPN', 'NASFPN', 'PAFPN',
            'RFP', 'YOLOXPAFPN'}
# Those that give ``num_outs`` levels, the last ones by halving again and again.
EXTENDED = {'BiFPN', 'FPG', 'FPN', 'FPN_CARAFE', 'NASFPN', 'PAFPN', 'RFP'}
# Those that give what they take, level by level.
KEPT = {'BFP', 'CSPNeXtPAFPN', 'DyHead', 'GlobalAveragePooling', 'YOLOXPAFPN'}
# Lists its channels from the coarsest level to the finest.
REVERSED = {'YOLOV3Neck'}

# Where a detector says strides: of all levels of the neck, or of the first ones.
ALL_LEVELS = ('bbox_head', 'rpn_head')
STRIDES = ('strides', 'point_strides')
GENERATORS = ('anchor_generator', 'prior_generator', 'approx_anchor_generator',
              'square_anchor_generator')
# What our own head has where a config says nothing.
DEFAULTS = {'EfficientDetHead': dict(anchor_generator=dict(
    type='mmeffnet.EfficientDetAnchorGenerator', strides=[8, 16, 32, 64, 128]))}
EXTRACTORS = ('bbox_roi_extractor', 'mask_roi_extractor')
# Heads that take outputs by their ``in_index``, and classifiers.
INDEXED = ('decode_head', 'auxiliary_head', 'panoptic_head', 'head')


def check_model(model: Mapping | None) -> None:
    """Refuse neck and heads that do not fit the outputs of our backbone.

    model: the ``model`` of a config for mmpretrain, mmdet or mmseg; models inside it (teachers,
    wrapped detectors) are looked at too, those with another backbone are passed over.
    Raises InputError naming the field, its value and the right numbers, and ValueError as the
    backbone does.
    """
    for path, part in _with_our_backbone(model, 'model'):
        backbone = part['backbone']
        info = feature_info(
            backbone.get('arch', 'b0'), backbone.get('out_indices', (-1, )),
            scaling=backbone.get('scaling'), output_stride=backbone.get('output_stride'))
        if part.get('pretrained') is not None:  # mmseg's configs hold a ResNet there
            raise InputError(
                f'{path}.pretrained={part["pretrained"]!r}: our backbone takes weights by '
                "init_cfg; write pretrained=None and init_cfg=dict(type='Pretrained', "
                'checkpoint=...) in the backbone')
        necks = _as_list(part.get('neck'))
        if necks:
            _check_channels(f'{path}.neck', necks[0], info, backbone)
            _check_levels(path, necks[0], info, backbone)
        strides = _strides_after(necks, info)
        if strides is not None:
            channels, source = _channels_after(necks, info), 'neck' if necks else 'backbone'
            for place, head in _level_heads(path, part):
                _check_strides(place, head, strides, source)
                _check_width(place, head, channels, source)
            _check_regions(path, part, strides, source)
            for place, head in _indexed_heads(path, part):
                _check_head(place, head, channels, strides, backbone)


def _with_our_backbone(node, path: str) -> Iterator[tuple[str, Mapping]]:
    if isinstance(node, Mapping):
        backbone = node.get('backbone')
        if isinstance(backbone, Mapping) and _name(backbone, full=True) == BACKBONE:
            yield path, node
        for key, value in node.items():
            yield from _with_our_backbone(value, f'{path}.{key}')


def _name(part: Mapping, full: bool = False) -> str:
    """The name of a part's type, without its scope unless ``full``."""
    kind = part.get('type', '')
    if not isinstance(kind, str):  # new configs hold the class itself
        kind = f'{kind.__module__.partition(".")[0]}.{kind.__name__}'
    return kind if full else kind.rpartition('.')[2]


def _as_list(part) -> list:
    return [part] if isinstance(part, Mapping) else list(part or ())


def _outputs(backbone: Mapping) -> str:
    scaled = ' scaled' if backbone.get('scaling') else ''
    stride = backbone.get('output_stride')
    arch = backbone.get('arch', 'b0')
    name = f'arch={arch!r}' if isinstance(arch, str) else 'its arch'
    return (f'{name}{scaled}, out_indices={tuple(backbone.get("out_indices", (-1, )))!r}'
            + (f', output_stride={stride}' if stride else ''))


def _check_channels(path: str, neck: Mapping, info: FeatureInfo, backbone: Mapping) -> None:
    channels = neck.get('in_channels')
    if isinstance(channels, int) and len(info) == 1:
        right = info.channels[0]
    elif isinstance(channels, Sequence) and not isinstance(channels, str):
        channels = list(channels)
        right = info.channels[::-1] if _name(neck) in REVERSED else info.channels
    else:
        return
    if channels != right:
        raise InputError(f'{path}.in_channels={channels}: the backbone ({_outputs(backbone)}) '
                         f'gives {info.channels} channels at strides {info.strides}; '
                         f'write in_channels={right}')


def _check_levels(path: str, neck: Mapping, info: FeatureInfo, backbone: Mapping) -> None:
    """A pyramid needs each level coarser than the one before."""
    if _name(neck) not in PYRAMIDS:
        return
    taken = info[_taken(neck)]
    for fine, coarse in zip(taken, taken[1:]):
        if fine.stride == coarse.stride:
            # The head convolution is wide and no deeper; elsewhere the later is the deeper.
            dropped = coarse if coarse.name == 'head' else fine
            left = tuple(f.index for f in info if f is not dropped)
            kept = feature_info(backbone.get('arch', 'b0'), left, scaling=backbone.get('scaling'),
                                output_stride=backbone.get('output_stride'))
            last = _taken(neck).stop
            last = f' and neck.end_level={last - 2}' if last else ''
            raise InputError(
                f'{path}.backbone ({_outputs(backbone)}): outputs {fine.index} and '
                f'{coarse.index} both have stride {fine.stride}, and {_name(neck)} needs each '
                f'level coarser than the one before; write out_indices={left} and '
                f'neck.in_channels={kept.channels}{last}')


def _taken(neck: Mapping) -> slice:
    """The outputs of the backbone that a neck takes; from others come further levels at most."""
    start, end = neck.get('start_level', 0), neck.get('end_level', -1)
    return slice(start, None if end in (-1, None) else end + 1)


def _strides_after(necks: list, info: FeatureInfo) -> list[int] | None:
    """The strides of what the heads see; None behind a neck that is not known here."""
    strides = info.strides
    for neck in necks:
        if _name(neck) in EXTENDED:
            strides = strides[_taken(neck)]
            while strides and len(strides) < neck.get('num_outs', 0):
                strides = [*strides, 2 * strides[-1]]
        elif _name(neck) not in KEPT:
            return None
    return strides


def _channels_after(necks: list, info: FeatureInfo) -> list[int] | None:
    """The channels of what the heads see; None where they are not known."""
    if not necks or _name(necks[-1]) == 'GlobalAveragePooling':
        return info.channels
    width = necks[-1].get('out_channels')
    return [width] * len(_strides_after(necks, info)) if isinstance(width, int) else None


def _level_heads(path: str, part: Mapping) -> Iterator[tuple[str, Mapping]]:
    """Heads that take all levels, with the stages of those that have any."""
    for name in ALL_LEVELS:
        head = part.get(name)
        if isinstance(head, Mapping):
            yield f'{path}.{name}', {**DEFAULTS.get(_name(head), {}), **head}
            for i, stage in enumerate(head.get('stages') or ()):
                yield f'{path}.{name}.stages.{i}', stage


def _check_strides(place: str, head: Mapping, strides: list[int], source: str) -> None:
    """Anchors and points must be laid out on the grid of their level."""
    owners = {'': head, **{f'{key}.': head.get(key) or {} for key in GENERATORS}}
    for prefix, owner in owners.items():
        for field in STRIDES:
            stated = owner.get(field)
            if stated is not None and not _same_grid(_squares(stated), strides):
                raise InputError(f'{place}.{prefix}{field}={list(stated)}: the {source} gives '
                                 f'levels with strides {strides}; write {field}={strides}')


def _same_grid(stated: list, strides: list[int]) -> bool:
    """Whether strides are those of the levels; broken ones are, where no other level is nearer.

    Such are made for inputs of one size: YOLACT's first level has 69 points for 550 pixels.
    """
    if len(stated) == len(strides) and any(s % 1 for s in stated if not _several(s)):
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
        for extractor in _as_list((part.get('roi_head') or {}).get(name)):
            stated = list(extractor.get('featmap_strides') or ())
            if stated != strides[:len(stated)]:
                raise InputError(
                    f'{path}.roi_head.{name}.featmap_strides={stated}: the first levels of the '
                    f'{source} have strides {strides[:len(stated)]}; write '
                    f'featmap_strides={strides[:len(stated)]}')


def _squares(strides) -> list:
    """(8, 8) means the same as 8."""
    return [s[0] if isinstance(s, Sequence) and len(set(s)) == 1 else s for s in strides]


def _indexed_heads(path: str, part: Mapping) -> Iterator[tuple[str, Mapping]]:
    for name in INDEXED:
        heads = part.get(name)
        for i, head in enumerate(_as_list(heads)):
            yield f'{path}.{name}' + ('' if isinstance(heads, Mapping) else f'.{i}'), head


def _check_head(place: str, head: Mapping, channels: list[int] | None, strides: list[int],
                backbone: Mapping) -> None:
    stated = head.get('in_channels')
    # Without an index a head takes the last output, or all of them.
    index = head.get('in_index', range(len(strides)) if _several(stated) else -1)
    taken = index if _several(index) else (index, )
    try:
        check_indices(taken, len(strides))
    except ValueError:
        raise InputError(f'{place}.in_index={index!r}: there are {len(strides)} outputs '
                         f'({_outputs(backbone)}); write indices from 0 to '
                         f'{len(strides) - 1}') from None
    fields = [('feature_strides', strides, taken)]
    if channels is not None:
        fields += [('in_channels', channels, taken), ('c1_in_channels', channels, (0, ))]
    for field, all_outputs, indices in fields:
        stated = list(head[field]) if _several(head.get(field)) else head.get(field)
        right = [all_outputs[i] for i in indices]
        right = right if _several(stated) else right[0]
        if stated and stated != right:
            raise InputError(f'{place}.{field}={stated}: output {_words(indices)} of '
                             f'{all_outputs} is what it takes ({_outputs(backbone)}); write '
                             f'{field}={right}')


def _several(value) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _words(indices: Sequence[int]) -> str:
    return ', '.join(map(str, indices))
