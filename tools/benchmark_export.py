#!/usr/bin/env python
"""B0 as mmpretrain runs it, ours, ours deployed, and exported, by turns on one CPU.

Prints the table of docs/export.md; the outputs are held against each other first. Needs the extra
'export'.
"""
import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path

import torch
from mmpretrain.models import EfficientNet as MMPretrainEfficientNet

from mmeffnet import VARIANTS
from mmeffnet.analysis import contenders
from mmeffnet.analysis.clock import Clock
from mmeffnet.engine.cli import positive, several
from mmeffnet.export import formats, graph, runtime

TOLERANCE = 1e-3  # of the largest logit, between float32 networks
BASE = 'mmpretrain, eager'
SHARED = [name for name in VARIANTS if name in MMPretrainEfficientNet.arch_settings]


def calls(variant: str, size: int, batch: int, folder: Path) -> dict:
    """By name: what is called with a batch of images."""
    weights = contenders.random_weights(variant)
    theirs = contenders.LIBRARIES['mmpretrain'].build(variant)
    ours = contenders.ours(variant)
    for network in (theirs, ours):
        network.load_state_dict(weights, strict=True)
        network.eval().requires_grad_(False)
    ready = graph.Classifier(
        network=graph.Exportable(ours.backbone, ours.head.fc), size=(size, size), arch=variant,
        mean=(0., ) * 3, std=(1., ) * 3, names=('', ) * contenders.CLASSES)
    deployed = ready.deployed(raw=False)
    dynamic = ('batch', ) if batch > 1 else ()
    found = {BASE: theirs, 'mmeffnet, eager': ours,
             'mmeffnet, deployed, channels last': deployed.to(memory_format=torch.channels_last)}
    for kind, title in (('onnx', 'ONNX Runtime'), ('openvino', 'OpenVINO')):
        path = folder / f'network{runtime.SUFFIXES[kind]}'
        formats.write(ready.deployed(raw=False), path, kind, ready.size, dynamic,
                      ready.metadata(False, dynamic=list(dynamic)))
        found[title] = runtime.open_exported(path)[0]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--variant', default='b0', choices=SHARED)
    parser.add_argument('--batch', type=positive, default=1)
    parser.add_argument('--rounds', type=several, default=40)
    args = parser.parse_args()
    size, clock = VARIANTS[args.variant].resolution, Clock(torch.device('cpu'))
    images = torch.randn(args.batch, 3, size, size)
    last = images.to(memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        found = calls(args.variant, size, args.batch, Path(folder))
        expected = found[BASE](images)
        for name, call in found.items():
            apart = ((call(images) - expected).abs().max() / expected.abs().max()).item()
            if not apart < TOLERANCE:
                raise SystemExit(f'{name}: logits differ by {apart:.1e} of the largest')
        seconds = clock.in_turns({name: partial(call, last if 'channels last' in name else images)
                                  for name, call in found.items()}, args.rounds)
    print(f'{args.variant}, {args.batch} x {size} px, PyTorch {torch.__version__}, '
          f'{torch.get_num_threads()} threads\n\n| network | ms | quartiles | times as fast |\n'
          '|---|---|---|---|')
    for name, values in seconds.items():
        low, middle, high = statistics.quantiles(values, n=4)
        print(f'| {name} | {1e3 * middle:.1f} | {1e3 * low:.1f} to {1e3 * high:.1f} | '
              f'{statistics.median(seconds[BASE]) / middle:.2f} |')


if __name__ == '__main__':
    main()
