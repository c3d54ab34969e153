"""Where each library keeps the layers of an EfficientNet: its names, as one table a library.

This module imports the standard library, ``arch`` and ``variants`` only.
"""
from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from mmeffnet.arch import Arch, Block
from mmeffnet.variants import VARIANTS


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The module names of one library.

    stem, head, plain, mbconv, fused: its names in the order in which the modules are run,
    each a convolution followed by its normalisation, except that squeeze-and-excitation
    is two convolutions. 'plain' is a mbconv block without expansion.
    block: its name for a block, of the fields ``stage`` (from 0), ``first`` (stage + 1),
    ``group`` and ``place`` (ours: groups from 1, blocks of a group from 0), ``index`` in the
    stage (from 0) and ``count`` over all blocks (from 0).
    classifier: the linear layer, which has no place in a backbone.
    writers: the programs whose files have these keys.
    stages: how many stages a network must have, where the names of stem and head fix it.
    squeezed: whether the numbers in the names count on squeeze-and-excitation in every block.
    """
    name: str
    stem: tuple[str, str]
    head: tuple[str, str]
    block: str
    plain: tuple[str, ...]
    mbconv: tuple[str, ...]
    fused: tuple[str, ...] = ()
    classifier: str = ''
    writers: str = ''
    stages: int | None = None
    squeezed: bool = False


OURS = Layout(
    name='mmeffnet', writers='mmeffnet or mmpretrain',
    # The number of the head follows the groups, so it differs between architectures.
    stem=('layers.0.conv', 'layers.0.bn'), head=('layers.{last}.conv', 'layers.{last}.bn'),
    block='layers.{group}.{place}',
    plain=('depthwise_conv.conv', 'depthwise_conv.bn', 'se.conv1.conv', 'se.conv2.conv',
           'linear_conv.conv', 'linear_conv.bn'),
    mbconv=('expand_conv.conv', 'expand_conv.bn', 'depthwise_conv.conv', 'depthwise_conv.bn',
            'se.conv1.conv', 'se.conv2.conv', 'linear_conv.conv', 'linear_conv.bn'),
    fused=('conv1.conv', 'conv1.bn', 'se.conv1.conv', 'se.conv2.conv', 'conv2.conv',
           'conv2.bn'))

TIMM = Layout(
    name='timm', writers='timm or gen-efficientnet',
    stem=('conv_stem', 'bn1'), head=('conv_head', 'bn2'), block='blocks.{stage}.{index}',
    plain=('conv_dw', 'bn1', 'se.conv_reduce', 'se.conv_expand', 'conv_pw', 'bn2'),
    mbconv=('conv_pw', 'bn1', 'conv_dw', 'bn2', 'se.conv_reduce', 'se.conv_expand',
            'conv_pwl', 'bn3'),
    fused=('conv_exp', 'bn1', 'se.conv_reduce', 'se.conv_expand', 'conv_pwl', 'bn2'),
    classifier='classifier')

TORCHVISION = Layout(
    name='torchvision', writers='torchvision',
    # Features 0 is the stem, 1 to 7 the stages and 8 the head.
    stem=('features.0.0', 'features.0.1'), head=('features.8.0', 'features.8.1'),
    block='features.{first}.{index}.block',
    plain=('0.0', '0.1', '1.fc1', '1.fc2', '2.0', '2.1'),
    mbconv=('0.0', '0.1', '1.0', '1.1', '2.fc1', '2.fc2', '3.0', '3.1'),
    classifier='classifier.1', stages=7, squeezed=True)

LUKEMELAS = Layout(
    name='lukemelas', writers='efficientnet_pytorch or efficientnet_lite_pytorch',
    stem=('_conv_stem', '_bn0'), head=('_conv_head', '_bn1'), block='_blocks.{count}',
    plain=('_depthwise_conv', '_bn1', '_se_reduce', '_se_expand', '_project_conv', '_bn2'),
    mbconv=('_expand_conv', '_bn0', '_depthwise_conv', '_bn1', '_se_reduce', '_se_expand',
            '_project_conv', '_bn2'),
    # That library has no fused blocks; our readers of TensorFlow's files write these.
    fused=('_fused_conv', '_bn0', '_se_reduce', '_se_expand', '_project_conv', '_bn1'),
    classifier='_fc')

LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in (OURS, TIMM, TORCHVISION, LUKEMELAS)}

CLASSIFIER = 'head.fc'   # of an ImageClassifier with our backbone
BACKBONE = 'backbone.'


def kind_of(block: Block) -> str:
    """The row of a layout that a block is written by."""
    plain = block.kind == 'mbconv' and block.hidden == block.in_channels
    return 'plain' if plain else block.kind


def _placed(arch: Arch) -> Iterator[tuple[dict[str, int], Block]]:
    """Each block with every way of counting it: others count stages where we count groups."""
    places = [dict(group=group, place=place)
              for group, blocks in enumerate(arch.blocks(), start=1)
              for place in range(len(blocks))]
    stages = [dict(stage=stage, first=stage + 1, index=index)
              for stage, row in enumerate(arch.stages) for index in range(row.repeats)]
    blocks = [block for group in arch.blocks() for block in group]
    for count, (place, stage, block) in enumerate(zip(places, stages, blocks, strict=True)):
        yield dict(count=count, **place, **stage), block


def _walk(arch: Arch, layout: Layout) -> Iterator[str]:
    """The layout's names of all modules that hold tensors, in the order they are run."""
    yield from layout.stem
    for place, block in _placed(arch):
        prefix = layout.block.format(**place)
        for slot, name in zip(getattr(OURS, kind_of(block)), getattr(layout, kind_of(block)),
                              strict=True):
            if block.squeeze or not slot.startswith('se.'):
                yield f'{prefix}.{name}'
    yield from (name.format(last=len(arch.groups) + 1) for name in layout.head)


def module_names(arch: Arch, layout: Layout) -> dict[str, str]:
    """Each module of our backbone that holds tensors -> the layout's name for it.

    Raises ValueError where the layout has no such networks.
    """
    if layout.stages and len(arch.stages) != layout.stages:
        raise ValueError(f'{layout.name} has networks of {layout.stages} stages alone')
    for _, block in _placed(arch):
        if not getattr(layout, kind_of(block)):
            raise ValueError(f'{layout.name} has no {kind_of(block)} blocks')
        if layout.squeezed and not block.squeeze:
            raise ValueError(f'{layout.name} has no blocks without squeeze-and-excitation')
    return dict(zip(_walk(arch, OURS), _walk(arch, layout), strict=True))


Shape = tuple[int, ...]


def conv_shapes(arch: Arch) -> dict[str, Shape]:
    """Each convolution of our backbone -> the shape of its kernel (out, in / groups, k, k).

    The stem is left out: its input channels are the user's.
    """
    shapes = {}
    for place, block in _placed(arch):
        prefix = OURS.block.format(**place)
        for name, shape in _block_shapes(block).items():
            shapes[f'{prefix}.{name}'] = shape
    head = OURS.head[0].format(last=len(arch.groups) + 1)
    return {**shapes, head: (arch.head, arch.stages[-1].channels, 1, 1)}


def _block_shapes(block: Block) -> dict[str, Shape]:
    hidden, k = block.hidden, block.kernel
    if block.kind == 'fused':
        shapes = {'conv1.conv': (hidden, block.in_channels, k, k),
                  'conv2.conv': (block.out_channels, hidden, 1, 1)}
    else:
        shapes = {'depthwise_conv.conv': (hidden, 1, k, k),
                  'linear_conv.conv': (block.out_channels, hidden, 1, 1)}
        if kind_of(block) == 'mbconv':
            shapes['expand_conv.conv'] = (hidden, block.in_channels, 1, 1)
    if block.squeeze:
        shapes['se.conv1.conv'] = (block.squeeze, hidden, 1, 1)
        shapes['se.conv2.conv'] = (hidden, block.squeeze, 1, 1)
    return shapes


@cache
def named_shapes(arch: Arch, layout: Layout) -> dict[str, Shape] | None:
    """The kernels of ``arch`` under a layout's keys, None where it has no such blocks."""
    try:
        names = module_names(arch, layout)
    except ValueError:
        return None
    return {f'{names[module]}.weight': shape for module, shape in conv_shapes(arch).items()}


# A file that lost a few tensors is still known by the others; no two variants share more
# than 0.7 of their kernels (b0 and b1, es and em).
ENOUGH = 0.9


def recognise(shapes: Mapping[str, Shape], layout: Layout, also: Arch | None = None
              ) -> tuple[str | None, Arch | None]:
    """The variant, and the architecture, whose kernels a file's tensors have.

    shapes: of the tensors by the layout's keys, without prefix. also: an architecture to look for
    besides the published ones; without a name where no variant has as many of its kernels, and
    given in the place of a variant that has no more: what no kernel tells is then its own.
    (None, None) where no architecture has nine tenths of its kernels there, or where the file
    has more blocks.
    """
    shares = {name: _share(shapes, layout, variant.arch) for name, variant in VARIANTS.items()}
    name = max(shares, key=shares.get)
    own = _share(shapes, layout, also) if also else 0.0
    if max(own, shares[name]) < ENOUGH:
        return None, None
    return (name if shares[name] >= own else None,
            also if own >= shares[name] else VARIANTS[name].arch)


def _share(shapes: Mapping[str, Shape], layout: Layout, arch: Arch) -> float:
    """How many of the kernels of ``arch`` a file has, of those that either has."""
    expected = named_shapes(arch, layout)
    if not expected:
        return 0.0
    kernels = sum(len(shape) == 4 for shape in shapes.values())
    agreeing = sum(tuple(shapes.get(key, ())) == shape for key, shape in expected.items())
    return agreeing / max(len(expected), kernels - 1)
