"""Whole models and the weights that are to fill them."""
import pytest
import torch

from mmeffnet.engine.checkpoint import load_whole
from mmeffnet.errors import InputError
from mmeffnet.models import EfficientNet


@pytest.fixture
def source():
    return EfficientNet(arch='lite0')


def test_a_backbone_alone_is_said_to_be_one(source, tmp_path):
    model = torch.nn.ModuleDict(dict(
        backbone=EfficientNet(arch='lite0'),
        head=torch.nn.ModuleDict(dict(fc=torch.nn.Linear(1280, 10)))))
    torch.save(source.state_dict(), tmp_path / 'backbone.pth')
    with pytest.raises(InputError, match='lacks 2 tensors of the model: head.fc.weight, '
                                         'head.fc.bias; it holds a backbone alone'):
        load_whole(tmp_path / 'backbone.pth', model)


def test_whole_weights_are_loaded(source, tmp_path):
    target = EfficientNet(arch='lite0')
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'whole.pth')
    load_whole(tmp_path / 'whole.pth', target)
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key


def test_a_neck_beside_the_network_is_loaded_too_or_missed(source, tmp_path):
    def detector():
        return torch.nn.ModuleDict(dict(backbone=EfficientNet(arch='lite0'),
                                        neck=torch.nn.Linear(2, 2)))
    whole, target = detector(), detector()
    torch.save(whole.state_dict(), tmp_path / 'whole.pth')
    load_whole(tmp_path / 'whole.pth', target)
    assert torch.equal(target['neck'].weight, whole['neck'].weight)
    torch.save(source.state_dict(), tmp_path / 'backbone.pth')
    with pytest.raises(InputError, match='lacks 2 tensors of the model: neck.weight, neck.bias'):
        load_whole(tmp_path / 'backbone.pth', target)


def test_another_projects_network_is_loaded_as_it_is(tmp_path):
    source, target = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    torch.save(source.state_dict(), tmp_path / 'linear.pth')
    load_whole(tmp_path / 'linear.pth', target)
    assert torch.equal(target.weight, source.weight)
