"""Networks of other libraries with the same weights, to compare outputs with."""
from collections.abc import Iterator

import torch
from torch import nn

from mmeffnet.errors import InputError, one_line
from mmeffnet.models import EfficientNet
from mmeffnet.weights import Weights
from mmeffnet.weights.files import need
from mmeffnet.weights.layouts import BACKBONE, CLASSIFIER
from mmeffnet.weights.translate import COUNTERS, few, to_layout

# Even, odd and mixed sizes: they pad in different places.
SIZES = ((64, 64), (65, 65), (63, 66))


def differences(source: Weights, written: Weights) -> Iterator[str]:
    """A line for each comparison of the written weights with the source library's network.

    Relative to the largest value, in float64. Where the library is missing, or has no such
    network, the line says so.
    """
    try:
        judge, features, name = _judge(source)
    except InputError as error:
        yield f'no comparison of outputs: {error}'
        return
    ours = _ours(written, source).double().eval()
    judge = judge.double().eval()
    generator = torch.Generator().manual_seed(0)
    worst = dict(features=0.0, logits=0.0)
    with torch.no_grad():
        for height, width in SIZES:
            image = torch.randn((1, 3, height, width), generator=generator, dtype=torch.float64)
            pairs = dict(features=(ours[0](image)[-1], features(image)))
            if source.classes:
                pooled = pairs['features'][0].mean((2, 3))
                pairs['logits'] = ours[1](pooled), judge(image)
            for what, (mine, theirs) in pairs.items():
                gap = ((mine - theirs).abs().max() / theirs.abs().max()).item()
                if not gap <= worst[what]:  # a gap that is no number has to show
                    worst[what] = gap
    sizes = ', '.join(f'{h}x{w}' for h, w in SIZES)
    for what in pairs:
        yield f'{what}: largest relative difference from {name} {worst[what]:.1e} ({sizes})'


def _ours(weights: Weights, source: Weights) -> nn.Sequential:
    """Backbone and classifier, padded and normalised as the source library does."""
    symmetric = source.padding == 'symmetric'
    network = EfficientNet(weights.arch, conv_cfg=dict(type='Conv2d') if symmetric else None,
                           norm_cfg=dict(type='BN', eps=source.eps) if source.eps else None)
    network.load_state_dict({key.removeprefix(BACKBONE): tensor
                             for key, tensor in weights.state.items()
                             if key.startswith(BACKBONE)}, strict=True)
    linear = nn.Linear(weights.arch.head, weights.classes or 1)
    if weights.classes:
        linear.load_state_dict({name: weights.state[f'{CLASSIFIER}.{name}']
                                for name in ('weight', 'bias')})
    return nn.Sequential(network, linear)


def _judge(source: Weights):
    """The source library's network with the source's weights, its features, and its name."""
    if source.variant is None:
        raise InputError('the network is none of the published ones')
    try:
        network, features, name = JUDGES[source.layout](source)
    except (ValueError, RuntimeError, AssertionError, KeyError) as error:
        # Ours reads networks that the library itself does not build, such as EdgeTPU from
        # TensorFlow, which our reader gives efficientnet_pytorch's names.
        raise InputError(f'no library with the layout {source.layout!r} builds '
                         f'{source.variant!r} ({one_line(error)[:80]})') from error
    state = to_layout(source.state, source.arch, source.layout)
    own = {key for key in network.state_dict() if not key.endswith(COUNTERS)}
    lacking = [key for key in own - set(state)
               if source.classes or not key.startswith(('classifier', '_fc', 'head'))]
    beside = [key for key in set(state) - own if not key.endswith(COUNTERS)]
    try:
        if lacking or beside:
            raise RuntimeError(few(sorted(lacking + beside)))
        network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise InputError(f'{name} has other tensors ({one_line(error)[:200]})') from error
    return network, features, name


def _timm(source: Weights):
    timm = need('timm', 'timm')
    tf = '' if source.padding == 'symmetric' else 'tf_'
    name = f'{tf}efficientnet_{source.variant}'
    network = timm.create_model(name, num_classes=source.classes or 0)
    return network, network.forward_features, f"timm's {name}"


def _torchvision(source: Weights):
    from torchvision import models
    network = models.get_model(f'efficientnet_{source.variant}',
                               num_classes=source.classes or 1)
    return network, network.features, f"torchvision's efficientnet_{source.variant}"


def _lukemelas(source: Weights):
    """efficientnet_pytorch, and for Lite its sister package."""
    lite = source.variant.startswith('lite')
    package = 'efficientnet_lite_pytorch' if lite else 'efficientnet_pytorch'
    module = need(package, 'tests')
    name = f'efficientnet-{source.variant}'
    # With image_size=None it pads by the size of the input, as TensorFlow does.
    network = module.EfficientNet.from_name(name, image_size=None,
                                            num_classes=source.classes or 1)
    return network, network.extract_features, f"{package}'s {name}"


def _mmpretrain(source: Weights):
    from mmpretrain.models import EfficientNet as Theirs
    activation = {'SiLU': 'Swish'}.get(source.arch.activation, source.arch.activation)

    class Whole(nn.Module):
        """Their classifier, as far as it computes."""

        def __init__(self):
            super().__init__()
            # Its EdgeTPU networks have Swish unless they are told otherwise.
            self.backbone = Theirs(arch=source.variant, act_cfg=dict(type=activation),
                                   out_indices=(len(source.arch.groups) + 1, ))
            self.head = nn.ModuleDict(dict(fc=nn.Linear(source.arch.head, source.classes or 1)))

        def features(self, image):
            return self.backbone(image)[-1]

        def forward(self, image):
            return self.head['fc'](self.features(image).mean((2, 3)))

    network = Whole()
    return network, network.features, f"mmpretrain's EfficientNet {source.variant!r}"


JUDGES = {'timm': _timm, 'torchvision': _torchvision, 'lukemelas': _lukemelas,
          'mmeffnet': _mmpretrain}
