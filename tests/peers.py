"""What several test files share: other libraries as judges, and counts taken from modules.

A judge is an implementation that is not ours. Its weights and ours are the same tensors
under other names; the names are a table here, one row a library.
"""
from dataclasses import dataclass

import torch
from torch import nn

from mmeffnet import VARIANTS, EfficientNet


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where another library keeps its layers.

    stem, head, plain, mbconv, fused: its module names in the order in which they are run,
    each a convolution followed by its normalisation, except that squeeze-and-excitation
    is two convolutions. 'plain' is a mbconv block without expansion.
    block: its name for a block, of the fields ``stage`` (from 0), ``index`` in the stage
    (from 0) and ``count`` over all blocks (from 0).
    classifier: its module that has no place in a backbone.
    """
    stem: tuple[str, ...]
    head: tuple[str, ...]
    block: str
    plain: tuple[str, ...]
    mbconv: tuple[str, ...]
    fused: tuple[str, ...] = ()
    classifier: str = ''


TIMM = Layout(
    stem=('conv_stem', 'bn1'), head=('conv_head', 'bn2'), block='blocks.{stage}.{index}',
    plain=('conv_dw', 'bn1', 'se.conv_reduce', 'se.conv_expand', 'conv_pw', 'bn2'),
    mbconv=('conv_pw', 'bn1', 'conv_dw', 'bn2', 'se.conv_reduce', 'se.conv_expand',
            'conv_pwl', 'bn3'),
    fused=('conv_exp', 'bn1', 'conv_pwl', 'bn2'), classifier='classifier')

TORCHVISION = Layout(
    # Features 0 is the stem, 1 to 7 the stages and 8 the head; ``first`` is stage + 1.
    stem=('features.0.0', 'features.0.1'), head=('features.8.0', 'features.8.1'),
    block='features.{first}.{index}.block',
    plain=('0.0', '0.1', '1.fc1', '1.fc2', '2.0', '2.1'),
    mbconv=('0.0', '0.1', '1.0', '1.1', '2.fc1', '2.fc2', '3.0', '3.1'),
    classifier='classifier.1')

LUKEMELAS = Layout(
    stem=('_conv_stem', '_bn0'), head=('_conv_head', '_bn1'), block='_blocks.{count}',
    plain=('_depthwise_conv', '_bn1', '_se_reduce', '_se_expand', '_project_conv', '_bn2'),
    mbconv=('_expand_conv', '_bn0', '_depthwise_conv', '_bn1', '_se_reduce', '_se_expand',
            '_project_conv', '_bn2'),
    classifier='_fc')

# Ours, in the order of the same slots.
_SE = ('se.conv1.conv', 'se.conv2.conv')
_OURS = dict(
    plain=('depthwise_conv.conv', 'depthwise_conv.bn', *_SE, 'linear_conv.conv',
           'linear_conv.bn'),
    mbconv=('expand_conv.conv', 'expand_conv.bn', 'depthwise_conv.conv', 'depthwise_conv.bn',
            *_SE, 'linear_conv.conv', 'linear_conv.bn'),
    fused=('conv1.conv', 'conv1.bn', 'conv2.conv', 'conv2.bn'))


def module_names(name, layout):
    """Each module of ours that holds tensors -> the other library's name for it."""
    arch = VARIANTS[name].arch
    last = len(arch.groups) + 1
    names = {'layers.0.conv': layout.stem[0], 'layers.0.bn': layout.stem[1],
             f'layers.{last}.conv': layout.head[0], f'layers.{last}.bn': layout.head[1]}
    # Others count stages where we count groups, so the two are walked side by side.
    ours = [f'layers.{group}.{index}' for group, blocks in enumerate(arch.blocks(), start=1)
            for index in range(len(blocks))]
    theirs = [(stage, index) for stage, row in enumerate(arch.stages)
              for index in range(row.repeats)]
    blocks = [block for group in arch.blocks() for block in group]
    for count, (mine, (stage, index), block) in enumerate(zip(ours, theirs, blocks, strict=True)):
        kind = 'plain' if block.hidden == block.in_channels else block.kind
        prefix = layout.block.format(stage=stage, first=stage + 1, index=index, count=count)
        for slot, other in zip(_OURS[kind], getattr(layout, kind), strict=True):
            if block.squeeze or slot not in _SE:
                names[f'{mine}.{slot}'] = f'{prefix}.{other}'
    return names


def translate(state, name, layout):
    """A state dict of ours under the names of ``layout``; every key must have one."""
    names = module_names(name, layout)
    return {f'{names[module]}.{tensor}': value
            for module, _, tensor, value in ((*key.rpartition('.'), value)
                                             for key, value in state.items())}


def without_classifier(state, layout):
    """The state dict of a whole network of ``layout``, as far as a backbone has it."""
    return {key: value for key, value in state.items()
            if not layout.classifier or not key.startswith(f'{layout.classifier}.')}


def load_translated(peer, state, name, layout):
    """Give another library's network, made on the meta device, the weights of ours.

    Nothing but its classifier may be left over on either side; that one stays without memory.
    """
    translated = translate(state, name, layout)
    own = without_classifier(peer.state_dict(), layout)
    assert own.keys() == translated.keys()
    rest = {key: value for key, value in peer.state_dict().items() if key not in own}
    peer.load_state_dict({**rest, **translated}, strict=True, assign=True)


def calibrated(model, *, in_channels=3, size=128, batches=1, seed=0):
    """Make a random network of ours behave like a trained one, in float64 and eval mode.

    Biases and BatchNorm affines are random, so that swapping any two would show, and running
    statistics are those of random images, so that activations neither vanish nor explode.
    At 128 px the last layers still have 16 pixels to take statistics from.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    model.double()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                module.bias.copy_(0.1 * noise(module.bias.shape))
        for norm in norms:
            norm.weight.copy_(1 + 0.1 * noise(norm.weight.shape))
            norm.bias.copy_(0.1 * noise(norm.bias.shape))
        for block in model.modules():
            if getattr(block, 'skip', False):
                # Fifty residual branches of full strength amplify rounding to 1e-6.
                [m for m in block.modules() if m in norms][-1].weight.mul_(0.3)
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = None  # the plain mean over all batches
        model.train()
        for _ in range(batches):
            model(noise((1, in_channels, size, size)))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return model.eval()


def images(height, width, *, batch=1, in_channels=3, seed=1):
    """Random float64 images, the same at every call."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((batch, in_channels, height, width), generator=generator,
                       dtype=torch.float64)


def relative_difference(actual, expected):
    """The largest difference, as a share of the largest expected value."""
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def whole_network(name, *, num_classes=1000, **backbone):
    """Backbone, pooling and classifier of a variant, without memory: on the meta device."""
    from mmpretrain.models import GlobalAveragePooling

    from mmeffnet import EfficientNetHead
    with torch.device('meta'):
        return nn.Sequential(EfficientNet(arch=name, **backbone), GlobalAveragePooling(),
                             EfficientNetHead(num_classes=num_classes, arch=name)).eval()


def multiply_adds(model, resolution):
    """Multiply-adds of convolutions and linear layers for one square image.

    Counted from the sizes that really leave each layer; biases are not counted.
    """
    counts = []

    def count(layer, _, output):
        weight = layer.weight
        # Elements of the output, times the products summed up in each of them.
        counts.append(output.numel() * weight[0].numel())

    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    first = layers[0].weight
    try:
        with torch.no_grad():
            model(torch.empty((1, first.shape[1], resolution, resolution),
                              dtype=first.dtype, device=first.device))
    finally:
        for hook in hooks:
            hook.remove()
    return sum(counts)


# Both blocks, both kernels, skips and every stride, small enough to train on a CPU.
TINY = dict(stem=8, head=32, stages=dict(
    stage1=dict(block='mbconv', kernel=3, stride=1, expand=1, channels=8, repeats=2,
                se_ratio=0.25),
    stage2=dict(block='fused', kernel=3, stride=2, expand=2, channels=12, repeats=2),
    stage3=dict(block='mbconv', kernel=5, stride=2, expand=2, channels=16, repeats=2,
                se_ratio=0.25),
    stage4=dict(block='mbconv', kernel=3, stride=2, expand=2, channels=24, repeats=1,
                se_ratio=0.25),
    stage5=dict(block='mbconv', kernel=5, stride=1, expand=2, channels=24, repeats=1,
                se_ratio=0.25),
    stage6=dict(block='mbconv', kernel=3, stride=2, expand=2, channels=28, repeats=2,
                se_ratio=0.25)))
