"""Whether neck and heads of a config fit the outputs of its backbone, before anything is built.

No PyTorch of its own. OpenMMLab's necks and heads take channels and strides as numbers, and
nothing compares them: channels that do not fit end in an error inside a convolution, strides
that do not fit in a detector that learns nothing.
"""
from collections.abc import Iterator, Mapping, Sequence

from mmeffnet.errors import InputError
from mmeffnet.features import FeatureInfo, check_indices, feature_info
from mmeffnet.grids import as_list, check_grids, name_of, several
from mmeffnet.variants import VARIANTS

BACKBONE = 'mmeffnet.EfficientNet'

# Necks of mmdet, mmseg and ours that upsample each level to the one before it and add up.
PYRAMIDS = {'BiFPN', 'CSPNeXtPAFPN', 'FPG', 'FPN', 'FPN_CARAFE', 'NASFCOS_FPN', 'NASFPN', 'PAFPN',
            'RFP', 'YOLOXPAFPN'}
# Those that give ``num_outs`` levels, the last ones by halving again and again.
EXTENDED = {'BiFPN', 'FPG', 'FPN', 'FPN_CARAFE', 'NASFPN', 'PAFPN', 'RFP'}
# What ours has where a config says nothing; the others have no default.
NUM_OUTS = {'BiFPN': 5}
# The first output that a neck takes where a config says nothing; of the others it is output 0.
START = {'NASFCOS_FPN': 1}
# Those that give what they take, level by level.
KEPT = {'BFP', 'CSPNeXtPAFPN', 'DyHead', 'GlobalAveragePooling', 'YOLOXPAFPN'}
# Gives one level, made from the last output.
LAST = {'DilatedEncoder'}
# Lists its channels from the coarsest level to the finest.
REVERSED = {'YOLOV3Neck'}
# Those that take every output; others may leave out the last ones.
WHOLE = PYRAMIDS | KEPT | REVERSED | {
    'ChannelMapper', 'FPN_DropBlock', 'HRFPN', 'JPU', 'MLANeck', 'MultiLevelNeck'}

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
        necks = as_list(part.get('neck'))
        if necks:
            _check_channels(f'{path}.neck', necks[0], info, backbone)
            _check_levels(path, necks[0], info, backbone)
        strides = _strides_after(necks, info)
        if strides is not None:
            channels = _channels_after(necks, info)
            check_grids(path, part, strides, channels, 'neck' if necks else 'backbone')
            for place, head in _indexed_heads(path, part):
                _check_head(place, head, channels, strides, backbone)


def _with_our_backbone(node, path: str) -> Iterator[tuple[str, Mapping]]:
    if isinstance(node, Mapping):
        backbone = node.get('backbone')
        if isinstance(backbone, Mapping) and name_of(backbone, full=True) == BACKBONE:
            yield path, node
        for key, value in node.items():
            yield from _with_our_backbone(value, f'{path}.{key}')


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
        right = info.channels[::-1] if name_of(neck) in REVERSED else info.channels
        if name_of(neck) not in WHOLE and channels == right[:len(channels)]:
            return
    else:
        return
    if channels != right:
        raise InputError(f'{path}.in_channels={channels}: the backbone ({_outputs(backbone)}) '
                         f'gives {info.channels} channels at strides {info.strides}; '
                         f'write in_channels={right}')


def _check_levels(path: str, neck: Mapping, info: FeatureInfo, backbone: Mapping) -> None:
    """A pyramid needs each level coarser than the one before."""
    if name_of(neck) not in PYRAMIDS:
        return
    taken = info[_taken(neck)]
    for fine, coarse in zip(taken, taken[1:]):
        if fine.stride == coarse.stride:
            # The head convolution is wide and no deeper; elsewhere the later is the deeper.
            dropped = coarse if coarse.name == 'head' else fine
            left = tuple(f.index for f in info if f is not dropped)
            kept = feature_info(backbone.get('arch', 'b0'), left, scaling=backbone.get('scaling'),
                                output_stride=backbone.get('output_stride'))
            end, outs = neck.get('end_level', -1), _num_outs(neck)
            last = '' if end == -1 else f', neck.end_level={end - 1}'
            if last and _start(neck) + outs <= len(info):  # and none made beyond them
                last += f', neck.num_outs={outs - 1}'
            raise InputError(
                f'{path}.backbone ({_outputs(backbone)}): outputs {fine.index} and '
                f'{coarse.index} both have stride {fine.stride}, and {name_of(neck)} needs each '
                f'level coarser than the one before; write out_indices={left} and '
                f'neck.in_channels={kept.channels}{last}')


def _taken(neck: Mapping) -> slice:
    """The outputs of the backbone that a neck takes; from others come further levels at most."""
    start = _start(neck)
    # mmdet's take ``end_level`` too and mmseg's does not; with one, all give what they take.
    return slice(start, None if neck.get('end_level', -1) == -1 else start + _num_outs(neck))


def _start(neck: Mapping) -> int:
    return neck.get('start_level', START.get(name_of(neck), 0))


def _num_outs(neck: Mapping) -> int:
    return neck.get('num_outs', NUM_OUTS.get(name_of(neck), 0))


def _strides_after(necks: list, info: FeatureInfo) -> list[int] | None:
    """The strides of what the heads see; None behind a neck that is not known here."""
    strides = info.strides
    for neck in necks:
        if name_of(neck) in EXTENDED:
            if not _num_outs(neck):
                return None  # its own constructor asks for it
            strides = strides[_taken(neck)]
            while strides and len(strides) < _num_outs(neck):
                strides = [*strides, 2 * strides[-1]]
        elif name_of(neck) in LAST:
            strides = strides[-1:]
        elif name_of(neck) not in KEPT:
            return None
    return strides


def _channels_after(necks: list, info: FeatureInfo) -> list[int] | None:
    """The channels of what the heads see; None where they are not known."""
    if not necks or name_of(necks[-1]) == 'GlobalAveragePooling':
        return info.channels
    width = necks[-1].get('out_channels')
    return [width] * len(_strides_after(necks, info)) if isinstance(width, int) else None


def _indexed_heads(path: str, part: Mapping) -> Iterator[tuple[str, Mapping]]:
    for name in INDEXED:
        heads = part.get(name)
        for i, head in enumerate(as_list(heads)):
            yield f'{path}.{name}' + ('' if isinstance(heads, Mapping) else f'.{i}'), head


def _check_head(place: str, head: Mapping, channels: list[int] | None, strides: list[int],
                backbone: Mapping) -> None:
    _check_arch(place, head, channels, backbone)
    stated = head.get('in_channels')
    # Without an index a head takes the last output, or all of them.
    index = head.get('in_index', range(len(strides)) if several(stated) else -1)
    taken = index if several(index) else (index, )
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
        stated = list(head[field]) if several(head.get(field)) else head.get(field)
        right = [all_outputs[i] for i in indices]
        right = right if several(stated) else right[0]
        if stated and stated != right:
            raise InputError(f'{place}.{field}={stated}: output {_words(indices)} of '
                             f'{all_outputs} is what it takes ({_outputs(backbone)}); write '
                             f'{field}={right}')


def _check_arch(place: str, head: Mapping, channels: list[int] | None, backbone: Mapping) -> None:
    """Our classifier takes its channels from an ``arch`` of its own."""
    arch, mine = head.get('arch'), backbone.get('arch', 'b0')
    known = isinstance(arch, str) and arch in VARIANTS and name_of(head) == 'EfficientNetHead'
    takes = VARIANTS[arch].arch.head if known and not head.get('in_channels') else None
    if takes and channels and takes != channels[-1]:
        way = f'arch={mine!r}' if isinstance(mine, str) and not backbone.get('scaling') else (
            f'in_channels={channels[-1]}')
        raise InputError(f'{place}.arch={arch!r} takes {takes} channels, and the backbone '
                         f'({_outputs(backbone)}) gives {channels[-1]}: write {way} there')


def _words(indices: Sequence[int]) -> str:
    return ', '.join(map(str, indices))
