#!/usr/bin/env python
"""mmdet's RetinaNet on EfficientNet-B3 with mmpretrain's backbone and with ours, same weights.

Holds the outputs against each other in float64 first, then times inference and training steps by
turns and prints the table of docs/downstream.md. Needs the extra 'detection' with operators.
"""
import argparse
import copy
import statistics

import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope

import mmeffnet
from mmeffnet.analysis.clock import Clock
from mmeffnet.engine.cli import positive, several

CONFIG = 'mmdet::efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco.py'
BACKBONES = {'mmeffnet': 'mmeffnet.EfficientNet', 'mmpretrain': 'mmpretrain.EfficientNet'}
TOLERANCE = 1e-10  # of the largest output, in float64


def detectors() -> dict:
    """The two, with the same random weights and statistics that belong to them."""
    cfg = Config.fromfile(mmeffnet.config_path(CONFIG))
    init_default_scope('mmdet')
    cfg.model.data_preprocessor.pop('batch_augments')  # pads every picture to 896 px
    cfg.model.backbone.update(init_cfg=None, drop_path_rate=0.)
    found = {}
    for name, kind in BACKBONES.items():
        cfg.model.backbone.type = kind
        torch.manual_seed(0)
        found[name] = revert_sync_batchnorm(MODELS.build(copy.deepcopy(cfg.model)))
    ours, theirs = found.values()
    calibrate(ours)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return found


def calibrate(detector) -> None:
    """Give BatchNorm the statistics of random pictures: activations neither vanish nor explode."""
    norms = [m for m in detector.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        detector.train()(torch.randn(2, 3, 256, 256), mode='tensor')
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum


def difference(found: dict, size: int) -> float:
    """The largest difference of the outputs in float64, by the largest output."""
    picture = torch.randn(1, 3, size, size, dtype=torch.float64)
    with torch.no_grad():
        ours, theirs = ([level for part in copy.deepcopy(detector).double().eval()(
            picture, mode='tensor') for level in part] for detector in found.values())
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in zip(ours, theirs))


def work(detector, kind: str, batch: int, size: int, device: str):
    """What is timed: the network without post-processing, or losses and gradients."""
    detector.to(device).train(kind == 'training')
    if kind == 'inference':
        picture = torch.randn(batch, 3, size, size, device=device)

        def infer():
            with torch.no_grad():
                detector(picture, mode='tensor')
        return infer
    data = detector.data_preprocessor(
        demo_mm_inputs(batch, [[3, size, size]] * batch, num_items=[3] * batch), True)

    def step():
        detector.zero_grad()
        detector.parse_losses(detector(**data, mode='loss'))[0].backward()
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--size', type=positive, default=320, help='of the pictures, in pixels')
    parser.add_argument('--batch', type=positive, default=1)
    parser.add_argument('--rounds', type=several, default=15)
    args = parser.parse_args()
    device, found = get_device(), detectors()
    clock = Clock(torch.device(device))
    apart = difference(found, args.size)
    print(f'float64: outputs differ by {apart:.1e} of the largest')
    if not apart < TOLERANCE:
        raise SystemExit('the outputs are not equal: no times')
    lines = [f'{args.batch} x {args.size} px on {device}, PyTorch {torch.__version__}, '
             f'{torch.get_num_threads()} threads\n',
             '| step | backbone | ms | quartiles | of ours |', '|---|---|---|---|---|']
    for kind in ('inference', 'training'):
        networks = dict(found)
        if kind == 'inference':
            networks['mmeffnet, deployed'] = copy.deepcopy(found['mmeffnet'])
            networks['mmeffnet, deployed'].backbone.switch_to_deploy()
        calls = {name: work(detector, kind, args.batch, args.size, device)
                 for name, detector in networks.items()}
        seconds = clock.in_turns(calls, args.rounds, 2, kind)
        for name, values in seconds.items():
            low, middle, high = statistics.quantiles(values, n=4)
            lines.append(
                f'| {kind} | {name} | {1e3 * middle:.0f} | {1e3 * low:.0f} to {1e3 * high:.0f} | '
                f'{middle / statistics.median(seconds["mmeffnet"]):.2f} |')
    print('\n'.join(lines))


if __name__ == '__main__':
    main()
