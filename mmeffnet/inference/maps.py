"""Where a network looks: class-activation maps, by the grad-cam library."""
from __future__ import annotations

import importlib
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mmeffnet.arch import nearest
from mmeffnet.errors import InputError
from mmeffnet.inference import DEFAULT_WEIGHTS
from mmeffnet.inference.images import as_image
from mmeffnet.inference.network import Network, build_network, find_class
from mmeffnet.inference.predictor import Prediction

# Our names and the library's classes; those that run the network once a channel are left out.
METHODS = {'gradcam': 'GradCAM', 'gradcam++': 'GradCAMPlusPlus', 'hirescam': 'HiResCAM',
           'xgradcam': 'XGradCAM', 'layercam': 'LayerCAM', 'eigencam': 'EigenCAM',
           'eigengradcam': 'EigenGradCAM'}
INSTALL = 'pip install "mmeffnet[explain]"'


@dataclass(frozen=True)
class Explanation:
    """One network's map of one picture.

    prediction: the class that the map is of. best: the network's own first choice.
    heat: (resolution, resolution) float32, 0 to 1 for the strongest place. box: left, top,
    right, bottom of the part that ``heat`` covers, in pixels of the upright picture.
    """
    title: str
    source: str
    prediction: Prediction
    best: Prediction
    heat: np.ndarray
    box: tuple[float, float, float, float]


def explain(image, weights=DEFAULT_WEIGHTS, method: str = 'gradcam', wanted=None, device=None,
            classes=None, out=None) -> list[Explanation]:
    """Class-activation maps of one picture, one for each network.

    image: a path, a PIL image or a numpy array (RGB, uint8). weights: one source of weights or
    several, as for ``mmeffnet.predict``; a :class:`Network` is taken as it is. method: one of
    ``METHODS``. wanted: index (int) or name of the class to look for; None takes each network's
    most probable one. out: a PNG file for the figure of photograph and maps side by side.
    Raises InputError naming the argument, its value and the rule; a missing grad-cam library
    gives the command that installs it.
    """
    method_class = find_method(method)
    image = as_image(image)
    sources = weights if isinstance(weights, (list, tuple)) else [weights]
    explanations = []
    for source in sources:
        # One after the other: several large networks need not fit into memory together.
        network = source if isinstance(source, Network) else build_network(
            source, device=device, classes=classes)
        explanations.append(_explanation(network, image, method_class, wanted))
    if out is not None:
        from mmeffnet.inference.figure import save_figure
        save_figure(image, explanations, Path(out))
    return explanations


def find_method(method: str):
    """The grad-cam library's class for one of ``METHODS``."""
    if method not in METHODS:
        raise InputError(f'method={method!r} is none of {", ".join(METHODS)}'
                         f'{nearest(method, METHODS)}')
    try:
        library = importlib.import_module('pytorch_grad_cam')
    except ModuleNotFoundError as error:
        if error.name != 'pytorch_grad_cam':
            raise
        raise InputError(f'grad-cam is not installed, and maps need it: {INSTALL}') from error
    return getattr(library, METHODS[method])


def activation_map(model: nn.Module, layer: nn.Module, tensor: torch.Tensor, index: int,
                   method_class) -> np.ndarray:
    """The (H, W) map in 0..1 of class ``index``, for a normalised (3, H, W) tensor.

    model: (1, 3, H, W) to (1, classes) logits; frozen or not, in whatever mode: modes, flags
    and gradients are found again as they were. layer: whose output is weighted.
    """
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    with _borrowed(model), torch.inference_mode(False), torch.enable_grad():
        # The gradient reaches the layer from the input, since no weight asks for one.
        batch = tensor.detach().clone()[None].requires_grad_()
        with method_class(model=model, target_layers=[layer]) as cam:
            heat = cam(input_tensor=batch, targets=[ClassifierOutputTarget(index)])[0]
    return np.nan_to_num(heat)


@contextmanager
def _borrowed(model: nn.Module):
    """Freeze a model in eval mode for a while; nothing of it is changed afterwards."""
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        for parameter, _, _ in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
        yield
    finally:
        for parameter, wanted, gradient in parameters:
            parameter.requires_grad_(wanted)
            parameter.grad = gradient
        for module, training in modes:
            module.training = training


def _explanation(network: Network, image, method_class, wanted) -> Explanation:
    tensor = network.settings.tensor(image).to(network.device)
    with torch.inference_mode():
        shares = network.shares(tensor[None])[0]
    best = int(shares.argmax())
    index = best if wanted is None else find_class(network.names, wanted)
    heat = activation_map(network.model, network.model.backbone.layers[-1], tensor, index,
                          method_class)
    of = [Prediction(i, network.names[i], float(shares[i])) for i in (index, best)]
    return Explanation(network.title, network.source, *of, heat=heat,
                       box=network.settings.box(image.size))


def check_weights(weights: Sequence[str]) -> None:
    """Refuse the same weights twice: their maps would be one and the same."""
    for source in weights:
        if list(weights).count(source) > 1:
            raise InputError(f'--weights {source} is given twice')
