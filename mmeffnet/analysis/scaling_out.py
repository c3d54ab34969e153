"""What training each network asks of devices, network and storage, as a table."""
from argparse import Namespace
from dataclasses import dataclass

import torch

from mmeffnet.analysis.complexity import complexity
from mmeffnet.analysis.memory import Activations, activations
from mmeffnet.errors import InputError, check_numbers
from mmeffnet.variants import VARIANTS, get_variant

# ImageNet-1k's training images as they are distributed: 138 GB in 1,281,167 files.
JPEG_BYTES = 138e9 / 1_281_167
# B0, training, one A100 in mixed precision; published in NVIDIA's DeepLearningExamples,
# PyTorch/Classification/ConvNets/efficientnet. Not reproduced here.
PUBLISHED = ('b0', 2489)
# float32: weights, gradients, RMSProp's mean squares and momentum, averaged weights.
COPIES = 5
FLOAT32 = 4


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one variant costs at its own resolution; bytes unless said otherwise.

    multiply_adds: of one image, forward. parameters: how many. single, half: kept for
    each image of a batch, in float32 and with autocast to bfloat16.
    """
    name: str
    resolution: int
    multiply_adds: int
    parameters: int
    single: Activations
    half: Activations

    @property
    def state(self) -> int:
        """Weights, gradients, optimizer state and averages; the same for every batch size."""
        return COPIES * FLOAT32 * self.parameters

    @property
    def gradients(self) -> int:
        """What is summed over all devices in each step, whatever their number."""
        return FLOAT32 * self.parameters

    @property
    def pixels(self) -> int:
        """One image on its way to the device: uint8, three channels."""
        return 3 * self.resolution ** 2


def traffic(cost: Cost, devices: int, *, sharded: bool = False) -> float:
    """Bytes that each device sends in one step, and as many it receives.

    A ring sums gradients by scattering and gathering them, each (N - 1) / N of their size.
    Sharded, weights are gathered twice, forward and backward, and gradients scattered once.
    """
    if devices < 1:
        raise ValueError(f'devices={devices!r} must be at least 1')
    return (3 if sharded else 2) * (devices - 1) / devices * cost.gradients


def images_per_second(cost: Cost, published: Cost, rate: float = PUBLISHED[1]) -> float:
    """Images per second if bytes kept for the backward pass went by as fast as in B0.

    Depthwise convolutions, normalisation and activations wait for memory. For B4 this gives
    337 where NVIDIA publishes 331; by multiply-adds it would be 219.
    """
    return rate * published.half.all / cost.half.all


def cost(name: str) -> Cost:
    """Work the costs of a variant out. Raises ValueError for an unknown name."""
    variant = get_variant(name)
    whole = complexity(name)
    kept = {precision: activations(name, variant.resolution, precision)
            for precision in (torch.float32, torch.bfloat16)}
    return Cost(name=name, resolution=variant.resolution, multiply_adds=whole.multiply_adds,
                parameters=whole.parameters, single=kept[torch.float32],
                half=kept[torch.bfloat16])


HEADER = (
    '| arch | px | G multiply-adds | float32 MB/image | bfloat16 MB/image | bfloat16, `with_cp` '
    'MB/image | state MB | gradients MB/step | each of {devices} sends MB/step | pixels MB per '
    '1000 images | images/s, computed | JPEG MB/s |\n|' + '---|' * 12)


def row(cost: Cost, published: Cost, devices: int) -> str:
    """One line of the table; MB are 10^6 bytes."""
    rate = images_per_second(cost, published)
    cells = [cost.name, cost.resolution, f'{cost.multiply_adds / 1e9:.2f}',
             *(f'{value / 1e6:,.0f}' for value in (
                 cost.single.all, cost.half.all, cost.half.recomputed, cost.state,
                 cost.gradients, traffic(cost, devices), 1000 * cost.pixels)),
             f'{rate:,.0f}' if rate >= 10 else f'{rate:.1f}',
             f'{rate * JPEG_BYTES / 1e6:.1f}']
    return f'| {" | ".join(map(str, cells))} |'


def print_table(args: Namespace) -> None:
    """tools/scaling_table.py: the table of docs/scaling-out.md, line by line."""
    unknown = [name for name in args.arch if name not in VARIANTS]
    if unknown:
        raise InputError(f'arch {unknown[0]!r} is none of {", ".join(VARIANTS)}')
    check_numbers(args, 1, 'devices')
    published = cost(PUBLISHED[0])
    print(HEADER.format(devices=args.devices))
    for name in args.arch or VARIANTS:
        found = published if name == PUBLISHED[0] else cost(name)
        print(row(found, published, args.devices), flush=True)
    print(f'\nOne file of ImageNet-1k: {JPEG_BYTES / 1e3:.1f} kB on average, '
          f'{JPEG_BYTES / 1e3:.1f} MB/s for 1000 images/s.')
