"""Seconds that a network takes for one image on the device at hand."""
from __future__ import annotations

import torch

from mmeffnet.analysis.clock import Clock
from mmeffnet.analysis.memory import classifier
from mmeffnet.analysis.steps import INFER, Setting, Step, batch_for
from mmeffnet.arch import Arch


def latency(arch: Arch, resolution: int, device: torch.device, classes: int = 1000) -> float:
    """Median seconds of one image in inference, float32, channels last, weights at random."""
    images, labels = batch_for(resolution, 1, device)
    step = Step(classifier(arch, classes).eval(), images, labels, Setting('channels_last'), INFER)
    return Clock(device).median(step, rounds=5)
