"""How a network is executed: compiled, or with the channels of a pixel beside each other."""
import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from torch import nn

from mmeffnet.engine.checkpoint import backbone_of
from mmeffnet.errors import InputError
from mmeffnet.optim import RMSpropTF


def compile_network(model: nn.Module) -> None:
    """Compile the EfficientNet in ``model`` at its first call, by torch.compile.

    Only the network itself: what lies around it are Python containers, at which a compiler
    would stop. Keys and weights stay as they are. Raises InputError where there is none.
    """
    _network(model, '--compile').compile()


class CompiledStepHook(Hook):
    """Compile the steps of our own optimizer, which is built when the run starts."""

    def before_train(self, runner) -> None:
        wrapper = runner.optim_wrapper
        for one in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
            if isinstance(one.optimizer, RMSpropTF):
                one.optimizer.compile()


def channels_last(model: nn.Module) -> None:
    """Keep weights and activations of the EfficientNet in ``model`` as (N, H, W, C) in memory.

    Shapes, keys and results do not change. Raises InputError where there is none.
    """
    network = _network(model, '--channels-last')
    network.to(memory_format=torch.channels_last)
    network.register_forward_pre_hook(_input_channels_last)


def _input_channels_last(network, args: tuple) -> tuple:
    image, *rest = args
    return image.contiguous(memory_format=torch.channels_last), *rest


def _network(model: nn.Module, flag: str) -> nn.Module:
    found = backbone_of(model)
    if found is None:
        raise InputError(f'{flag} works on a model with one EfficientNet of mmeffnet, and '
                         f'{type(model).__name__} has none or several')
    return found[1]
