"""Reading weights: what is recognised, and what is refused."""
import pytest
import torch

from mmeffnet.engine.checkpoint import load_whole, read_checkpoint, variant_of_weights, weights_of
from mmeffnet.engine.errors import InputError
from mmeffnet.models import EfficientNet
from mmeffnet.variants import VARIANTS


@pytest.mark.parametrize('arch', VARIANTS)
def test_a_variant_is_recognised_by_its_weights(arch):
    with torch.device('meta'):
        weights = EfficientNet(arch=arch).state_dict()
    assert variant_of_weights(weights) == arch
    assert variant_of_weights({f'backbone.{k}': v for k, v in weights.items()}) == arch


def test_other_weights_belong_to_no_variant():
    assert variant_of_weights({'fc.weight': torch.zeros(2, 2)}) is None
    scaled = EfficientNet(arch='b0', scaling=dict(type='mmeffnet.ModelScaling', width=0.5))
    assert variant_of_weights(scaled.state_dict()) is None


@pytest.mark.parametrize('wrapped', [
    lambda w: w, lambda w: {'state_dict': w, 'meta': {}}, lambda w: {'model': w},
    lambda w: {'state_dict': {f'module.{k}': v for k, v in w.items()}}])
def test_weights_are_found_inside_their_wrappers(wrapped):
    weights = {'a.weight': torch.ones(1)}
    assert weights_of(wrapped(weights)) == weights


@pytest.mark.parametrize('nothing', [{}, {'meta': 1}, [torch.ones(1)], {'state_dict': {}}])
def test_a_file_without_weights_is_refused(nothing):
    with pytest.raises(InputError, match='holds no weights'):
        weights_of(nothing)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match='gone.pth. does not exist'):
        read_checkpoint(tmp_path / 'gone.pth')


def test_a_backbone_alone_is_said_to_be_one(tmp_path):
    model = torch.nn.ModuleDict(dict(backbone=EfficientNet(arch='lite0')))
    path = tmp_path / 'backbone.pth'
    torch.save(model['backbone'].state_dict(), path)
    with pytest.raises(InputError, match='lacks .* it holds a backbone alone'):
        load_whole(path, model)


def test_whole_weights_are_loaded(tmp_path):
    source, target = EfficientNet(arch='lite0'), EfficientNet(arch='lite0')
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'whole.pth')
    load_whole(tmp_path / 'whole.pth', target)
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key
