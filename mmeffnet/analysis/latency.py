"""Seconds that a network takes for one image on the device at hand."""
from __future__ import annotations

import torch
from torch import nn

from mmeffnet.analysis.clock import Clock
from mmeffnet.analysis.steps import INFER, Setting, Step, batch_for
from mmeffnet.arch import Arch
from mmeffnet.models import EfficientNet


class _Classifier(nn.Module):
    """Backbone, mean over the pixels and classifier."""

    def __init__(self, arch: Arch, classes: int):
        super().__init__()
        self.backbone = EfficientNet(arch=arch)
        self.fc = nn.Linear(arch.head, classes)

    def forward(self, images):
        return self.fc(self.backbone(images)[-1].mean((2, 3)))


def latency(arch: Arch, resolution: int, device: torch.device, classes: int = 1000,
            setting: str = 'channels_last') -> float:
    """Median seconds of one image in inference, float32, weights at random.

    setting: as tools/benchmark.py has them.
    """
    images, labels = batch_for(resolution, 1, device)
    step = Step(_Classifier(arch, classes).eval(), images, labels, Setting(setting), INFER)
    return Clock(device).median(step, rounds=5)
