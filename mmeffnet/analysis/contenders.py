"""The networks of a benchmark: one variant, built by several libraries, with the same weights."""
from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from mmpretrain.models import EfficientNet as MMPretrainEfficientNet
from mmpretrain.models import GlobalAveragePooling, LinearClsHead
from torch import nn

from mmeffnet.errors import one_line
from mmeffnet.models import EfficientNet, EfficientNetHead
from mmeffnet.models.efficientnet import CONVS
from mmeffnet.models.recompute import choose_backward
from mmeffnet.variants import VARIANTS
from mmeffnet.weights.translate import to_layout

CLASSES = 1000
OURS, OURS_SYMMETRIC = 'mmeffnet', 'mmeffnet symmetric'
OURS_DEPLOYED = 'mmeffnet deployed'
# Ours by its name in a benchmark of training -> the backward pass it has.
LEAN = {'mmeffnet lean': dict(memory_efficient=True, fast_gradients=False),
        'mmeffnet lean and fast': dict(memory_efficient=True, fast_gradients=True)}

# Largest difference of the logits in float32, as a share of the largest logit. Rounding gives
# 1e-6; a wrong pad, eps, order or activation 1e-3 and more.
TOLERANCE = 1e-4
CHECKED_AT = (2, 3, 64, 97)  # pads the height lopsidedly and the width evenly


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A whole classifier on the CPU, in eval mode.

    reference: which of ours computes the same function. gap: how far their outputs are apart.
    """
    library: str
    network: nn.Module
    reference: str
    gap: float = 0.0


class Whole(nn.Module):
    """Backbone, neck and head in a row, as mmpretrain's ImageClassifier runs them."""

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone, self.neck, self.head = backbone, GlobalAveragePooling(), head

    def forward(self, images):
        return self.head(self.neck(self.backbone(images)))


def ours(variant: str, padding: str | None = None) -> nn.Module:
    """Our classifier, without dropout and drop path. padding: None for the family's."""
    backbone = EfficientNet(arch=variant, conv_cfg=CONVS[padding] if padding else None)
    return Whole(backbone, EfficientNetHead(num_classes=CLASSES, arch=variant, dropout=0.0))


def random_weights(variant: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights under our keys with which activations keep their size, as in a trained network.

    BatchNorm has random affines and the statistics of random images.
    """
    torch.manual_seed(seed)
    network = ours(variant)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            nn.init.normal_(norm.weight, 1, 0.1)
            nn.init.normal_(norm.bias, 0, 0.1)
            norm.momentum = None  # the plain mean
        for block in network.modules():
            if getattr(block, 'skip', False):
                # Fifty residual branches of full strength would amplify rounding.
                [m for m in block.modules() if m in norms][-1].weight.mul_(0.3)
        network.train()(torch.randn(2, 3, 224, 224))
    return network.state_dict()


def _mmpretrain(variant: str) -> nn.Module:
    arch = VARIANTS[variant].arch
    # Its EdgeTPU networks have Swish unless they are told otherwise.
    activation = dict(type={'SiLU': 'Swish'}.get(arch.activation, arch.activation))
    backbone = MMPretrainEfficientNet(arch=variant, act_cfg=activation,
                                      out_indices=(len(arch.groups) + 1, ))
    return Whole(backbone, LinearClsHead(CLASSES, arch.head))


def _timm(variant: str) -> nn.Module:
    timm = importlib.import_module('timm')
    return timm.create_model(f'tf_efficientnet_{variant}', num_classes=CLASSES)


def _torchvision(variant: str) -> nn.Module:
    models = importlib.import_module('torchvision.models')
    network = models.get_model(f'efficientnet_{variant}', dropout=0.0, stochastic_depth_prob=0.0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-3  # as in all others; its own B0 to B4 have 1e-5
    return network


def _efficientnet_pytorch(variant: str) -> nn.Module:
    package = importlib.import_module('efficientnet_pytorch')
    # With image_size=None it pads by the size of the input, as TensorFlow does.
    return package.EfficientNet.from_name(f'efficientnet-{variant}', image_size=None,
                                          dropout_rate=0.0, drop_connect_rate=0.0)


@dataclass(frozen=True)
class Library:
    """How a library's network is built, whose keys it has, and which of ours it equals."""
    build: Callable[[str], nn.Module]
    layout: str
    reference: str = OURS


LIBRARIES = {
    'mmpretrain': Library(_mmpretrain, 'mmeffnet'),
    'timm': Library(_timm, 'timm'),
    'torchvision': Library(_torchvision, 'torchvision', OURS_SYMMETRIC),
    'efficientnet_pytorch': Library(_efficientnet_pytorch, 'lukemelas'),
}
NAMES = (OURS, OURS_SYMMETRIC, OURS_DEPLOYED, *LEAN, *LIBRARIES)


def contenders(variant: str, libraries: Sequence[str], say: Callable[[str], None]
               ) -> list[Contender]:
    """Ours first, then what the libraries build; ``say`` is told of each that is left out.

    Left out are libraries that are missing or have no such variant, and networks whose outputs
    are not ours. Ours with symmetric padding is there if a library is that pads so.
    """
    state = random_weights(variant)
    own = {name: _loaded(ours(variant, padding), state)
           for name, padding in ((OURS, None), (OURS_SYMMETRIC, 'symmetric'))}
    found = []
    for name in libraries:
        try:
            network = _loaded(LIBRARIES[name].build(variant),
                              to_layout(state, VARIANTS[variant].arch, LIBRARIES[name].layout))
            reference = LIBRARIES[name].reference
            gap = difference(network, own[reference])
        except ModuleNotFoundError as error:
            say(f'{name} is left out: {error.name} is not installed')
        except Exception as error:
            say(f'{name} is left out: it builds no such {variant} ({one_line(error)[:150]})')
        else:
            if gap <= TOLERANCE:
                found.append(Contender(library=name, network=network, reference=reference,
                                       gap=gap))
            else:
                say(f'error: {name} disagrees with {reference} on {variant}: logits differ by '
                    f'{gap:.1e} of the largest, and {TOLERANCE:.0e} is allowed; it is not timed')
    used = dict.fromkeys((OURS, *(c.reference for c in found)))
    return [*(Contender(library=name, network=own[name], reference=name) for name in used),
            *found]


def deployed(contender: Contender) -> Contender:
    """Ours with BatchNorm folded into the convolutions, for inference alone."""
    network = copy.deepcopy(contender.network)
    network.backbone.switch_to_deploy()
    return Contender(library=OURS_DEPLOYED, network=network, reference=contender.reference,
                     gap=difference(network, contender.network))


def lean(contender: Contender) -> list[Contender]:
    """Ours with each of the other backward passes, for training alone."""
    found = []
    for name, switches in LEAN.items():
        network = copy.deepcopy(contender.network)
        choose_backward(network.backbone.layers, **switches)
        found.append(Contender(library=name, network=network, reference=contender.reference,
                               gap=difference(network, contender.network)))
    return found


def _loaded(network: nn.Module, state) -> nn.Module:
    """The network, in eval mode, with a copy of all of ``state`` and nothing else."""
    network.load_state_dict({key: tensor.clone() for key, tensor in state.items()}, strict=True)
    return network.eval()


@torch.no_grad()
def difference(network: nn.Module, reference: nn.Module) -> float:
    """The largest difference of the logits, as a share of the largest; float32 on the CPU."""
    images = torch.randn(CHECKED_AT, generator=torch.Generator().manual_seed(1))
    return relative(network(images), reference(images))


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, as a share of the largest expected value; NaN where there is one."""
    return ((actual - expected).abs().max() / expected.abs().max()).item()
