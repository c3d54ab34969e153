#!/usr/bin/env python
"""Images per second and core of pipelines for training, by turns over the same pictures.

Compares ours with mmpretrain's, timm's and torchvision's, from a folder, from shards and from
packed pictures, all in memory. By equal draws from files ours gives mmpretrain's pixels; the table
says by how much they differ. Needs the extras 'data' and 'timm'.
"""
import argparse
import csv
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.registry import TRANSFORMS
from rich.progress import track

import mmeffnet  # noqa: F401
from mmeffnet.datasets import PackedImages, ShardedImages, packed, shards
from mmeffnet.datasets.archive import Sample, write_archive
from mmeffnet.engine.cli import positive, several
from mmeffnet.errors import InputError, one_line, one_line_errors
from mmeffnet.files import whole
from mmeffnet.inference.run import output_folder

BASE = 'mmpretrain'
BLOCK = 25  # images of a turn
SUFFIXES = '.jpg', '.jpeg', '.png', '.webp'  # what every contender reads
# Packed pictures have other sizes, from which the same numbers draw other crops.
COMPARABLE = 'mmeffnet, folder', 'mmeffnet, shards', 'mmpretrain,'
COLUMNS = ('pipeline', 'ms', 'quartiles', 'images/s', 'times as fast', 'mean difference')


def composed(*steps):
    """Transforms of MMEngine's as one call."""
    built = [TRANSFORMS.build(dict(step)) for step in steps]

    def call(sample):
        for step in built:
            sample = step(sample)
        return sample['inputs']
    return call


def ours(size: int, interpolation: str):
    return composed(dict(type='mmeffnet.LoadRandomCrop', scale=size, flip_prob=0.5,
                         interpolation=interpolation), dict(type='mmeffnet.PackChannelsLast'))


def theirs(size: int, interpolation: str):
    return composed(
        dict(type='mmpretrain.LoadImageFromFile'),
        dict(type='mmpretrain.EfficientNetRandomCrop', scale=size, interpolation=interpolation),
        dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal'),
        dict(type='mmpretrain.PackInputs'))


def peers(size: int) -> dict:
    """timm's and torchvision's, each as they advise for speed: bytes, normalised on the device."""
    import timm.data
    from PIL import Image
    from torchvision.io import decode_image
    from torchvision.transforms import v2
    transform = timm.data.create_transform(
        size, is_training=True, use_prefetcher=True, color_jitter=None, interpolation='bicubic')
    vision = v2.Compose([v2.RandomResizedCrop(size, interpolation=v2.InterpolationMode.BICUBIC),
                         v2.RandomHorizontalFlip()])

    def by_timm(sample):
        with Image.open(sample['img_path']) as image:
            return transform(image.convert('RGB'))

    def by_torchvision(sample):
        try:
            return vision(decode_image(sample['img_path'], mode='RGB'))
        except RuntimeError as error:
            raise InputError(f"{sample['img_path']!r} is nothing that torchvision reads: take it "
                             f'out of the folder ({one_line(error)})') from error
    return {'timm (Pillow)': by_timm, 'torchvision (v2, tensors)': by_torchvision}


def contenders(paths: list[Path], size: int, short_side: int, folder: Path) -> dict:
    """By name: how a sample is had by its number, and what is done with it."""
    def from_folder(number):
        return dict(img_path=str(paths[number]), gt_label=0, sample_idx=number)
    samples = [Sample(str(path), path.name, 0) for path in paths]
    write_archive(folder / 'shards', shards.sharding(), samples, 1000)
    write_archive(folder / 'packed', packed.packing(short_side), samples, 1000)
    from_shards = ShardedImages(str(folder / 'shards')).get_data_info
    from_packed = PackedImages(str(folder / 'packed')).get_data_info
    found = {BASE: (from_folder, theirs(size, 'bicubic')),
             'mmpretrain, bilinear': (from_folder, theirs(size, 'bilinear'))}
    found |= {name: (from_folder, call) for name, call in peers(size).items()}
    for source, get in (('folder', from_folder), ('shards', from_shards),
                        (f'packed {short_side}', from_packed)):
        for interpolation in ('bicubic', 'bilinear'):
            found[f'mmeffnet, {source}, {interpolation}'] = get, ours(size, interpolation)
    return found | {'mmeffnet, encoded for the device': (from_folder, composed(
        dict(type='mmeffnet.LoadEncodedRandomCrop', scale=size, flip_prob=0.5),
        dict(type='mmeffnet.PackEncoded')))}


def difference(found: dict, name: str, count: int) -> float:
    """Mean absolute difference of pixels, 0 to 255, from mmpretrain's by the same draws."""
    total = 0.
    for number in range(count):
        images = []
        for get, call in (found[BASE], found[name]):
            np.random.seed(number)
            images.append(call(get(number)).float())
        total += (images[0] - images[1]).abs().mean().item()
    return total / count


def timed(found: dict, count: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of the processor for an image, by name and turn."""
    times = {name: [] for name in found}
    blocks = [range(i, min(i + BLOCK, count)) for i in range(0, count, BLOCK)]
    for turn in track(range(rounds + 1), 'turns', transient=True):
        for block in blocks:
            for name, (get, call) in found.items():
                start = time.process_time()
                for number in block:
                    call(get(number))
                if turn:  # the first is for warmth
                    times[name].append(1e3 * (time.process_time() - start) / len(block))
    return times


def rows(times: dict[str, list[float]], differences: dict[str, float]) -> list[tuple]:
    base, result = statistics.median(times[BASE]), []
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        apart = differences.get(name)
        result.append((name, f'{middle:.3f}', f'{low:.3f} to {high:.3f}', f'{1e3 / middle:,.0f}',
                       f'{base / middle:.2f}', '' if apart is None else f'{apart:.2f}'))
    return result


def drawn(table: list[tuple], path: Path) -> None:
    """A bar for each pipeline."""
    from matplotlib.figure import Figure
    figure = Figure(figsize=(8, 0.4 * len(table) + 1), layout='constrained')
    axes = figure.subplots()
    names = [row[0] for row in table]
    speeds = [float(row[3].replace(',', '')) for row in table]
    bars = axes.barh(names, speeds, color=['#0072B2' if name.startswith('mmeffnet') else '#999999'
                                           for name in names])
    axes.bar_label(bars, [f'{row[3]}  ({row[4]} x)' for row in table], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.set_xlabel('images per second and core')
    axes.spines[['top', 'right']].set_visible(False)
    with whole(path) as part:
        figure.savefig(part, format='png', dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('pictures', type=Path, help='a folder of pictures, looked through wholly')
    parser.add_argument('--size', type=positive, default=224)
    parser.add_argument('--short-side', type=positive, default=256, help='of the packed pictures')
    parser.add_argument('--most', type=positive, default=500, help='pictures that are taken')
    parser.add_argument('--rounds', type=several, default=10)
    parser.add_argument('--out', type=Path, help='folder for data.csv and data.png')
    args = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with one_line_errors(), tempfile.TemporaryDirectory() as folder:
        if args.out:
            output_folder(str(args.out))  # tried before the work
        paths = [path for path in sorted(args.pictures.rglob('*'))
                 if path.suffix.lower() in SUFFIXES][:args.most]
        if len(paths) < 2:
            raise InputError(f'{str(args.pictures)!r} holds fewer than two pictures that end in '
                             f'{" ".join(SUFFIXES)}')
        found = contenders(paths, args.size, args.short_side, Path(folder))
        differences = {name: difference(found, name, min(100, len(paths)))
                       for name in found if name.startswith(COMPARABLE)}
        table = rows(timed(found, len(paths), args.rounds), differences)
    print(f'{len(paths)} pictures, {args.size} px, OpenCV {cv2.__version__}, '
          f'PyTorch {torch.__version__}\n')
    print('| ' + ' | '.join(COLUMNS) + ' |\n' + '|---' * len(COLUMNS) + '|')
    for row in table:
        print('| ' + ' | '.join(row) + ' |')
    if args.out:
        with whole(args.out / 'data.csv') as part, part.open('w', newline='') as file:
            csv.writer(file).writerows([COLUMNS, *table])
        drawn(table, args.out / 'data.png')


if __name__ == '__main__':
    sys.exit(main())
