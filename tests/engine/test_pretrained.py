"""Where a config takes weights from: settings that are set, warnings, addresses."""
import pytest
import torch
from mmengine.config import Config

from mmeffnet.engine import adjust, cli, pretrained
from mmeffnet.errors import InputError
from mmeffnet.models import EfficientNet
from mmeffnet.weights import get_entry

PUBLISHED = get_entry('efficientnet-b0_mmpretrain-base_in1k').address
SET = 'efficientnet-b0_tpu-advprop_in1k'


@pytest.fixture
def config(configs):
    return Config.fromfile(configs / 'efficientnet/efficientnet-b0_8xb32_in1k.py')


@pytest.mark.parametrize('prefix', ['', 'mmeffnet://'])
def test_a_set_chosen_by_name_brings_its_settings(prefix, config, said):
    config.load_from = prefix + SET
    pretrained.for_testing(config)
    assert config.load_from == f'mmeffnet://{SET}'
    assert tuple(config.data_preprocessor.mean) == get_entry(SET).norm.mean
    assert said == [f'{SET}: input, resolution and padding are set as published']


@pytest.mark.parametrize('place', ['load_from', 'init_cfg'])
def test_weights_that_do_not_suit_the_config_are_one_warning(place, config, said):
    address = 'timm://tf_efficientnet_b0.ap_in1k'
    if place == 'load_from':
        config.load_from = address
    else:
        config.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=address)
    assert pretrained.for_training(config) is None
    assert len(said) == 1
    assert 'mean 127.5/127.5/127.5 where the config has 123.675/116.28/103.53' in said[0]
    assert config.data_preprocessor.mean[0] == 123.675  # the user's choice stays


def test_weights_that_suit_say_nothing(config, said):
    config.load_from = 'timm://tf_efficientnet_b0.aa_in1k'
    pretrained.for_training(config)
    assert said == []


def test_what_a_whole_model_is_initialised_with_becomes_load_from(config):
    config.model.init_cfg = dict(type='Pretrained', checkpoint='timm://tf_efficientnet_b0.aa_in1k')
    pretrained.for_training(config)
    assert config.load_from == 'timm://tf_efficientnet_b0.aa_in1k'
    assert config.model.init_cfg is None


@pytest.mark.parametrize('more', [
    dict(load_from='timm://tf_efficientnet_b0.ap_in1k'),
    dict(model=dict(init_cfg=dict(prefix='backbone.')))])
def test_a_part_of_a_file_and_what_load_from_overrules_stay_where_they_are(more, config):
    given = dict(type='Pretrained', checkpoint='timm://tf_efficientnet_b0.aa_in1k')
    config.model.init_cfg = given
    config.merge_from_dict(more)
    pretrained.for_training(config)
    assert config.get('load_from') == more.get('load_from')
    assert config.model.init_cfg.checkpoint == given['checkpoint']


def test_a_missing_file_is_named_before_anything_is_built(config):
    gone = dict(type='Pretrained', checkpoint='gone.pth')
    for key, value in (('load_from', 'gone.pth'), ('model', dict(backbone=dict(init_cfg=gone))),
                       ('model', dict(neck=[dict(init_cfg=[dict(type='Normal'), gone])]))):
        broken = Config(config.to_dict())
        broken.merge_from_dict({key: value})
        with pytest.raises(InputError, match="'gone.pth' does not exist"):
            pretrained.for_training(broken)


@pytest.mark.parametrize('resume', [False, True])
@pytest.mark.parametrize('prepare', [pretrained.for_training, pretrained.for_testing])
def test_an_empty_name_is_refused(prepare, resume, config):
    config.load_from, config.resume = '', resume
    with pytest.raises(InputError, match="load_from='' names no weights.*not set: give a file"):
        prepare(config)


@pytest.mark.parametrize('whole', [True, False])
def test_an_empty_name_of_initial_weights_is_refused(whole, config):
    (config.model if whole else config.model.backbone).init_cfg = dict(
        type='Pretrained', checkpoint='')
    with pytest.raises(InputError, match="init_cfg.checkpoint='' names no weights"):
        pretrained.for_training(config)


def test_a_tilde_is_the_home_folder_as_it_is_to_mmengine(config, tmp_path, monkeypatch, said):
    monkeypatch.setenv('HOME', str(tmp_path))
    torch.save(dict(state_dict=EfficientNet('lite0').state_dict(), optimizer={}),
               tmp_path / 'ours.pth')
    for prepare in (pretrained.for_testing, pretrained.for_training):
        config.load_from = '~/ours.pth'
        prepare(config)
        assert config.load_from == str(tmp_path / 'ours.pth')
    config.load_from, config.resume = '~/ours.pth', True
    assert pretrained.for_training(config) == str(tmp_path / 'ours.pth')
    config.resume, config.load_from = False, None
    config.model.backbone.init_cfg = dict(type='Pretrained', checkpoint='~/ours.pth')
    pretrained.for_training(config)
    config.model.backbone.init_cfg.checkpoint = '~/gone.pth'
    with pytest.raises(InputError, match=f"'{tmp_path}/gone.pth' does not exist"):
        pretrained.for_training(config)


def test_resuming_from_an_empty_name_is_not_resuming_from_the_newest(config):
    args = cli.parse(cli.train_parser(), ['config.py', '--resume', ''])
    adjust.for_training(config, args)
    assert (config.resume, config.load_from) == (True, '')


def test_addresses_are_those_that_mmengine_can_load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(EfficientNet('lite0').state_dict(), 'ours.pth')
    (tmp_path / 'b0').symlink_to('ours.pth')
    monkeypatch.setitem(pretrained.CATALOG, 'b0', None)  # a file goes before a set
    assert pretrained.address('b0') == 'b0'
    (tmp_path / 'theirs.bin').write_bytes(b'\x89HDF\r\n\x1a\n')
    assert {source: pretrained.address(source) for source in (
        'ours.pth', 'theirs.bin', SET, 'timm://x', 'torchvision://efficientnet_b0',
        'torchvision://resnet50', 'https://x/y.pth', 's3://x', PUBLISHED)} == {
        'ours.pth': 'ours.pth', 'theirs.bin': 'mmeffnet://theirs.bin', SET: f'mmeffnet://{SET}',
        'timm://x': 'timm://x', 'torchvision://efficientnet_b0': 'torchvision://efficientnet_b0',
        # Not ours: another network may be behind them.
        'torchvision://resnet50': 'torchvision://resnet50', 'https://x/y.pth': 'https://x/y.pth',
        's3://x': 's3://x', PUBLISHED: f'mmeffnet://{PUBLISHED}'}
