"""Checkpoints as the trainers of other libraries leave them."""
import argparse

import pytest
import torch

from mmeffnet.errors import InputError
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
