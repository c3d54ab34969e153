"""Checkpoints as the trainers of other libraries leave them."""
import argparse
import re

import pytest
import torch

from mmeffnet import EfficientNet
from mmeffnet.errors import InputError
from mmeffnet.weights import load_weights
from mmeffnet.weights.sources import read_state
from mmeffnet.weights.wrappers import weights_of

RAW, AVERAGED = dict(w=torch.tensor([1.])), dict(w=torch.tensor([2.]))
OPTIONS = argparse.Namespace(lr=0.1)
FILES = {
    'timm': (dict(epoch=1, state_dict=RAW, optimizer={}, version=2, args=OPTIONS,
                  state_dict_ema=AVERAGED), 2),
    'torchvision': (dict(model=RAW, args=OPTIONS, model_ema={
        'n_averaged': torch.tensor(3), 'module.w': torch.tensor([2.])}), 2),
    'torchvision without averages': (dict(model=RAW, args=OPTIONS), 1),
    'empty averages': (dict(model=RAW, model_ema={}), 1),
    'averages with a counter': (dict(model=RAW, model_ema=dict(module=AVERAGED, updates=3)), 2),
    'averages with a tensor': (dict(model=RAW, model_ema=dict(
        module=AVERAGED, updates=torch.tensor(3))), 2),
}


@pytest.mark.parametrize('case', FILES)
def test_the_weights_are_found_and_averaged_ones_first(case, tmp_path):
    checkpoint, expected = FILES[case]
    torch.save(checkpoint, tmp_path / 'trainer.pth')
    state, stated = read_state(tmp_path / 'trainer.pth')
    assert state['w'] == expected
    assert stated == {}


@pytest.mark.parametrize('checkpoint', [
    dict(model={}, model_ema={}), dict(model_ema=dict(module={}, updates=3)),
    dict(state_dict={}, step=torch.tensor(3))])
def test_wrappers_without_weights_are_refused(checkpoint):
    with pytest.raises(InputError, match="holds no weights: .*'model_ema', 'state_dict', 'model'"):
        weights_of(checkpoint)


@pytest.mark.parametrize(('name', 'padding', 'eps'), [
    ('efficientnet_b0', 'symmetric', 1e-5), ('tf_efficientnet_b0', 'same', 1e-3),
    ('tf_efficientnet_b0.ns_jft_in1k', 'same', 1e-3), ('hf-hub:me/efficientnet_b0.mine',
                                                       'symmetric', 1e-5),
    ('efficientnet', None, None), ('resnet50', None, None)])
def test_timms_trainer_says_which_of_its_networks_it_was(name, padding, eps, tmp_path, said):
    timm = pytest.importorskip('timm', reason='timm is a judge, and not installed')
    network = timm.create_model('efficientnet_b0')
    path = str(tmp_path / 'last.pth')
    torch.save(dict(arch=name, state_dict=network.state_dict(), args=OPTIONS), path)
    weights = load_weights(path)
    assert (weights.padding, weights.eps) == (padding, eps)
    EfficientNet('b0', init_cfg=dict(type='Pretrained', checkpoint=path)).init_weights()
    unknown = [line for line in said if 'does not tell its padding' in line]
    other = [line for line in said if 'was trained with padding symmetric where the m' in line]
    assert (len(unknown), len(other)) == (padding is None, padding == 'symmetric')
    if unknown:
        assert re.search("the model's, same, is assumed. If it is symmetric, outputs will be off: "
                         r"set backbone.conv_cfg=dict\(type='Conv2d'\), norm_cfg=.*eps=1e-05\)",
                         unknown[0])


def test_timms_network_that_blurs_is_refused(tmp_path):
    timm = pytest.importorskip('timm', reason='timm is a judge, and not installed')
    state = timm.create_model('efficientnet_b0').state_dict()  # the same tensors
    torch.save(dict(arch='efficientnet_blur_b0', state_dict=state), tmp_path / 'last.pth')
    with pytest.raises(InputError, match="of timm's efficientnet_blur_b0, which blurs where it s"):
        load_weights(tmp_path / 'last.pth')


def test_the_name_of_another_librarys_network_says_nothing_of_timms(tmp_path):
    torchvision = pytest.importorskip('torchvision')
    state = torchvision.models.efficientnet_b0().state_dict()
    torch.save(dict(arch='tf_efficientnet_b0', state_dict=state), tmp_path / 'last.pth')
    assert load_weights(tmp_path / 'last.pth').padding == 'symmetric'
