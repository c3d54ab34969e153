"""What several test files share: other libraries as judges, and counts taken from modules.

A judge is an implementation that is not ours. Its weights and ours are the same tensors
under other names, by the package's own tables: a wrong row there gives wrong outputs here.
"""
import torch
from torch import nn

from mmeffnet import VARIANTS, EfficientNet
from mmeffnet.weights import layouts
from mmeffnet.weights.layouts import LUKEMELAS, TIMM, TORCHVISION  # noqa: F401


def module_names(name, layout):
    """Each module of ours that holds tensors -> the other library's name for it."""
    return layouts.module_names(VARIANTS[name].arch, layout)


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
