"""How weights of any library reach a backbone: by ``init_cfg`` or as a state dict."""
import torch
from mmengine.logging import print_log
from mmengine.model import update_init_info
from mmengine.model.weight_init import PretrainedInit

from mmeffnet.errors import InputError
from mmeffnet.registry import WEIGHT_INITIALIZERS
from mmeffnet.weights import Weights, load_weights
from mmeffnet.weights.data import bare
from mmeffnet.weights.fit import check_variant, fit, fit_stem, warn_of_numerics
from mmeffnet.weights.layouts import BACKBONE
from mmeffnet.weights.settings import PADDINGS
from mmeffnet.weights.translate import few, find_networks, translate

STATE_DICT = 'the state dict'  # in messages, for the file that it came from
STEM = 'layers.0.conv.weight'


def any_layout(init_cfg):
    """``init_cfg`` with our own initialiser in the place of each 'Pretrained', and last.

    MMEngine's knows one layout only, and leaves random what it does not find.
    """
    configs = [init_cfg] if isinstance(init_cfg, dict) else init_cfg or []
    ours = [{**cfg, 'type': 'mmeffnet.AnyPretrained'} for cfg in configs if _pretrained(cfg)]
    return [cfg for cfg in configs if not _pretrained(cfg)] + ours


def _pretrained(cfg: dict) -> bool:
    return cfg['type'] in ('Pretrained', PretrainedInit)


@WEIGHT_INITIALIZERS.register_module()
class AnyPretrained:
    """Load a checkpoint of any layout into a backbone; arguments of MMEngine's 'Pretrained'.

    checkpoint: what :func:`mmeffnet.weights.load_weights` reads. prefix: of the network among
    the file's keys. map_location: taken for compatibility; tensors go where the backbone is.
    Raises InputError where the weights do not fit.
    """

    def __init__(self, checkpoint, prefix=None, map_location='cpu'):
        self.checkpoint, self.prefix, self.map_location = checkpoint, prefix, map_location

    def __call__(self, backbone) -> None:
        weights = load_weights(self.checkpoint, prefix=self.prefix, also=backbone.arch)
        if weights.others:
            print_log(f'{self.checkpoint}: {len(weights.others)} tensors beside the network are '
                      f'left out: {few(list(weights.others))}', 'current')
        backbone.load_state_dict(fit_backbone(backbone, weights), strict=False)
        text = f'Loaded from {self.checkpoint} ({weights.layout} layout)'
        print_log(text, 'current')
        if hasattr(backbone, '_params_init_info'):  # MMEngine writes these to the log
            update_init_info(backbone, init_info=text)


def fit_backbone(backbone, weights: Weights) -> dict:
    """Weights under the backbone's own keys, checked; layers that never run may be missing."""
    expected = {f'{BACKBONE}{key}': value for key, value in backbone.state_dict().items()}
    unused = tuple(BACKBONE + layer for layer in unused_layers(backbone))
    state = fit(weights, expected, backbone.arch, unused=unused)
    warn_of_numerics(weights, padding=padding_of(backbone), eps=eps_of(backbone))
    return {key.removeprefix(BACKBONE): tensor for key, tensor in state.items()}


def unused_layers(backbone) -> tuple[str, ...]:
    """Key prefixes of the layers past the last output."""
    return tuple(f'layers.{i}.' for i in
                 range(backbone.out_indices[-1] + 1, len(backbone.layers)))


def padding_of(backbone) -> str | None:
    """'same' or 'symmetric', None for layers of the user's choice."""
    return PADDINGS.get(bare(backbone.conv_cfg['type']))


def eps_of(backbone) -> float | None:
    """BatchNorm's epsilon, None for another normalisation."""
    return getattr(getattr(backbone.layers[0], 'bn', None), 'eps', None)


def translate_in_place(backbone, state_dict, prefix: str) -> None:
    """Turn a state dict that is being loaded into one with the backbone's keys.

    state_dict: what ``load_state_dict`` hands to the module; changed in place.
    Raises InputError where nothing in it belongs to a backbone that has no weights yet, and where
    it is of another variant: MMEngine would go on with random ones.
    """
    inside = {key.removeprefix(prefix): tensor for key, tensor in state_dict.items()
              if key.startswith(prefix)}
    if any(key.startswith('layers.') for key in inside):
        if STEM in inside:  # of a network, and not of some layers that are meant alone
            _check_own(backbone, inside)
            state_dict[f'{prefix}{STEM}'] = inside[STEM]
        return
    if not find_networks(inside):
        if not backbone.has_weights:
            raise InputError(
                f'no tensor of the checkpoint belongs to the backbone ("{prefix}layers..."), '
                'which would stay random. A file of another library is read by '
                'checkpoint="mmeffnet://PATH" in a whole model, by its path in the '
                "backbone's own init_cfg, and converted by tools/convert.py")
        return
    weights = translate(inside, STATE_DICT, also=backbone.arch)
    for key in inside:
        del state_dict[f'{prefix}{key}']
    state_dict.update({f'{prefix}{key}': tensor
                       for key, tensor in fit_backbone(backbone, weights).items()})


def _check_own(backbone, inside: dict) -> None:
    """Refuse our own keys of another variant; the stem in ``inside`` becomes the backbone's."""
    tensors = {key: value for key, value in inside.items() if isinstance(value, torch.Tensor)}
    check_variant(translate(tensors, STATE_DICT, prefix='', also=backbone.arch), backbone.arch)
    inside[STEM] = fit_stem(inside[STEM], backbone.layers[0].conv.weight.shape[1], STATE_DICT)
