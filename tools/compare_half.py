#!/usr/bin/env python
"""What bfloat16 changes in deployed networks: by ``switch_to_deploy(dtype=)``, and cast.

PICTURES holds val.txt, of lines "file label", and the files in val/. Networks are whatever
tools/predict.py takes; without --weights those of the extra 'lite', whose packages carry them.
"""
import argparse
import copy
import sys
from pathlib import Path

import torch
from rich.progress import track

from mmeffnet.errors import InputError, one_line_errors
from mmeffnet.inference.images import read_image
from mmeffnet.inference.network import build_network

NETWORKS = ('lite://lite0', 'lite://lite1', 'lite://lite2')
BATCH = 8


def pictures(folder: Path) -> tuple[list, torch.Tensor]:
    listing = folder / 'val.txt'
    if not listing.is_file():
        raise InputError(f'{str(listing)!r} does not exist: PICTURES is a folder with val.txt, of '
                         'lines "file label", and val/')
    lines = [line.rsplit(' ', 1) for line in listing.read_text().splitlines()]
    for number, line in enumerate(lines, 1):
        if len(line) != 2 or not line[1].isdecimal():
            raise InputError(f'{str(listing)!r}, line {number}: {" ".join(line)!r} must be '
                             '"file label", the label a whole number')
    return ([read_image(folder / 'val' / name) for name, _ in lines],
            torch.tensor([int(label) for _, label in lines]))


@torch.inference_mode()
def logits(model, batches, dtype, title: str) -> torch.Tensor:
    return torch.cat([model(batch.to(dtype)).float()
                      for batch in track(batches, title, transient=True)])


def forms(network):
    """The deployed network in float32, cast, and as ``switch_to_deploy`` makes it."""
    for name, dtype, own in (('float32', torch.float32, None), ('cast', torch.bfloat16, None),
                             ('switch_to_deploy', torch.bfloat16, torch.bfloat16)):
        model = copy.deepcopy(network)
        model.backbone.switch_to_deploy(dtype=own)
        yield name, dtype, model.to(dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('pictures', type=Path)
    parser.add_argument('--weights', nargs='+', default=NETWORKS,
                        help='files, addresses or names of the catalog')
    args = parser.parse_args()
    with one_line_errors(ValueError):
        images, labels = pictures(args.pictures)
        networks = [build_network(source, device='cpu') for source in args.weights]
        print('| network | form | logits apart, % | class of float32, % | top-1, % |\n'
              '|---|---|--:|--:|--:|')
        for network in networks:
            tensors = torch.stack([network.settings.tensor(image) for image in images])
            batches = tensors.contiguous(memory_format=torch.channels_last).split(BATCH)
            exact = None
            for name, dtype, model in forms(network.model):
                found = logits(model, batches, dtype, f'{network.title}, {name}')
                exact = found if exact is None else exact
                apart = (found - exact).norm() / exact.norm()
                same, right = ((found.argmax(1) == other).float().mean()
                               for other in (exact.argmax(1), labels))
                print(f'| {network.title} | {name} | {100 * apart:.1f} | {100 * same:.1f} | '
                      f'{100 * right:.1f} |', flush=True)


if __name__ == '__main__':
    sys.exit(main())
