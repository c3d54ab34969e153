"""Networks of other libraries with the same weights, to compare outputs with."""
from collections.abc import Iterator

import torch
from torch import nn

from mmeffnet.errors import InputError, one_line
from mmeffnet.inference.network import Classifier
from mmeffnet.models import EfficientNet, EfficientNetHead
from mmeffnet.weights import Weights
from mmeffnet.weights.files import need
from mmeffnet.weights.translate import COUNTERS, few, to_layout

# Even, odd and mixed sizes: they pad in different places.
SIZES = ((64, 64), (65, 65), (63, 66))


def differences(source: Weights, written: Weights, library: str = 'mmeffnet', state=None
                ) -> Iterator[str]:
    """A line for each comparison of the written weights with the source library's network.

    library: that the file was written for, and state: the file's tensors by its keys; where it is
    another one, its network with these is compared too.
    Relative to the largest value, in float64. Where a library is missing, or has no such
    network, the line says so.
    """
    judge = None
    try:
        judge = _network(source, SOURCES.get(source.layout, source.layout),
                         to_layout(source.state, source.arch, source.layout))
        yield from _compared('', _network(source, 'mmeffnet', written.state), judge, source)
    except InputError as error:
        yield f'no comparison of outputs: {error}'
    if library == 'mmeffnet':
        return
    try:
        target = _network(source, library, state)
        yield from _compared(f' of {target[2]}', target,
                             judge or _network(source, 'mmeffnet', source.state), source)
    except InputError as error:
        yield f'no comparison of outputs in {library}: {error}'


def _compared(whose: str, one, judge, source: Weights) -> Iterator[str]:
    """A line for the features, and one for the logits where there is a classifier."""
    generator = torch.Generator().manual_seed(0)
    worst = dict(features=0.0, logits=0.0) if source.classes else dict(features=0.0)
    with torch.no_grad():
        for height, width in SIZES:
            image = torch.randn((1, 3, height, width), generator=generator, dtype=torch.float64)
            for what, of in zip(worst, (1, 0)):
                mine, theirs = one[of](image), judge[of](image)
                gap = ((mine - theirs).abs().max() / theirs.abs().max()).item()
                if not gap <= worst[what]:  # a gap that is no number has to show
                    worst[what] = gap
    sizes = ', '.join(f'{h}x{w}' for h, w in SIZES)
    for what, gap in worst.items():
        yield f'{what}{whose}: largest relative difference from {judge[2]} {gap:.1e} ({sizes})'


def _network(source: Weights, library: str, state):
    """A library's network of the source's variant with these tensors, its features, its name."""
    if source.variant is None:
        raise InputError('the network is none of the published ones')
    try:
        network, features, name = NETWORKS[library](source)
    except (ValueError, RuntimeError, AssertionError, KeyError) as error:
        # Ours reads networks that the library itself does not build, such as EdgeTPU from
        # TensorFlow, which our reader gives efficientnet_pytorch's names.
        raise InputError(f'no library with the layout {source.layout!r} builds '
                         f'{source.variant!r} ({one_line(error)[:80]})') from error
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
    network.double().eval()
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


def _whole(backbone: nn.Module, source: Weights):
    """A classifier under our keys, and its features."""
    network = Classifier(backbone, EfficientNetHead(num_classes=source.classes or 1,
                                                    in_channels=source.arch.head))
    return network, lambda image: backbone(image)[-1]


def _options(source: Weights) -> dict:
    """Arguments of a backbone that pads and normalises as the source does."""
    options = dict(norm_cfg=dict(type='BN', eps=source.eps)) if source.eps else {}
    if source.padding == 'symmetric':
        options['conv_cfg'] = dict(type='Conv2d')
    return options


def _mmpretrain(source: Weights):
    from mmpretrain.models import EfficientNet as Theirs
    activation = {'SiLU': 'Swish'}.get(source.arch.activation, source.arch.activation)
    # Its EdgeTPU networks have Swish unless they are told otherwise.
    backbone = Theirs(arch=source.variant, act_cfg=dict(type=activation),
                      out_indices=(len(source.arch.groups) + 1, ), **_options(source))
    return *_whole(backbone, source), f"mmpretrain's EfficientNet {source.variant!r}"


def _mmeffnet(source: Weights):
    return *_whole(EfficientNet(source.arch, **_options(source)), source), 'our own network'


NETWORKS = {'timm': _timm, 'torchvision': _torchvision, 'lukemelas': _lukemelas,
            'mmpretrain': _mmpretrain, 'mmeffnet': _mmeffnet}
# The library of a layout, where it is called otherwise.
SOURCES = {'mmeffnet': 'mmpretrain'}
