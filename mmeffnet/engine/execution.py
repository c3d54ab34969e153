"""How a network is executed: compiled, or with the channels of a pixel beside each other."""
import os
import shutil
import sys

import torch
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from torch import nn

from mmeffnet.engine.checkpoint import backbone_of
from mmeffnet.errors import InputError
from mmeffnet.optim import RMSpropTF


def compile_network(model: nn.Module) -> None:
    """Compile the EfficientNet in ``model`` at its first call, by torch.compile.

    Only the network itself: what lies around it are Python containers, at which a compiler
    would stop. Keys and weights stay as they are. Raises InputError where there is none, and
    on a CPU where torch.compile would find no C++ compiler.
    """
    network = _network(model, '--compile')
    compiler = os.environ.get('CXX', 'clang++' if sys.platform == 'darwin' else 'g++')
    if get_device() == 'cpu' and shutil.which(compiler) is None:
        raise InputError(f'--compile needs a C++ compiler on a CPU, and {compiler!r} is not found. '
                         'Install one, or set CXX to its path')
    network.compile()


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
