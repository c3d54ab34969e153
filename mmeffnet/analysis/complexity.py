"""Parameters, multiply-adds and activations of an architecture, in closed form; no PyTorch.

What is counted, here and in :mod:`mmeffnet.analysis.measured`:

- parameters: everything that is trained: kernels, biases, the two affine numbers of each
  normalised channel, the classifier. BatchNorm's running statistics are not.
- multiply-adds: products that are summed up in convolutions and the classifier, the 1x1 ones of
  squeeze-and-excitation among them. Biases, normalisation, activations, pooling and the products
  of the gates are not counted: they wait for memory and not for arithmetic.
- activations: elements that leave convolutions and the classifier, for one image.

A multiply-add is *two* floating-point operations. Papers and most counters, the paper of
EfficientNet among them, write "FLOPs" for multiply-adds; ``flops`` is the true number of
operations, twice as many. MMEngine's counter, asked for its total, adds normalisation and pooling
and reads 2 to 5 % more than multiply-adds.
"""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from numbers import Integral

from mmeffnet.arch import Arch, Block
from mmeffnet.features import resolve_arch, resolve_scaling
from mmeffnet.variants import VARIANTS

Size = tuple[int, int]  # height, width


@dataclass(frozen=True, kw_only=True)
class Part:
    """One row of the account: the stem, a stage, the head convolution or the classifier.

    shape: (channels, height, width) of what leaves it, () where that is no single map.
    parameters, multiply_adds, activations: see the module; of one image.
    """
    name: str
    shape: tuple[int, ...] = ()
    parameters: int = 0
    multiply_adds: int = 0
    activations: int = 0


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """What a network costs for one image of ``size`` (height, width), part by part."""
    size: Size
    parts: tuple[Part, ...]

    @property
    def parameters(self) -> int:
        """Trained numbers."""
        return sum(part.parameters for part in self.parts)

    @property
    def multiply_adds(self) -> int:
        """Products that are summed up; what papers call FLOPs."""
        return sum(part.multiply_adds for part in self.parts)

    @property
    def flops(self) -> int:
        """Floating-point operations of the multiply-adds: two for each."""
        return 2 * self.multiply_adds

    @property
    def activations(self) -> int:
        """Elements that leave convolutions and classifier."""
        return sum(part.activations for part in self.parts)

    def __str__(self) -> str:
        """A table, one line a part and one in total."""
        rows = [('part', 'output', 'parameters', 'multiply-adds', 'activations')]
        rows += [(p.name, 'x'.join(map(str, p.shape)), f'{p.parameters:,}',
                  f'{p.multiply_adds:,}', f'{p.activations:,}') for p in self.parts]
        rows.append(('total', '', f'{self.parameters:,}', f'{self.multiply_adds:,}',
                     f'{self.activations:,}'))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return '\n'.join('  '.join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))).rstrip() for row in rows)


@dataclass(frozen=True)
class _Layer:
    """A convolution, or a classifier as one of a single pixel, without any tensor.

    offsets: numbers beside the kernel for each output channel: 2 of a normalisation, 1 bias.
    """
    inputs: int
    outputs: int
    kernel: int
    size: Size
    offsets: int = 2
    groups: int = 1

    @property
    def weights(self) -> int:
        return self.kernel ** 2 * self.inputs // self.groups * self.outputs

    @property
    def parameters(self) -> int:
        return self.weights + self.offsets * self.outputs

    @property
    def multiply_adds(self) -> int:
        return self.weights * self.size[0] * self.size[1]

    @property
    def activations(self) -> int:
        return self.outputs * self.size[0] * self.size[1]


def complexity(arch='b0', resolution: int | Size | None = None, *, scaling=None,
               num_classes: int | None = 1000, in_channels: int = 3,
               output_stride: int | None = None) -> Complexity:
    """What one of our networks costs; nothing is built.

    arch, scaling, output_stride, in_channels: as :class:`mmeffnet.EfficientNet` takes them.
    resolution: side of the image in pixels, or (height, width); None takes that of ``scaling``
    or of the variant. num_classes: outputs of the classifier, None for the backbone alone.
    Raises ValueError for arguments that the backbone refuses, and for a size below 1.

    >>> complexity('b0').multiply_adds
    385814752
    """
    resolved = resolve_arch(arch, scaling)
    size = image_size(_own_resolution(arch, scaling) if resolution is None else resolution)
    for name, value in (('in_channels', in_channels), ('num_classes', num_classes)):
        if not (_is_count(value) or name == 'num_classes' and value is None):
            raise ValueError(f'{name}={value!r} must be a whole number above 0')
    parts = [_part(name, layers) for name, layers in
             _layers(resolved, size, in_channels, output_stride)]
    if num_classes is not None:
        parts.append(_part('classifier', [_Layer(resolved.head, num_classes, 1, (1, 1), 1)]))
    return Complexity(size=size, parts=tuple(parts))


def _own_resolution(arch, scaling) -> int:
    if scaling is not None:
        # Built once more: a config's dict says no resolution by itself.
        return resolve_scaling(scaling).resolution
    if isinstance(arch, str):
        return VARIANTS[arch].resolution
    raise ValueError('resolution=None: an architecture has no resolution of its own; give one')


def image_size(resolution) -> Size:
    """Height and width that ``resolution`` means; ValueError for what is no size."""
    size = tuple(resolution) if isinstance(resolution, Iterable) else (resolution, resolution)
    if len(size) != 2 or not all(map(_is_count, size)):
        raise ValueError(f'resolution={resolution!r} must be whole pixels above 0, one number or '
                         'two')
    return int(size[0]), int(size[1])


def _is_count(value) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value > 0


def _layers(arch: Arch, size: Size, in_channels: int, output_stride: int | None
            ) -> Iterator[tuple[str, list[_Layer]]]:
    """The layers of each part, in the order they are run."""
    size = _strided(size, 2)
    yield 'stem', [_Layer(in_channels, arch.stem, 3, size)]
    for group, blocks in zip(arch.groups, arch.blocks(output_stride)):
        blocks = iter(blocks)
        for stage in group:
            layers = []
            for _ in range(stage.repeats):
                block = next(blocks)
                out = _strided(size, block.stride)
                layers += _block_layers(block, size, out)
                size = out
            yield stage.name, layers
    yield 'head', [_Layer(arch.stages[-1].channels, arch.head, 1, size)]


def _block_layers(block: Block, size: Size, out: Size) -> Iterator[_Layer]:
    hidden = block.hidden
    if block.kind == 'fused':
        yield _Layer(block.in_channels, hidden, block.kernel, out)
    else:
        if hidden != block.in_channels:  # else there is nothing to expand
            yield _Layer(block.in_channels, hidden, 1, size)
        yield _Layer(hidden, hidden, block.kernel, out, groups=hidden)
    if block.squeeze:
        yield _Layer(hidden, block.squeeze, 1, (1, 1), offsets=1)
        yield _Layer(block.squeeze, hidden, 1, (1, 1), offsets=1)
    yield _Layer(hidden, block.out_channels, 1, out)


def _strided(size: Size, stride: int) -> Size:
    # Rounded up, by SAME padding and by symmetric padding of odd kernels alike.
    return -(-size[0] // stride), -(-size[1] // stride)


def _part(name: str, layers: list[_Layer]) -> Part:
    last = layers[-1]
    shape = (last.outputs, ) if name == 'classifier' else (last.outputs, *last.size)
    return Part(name=name, shape=shape, **{
        field.name: sum(getattr(layer, field.name) for layer in layers)
        for field in fields(Part) if field.name not in ('name', 'shape')})
