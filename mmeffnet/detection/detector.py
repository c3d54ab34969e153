"""EfficientDet as a detector of mmdet, which reads the state dicts of effdet."""
import logging
import re
from collections.abc import Mapping

import torch
from mmdet.models.detectors import SingleStageDetector
from mmengine.logging import print_log

from mmeffnet.errors import InputError
from mmeffnet.registry import MODELS
from mmeffnet.weights.layouts import BACKBONE
from mmeffnet.weights.translate import COUNTERS, few

# Where effdet keeps a module -> where it is here.
NAMES = [(re.compile(pattern), ours) for pattern, ours in (
    (r'^fpn\.cell\.(\d+)\.fnode\.(\d+)\.combine\.resample\.(\d+)\.conv\.',
     r'neck.layers.\1.nodes.\2.laterals.\3.'),
    (r'^fpn\.cell\.(\d+)\.fnode\.(\d+)\.combine\.edge_weights$',
     r'neck.layers.\1.nodes.\2.weights'),
    (r'^fpn\.cell\.(\d+)\.fnode\.(\d+)\.after_combine\.', r'neck.layers.\1.nodes.\2.'),
    (r'^(class|box)_net\.conv_rep\.', r'\1_net.convs.'),
    (r'^(class|box)_net\.bn_rep\.(\d+)\.(\d+)\.bn\.', r'\1_net.norms.\2.\3.'),
    (r'^class_net\.', 'bbox_head.classes.'), (r'^box_net\.', 'bbox_head.boxes.'),
    (r'\.conv\.bn\.', '.conv.norm.'), (r'\.conv_dw\.', '.depthwise.'),
    (r'\.conv_pw\.', '.pointwise.'),
    # A 1x1 convolution and its normalisation.
    (r'(laterals\.\d+)\.conv\.', r'\1.0.'), (r'(laterals\.\d+)\.bn\.', r'\1.1.'))]
EXTRA = re.compile(r'^fpn\.resample\.(\d+)\.conv\.(conv|bn)\.')
WRAPPED = re.compile(r'^(model\.)+')  # effdet's benches hold the network under this name
# The reference numbers COCO's classes 1 to 90, and these numbers have no class.
UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
BOXES = 'bbox_head.boxes.predict.pointwise.'
CLASSES = 'bbox_head.classes.predict.pointwise.'
CLASSIFIER = (f'{CLASSES}weight', f'{CLASSES}bias')


def is_effdet(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether a state dict, or what one has beside the backbone, is of effdet."""
    return any(WRAPPED.sub('', key).startswith(('fpn.cell.', 'class_net.')) for key in state)


@MODELS.register_module()
class EfficientDet(SingleStageDetector):
    """mmdet's single-stage detector that also loads what effdet has saved.

    A state dict with effdet's names is translated while it is loaded; heads for COCO's 90 numbers
    fit 80 classes. For another number of classes the last layer of the classifier is left out, with
    a warning, and stays as it is. Raises InputError where a tensor is missing, left over or of
    another shape.
    """

    reads = staticmethod(is_effdet)  # AnyWeightsHook and tools/test.py ask for it

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # Before the children see it: PyTorch and MMEngine hand each of them its own keys.
        inside = {key.removeprefix(prefix): tensor for key, tensor in state_dict.items()
                  if key.startswith(prefix)}
        if is_effdet(inside):
            for key in inside:
                del state_dict[f'{prefix}{key}']
            state_dict.update({f'{prefix}{key}': tensor
                               for key, tensor in from_effdet(inside, self).items()})
        super()._load_from_state_dict(state_dict, prefix, *args)


def from_effdet(state: Mapping[str, torch.Tensor], detector) -> dict[str, torch.Tensor]:
    """A state dict of effdet under the detector's keys, checked one by one.

    The backbone keeps timm's names, which it translates itself. ``CLASSIFIER`` is left out where it
    is of another number of classes. Raises InputError.
    """
    state = {WRAPPED.sub('', key): tensor for key, tensor in state.items()}
    found = {_our_name(key, len(detector.backbone.out_indices)): tensor
             for key, tensor in state.items() if not key.startswith('anchors.')}
    for key, tensor in found.items():
        if key.startswith(BOXES):
            found[key] = _x_first(tensor)
        elif key.startswith(CLASSES):
            found[key] = _our_classes(tensor, detector.bbox_head)
    if _check(found, detector):
        return found
    head = detector.bbox_head
    classes = len(found[CLASSIFIER[0]]) // head.num_base_priors
    print_log(f'the state dict of effdet: {" and ".join(CLASSIFIER)} left out, it has {classes} '
              f'classes and the model {head.num_classes}, so its classifier starts anew',
              'current', level=logging.WARNING)
    return {key: tensor for key, tensor in found.items() if key not in CLASSIFIER}


def _our_name(key: str, inputs: int) -> str:
    if key.startswith(BACKBONE):
        return key
    extra = EXTRA.match(key)
    if extra:  # numbered by level there, from the first that the backbone lacks here
        place = int(extra[1]) - inputs
        return f'neck.extra.{place}.{int(extra[2] == "bn")}.{key[extra.end():]}'
    for pattern, ours in NAMES:
        key = pattern.sub(ours, key)
    return key


def _x_first(tensor: torch.Tensor) -> torch.Tensor:
    """The rows of each anchor from y, x, h, w to x, y, w, h."""
    rows = tensor.reshape(-1, 4, *tensor.shape[1:])
    return rows[:, [1, 0, 3, 2]].reshape(tensor.shape)


def _our_classes(tensor: torch.Tensor, head) -> torch.Tensor:
    if (len(tensor), head.num_classes) != (90 * head.num_base_priors, 80):
        return tensor
    used = [i - 1 for i in range(1, 91) if i not in UNUSED_IDS]
    return tensor.unflatten(0, (-1, 90))[:, used].flatten(0, 1)


def _check(found: Mapping[str, torch.Tensor], detector) -> bool:
    """Every tensor beside the backbone must have its place; the backbone looks at its own.

    False where ``CLASSIFIER`` alone is of another shape.
    """
    expected = {key: tensor for key, tensor in detector.state_dict().items()
                if not key.startswith(BACKBONE)}
    given = {key: tensor for key, tensor in found.items() if not key.startswith(BACKBONE)}
    missing = [key for key in expected
               if key not in given and not key.endswith(COUNTERS)]
    unknown = [key for key in given if key not in expected]
    different = [key for key in given
                 if key in expected and given[key].shape != expected[key].shape]
    other_classes = {*different} == {*CLASSIFIER}
    for problem, keys in (('lacks', missing), ('has no place here for', unknown),
                          ('has another shape of', [] if other_classes else different)):
        if keys:
            raise InputError(f'the state dict of effdet {problem} {few(keys)}: take the config of '
                             'the same EfficientDet, which of effdet is a tf_ network')
    if not any(key.startswith(BACKBONE) for key in found):
        raise InputError('the state dict of effdet has no backbone')
    return not other_classes

