"""A set's settings in a config: put there, and compared with what is there."""
import copy
from pathlib import Path

import pytest
from mmcv.transforms import Resize
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS, TRANSFORMS

from mmeffnet.variants import HALF_NORM, IMAGENET_NORM, Norm
from mmeffnet.weights import CATALOG, apply, get_entry, mismatch
from mmeffnet.weights.settings import norm_mismatch, resolution_of

B0 = 'efficientnet/efficientnet-b0_8xb32_in1k.py'


@pytest.fixture
def config(configs):
    return Config.fromfile(configs / B0)


def test_a_config_of_its_own_has_nothing_to_say(config):
    assert mismatch(get_entry('efficientnet-b0_tpu-aa_in1k'), config) is None


def test_advprop_weights_in_an_imagenet_config_are_one_line_that_names_both(config):
    line = mismatch(get_entry('efficientnet-b0_tpu-advprop_in1k'), config)
    assert '\n' not in line
    assert 'efficientnet-b0_tpu-advprop_in1k was published for mean 127.5/127.5/127.5 where the ' \
           'config has 123.675/116.28/103.53; std 127.5' in line
    assert 'resolution' not in line


def test_padding_eps_resolution_and_channel_order_are_compared(config):
    config.data_preprocessor.to_rgb = False
    line = mismatch(get_entry('efficientnet-b1_torchvision-v2_in1k'), config)
    for text in ('padding symmetric where the config has same',
                 'eps 1e-05 where the config has 0.001', 'resolution 240 where the config has 224',
                 'channel order rgb where the config has bgr'):
        assert text in line


def test_the_order_of_the_data_counts_as_well(config):
    """CIFAR's are RGB, and ``to_rgb`` would turn them."""
    entry = get_entry('efficientnet-b0_tpu-aa_in1k')
    config.test_dataloader.dataset = dict(type='CIFAR10', pipeline=[
        dict(type='Resize', scale=224), dict(type='PackInputs')])
    assert 'channel order rgb where the config has bgr' in mismatch(entry, config)
    apply(entry, config)
    assert config.data_preprocessor.to_rgb is False
    assert 'channel order' not in (mismatch(entry, config) or '')


@pytest.mark.parametrize('name', ['efficientnet-b0_torchvision-v1_in1k',
                                  'efficientnet-b0_timm-ra4-e3600-r224_in1k',
                                  'efficientnet-b0_tpu-advprop_in1k'])
def test_a_config_with_the_settings_suits_and_builds(name, config):
    entry = get_entry(name)
    apply(entry, config)
    assert mismatch(entry, config) is None
    pipeline = config.test_dataloader.dataset.pipeline
    assert [pipeline[0].type, pipeline[-1].type] == ['LoadImageFromFile', 'PackInputs']
    assert config.val_dataloader.dataset.pipeline == pipeline
    init_default_scope('mmpretrain')
    for transform in pipeline:
        TRANSFORMS.build(transform)
    backbone = MODELS.build(config.model).backbone
    assert backbone.layers[0].bn.eps == entry.eps
    assert type(backbone.layers[0].conv).__name__ == (
        'Conv2d' if entry.padding == 'symmetric' else 'Conv2dSame')


@pytest.mark.parametrize('wrapped', [
    lambda inner: dict(type='RepeatDataset', times=2, dataset=inner),
    lambda inner: dict(type='ConcatDataset', datasets=[
        inner, dict(type='KFoldDataset', dataset=copy.deepcopy(inner))])])
def test_data_sets_within_others_are_compared_and_set_too(wrapped, config):
    entry = get_entry('efficientnet-b1_torchvision-v2_in1k')
    config.test_dataloader.dataset = wrapped(config.test_dataloader.dataset)
    assert 'resolution 240 where the config has 224' in mismatch(entry, config)
    apply(entry, config)
    assert mismatch(entry, config) is None
    assert resolution_of(config) == 240


@pytest.mark.parametrize(('pipelines', 'side'), [
    ([[dict(type='Resize', scale=256), dict(type='CenterCrop', crop_size=224)]], 224),
    ([[dict(type='ResizeEdge', scale=256)]], None), ([[], []], None),
    ([[dict(type='Resize', scale=(64, 64))], [dict(type='CenterCrop', crop_size=64)]], 64),
    ([[dict(type='mmpretrain.Resize', scale=64)], [dict(type=Resize, scale=64)]], 64),
    ([[dict(type='Resize', scale=72), dict(type='torchvision/CenterCrop', size=64)]], 64),
    ([[dict(type='Resize', scale=(64, 64), keep_ratio=True)]], None),
    ([[dict(type='Resize', scale=64)], [dict(type='Resize', scale=32)]], None)])
def test_the_resolution_is_the_square_that_every_test_pipeline_ends_with(pipelines, side):
    datasets = [dict(pipeline=pipeline) for pipeline in pipelines]
    assert resolution_of(dict(default_scope='mmpretrain', test_dataloader=dict(
        dataset=dict(type='ConcatDataset', datasets=datasets)))) == side


@pytest.mark.parametrize('inside', [True, False])
def test_the_input_is_set_in_the_data_preprocessor_that_the_model_gets(inside, config):
    entry = get_entry('efficientnet-b0_tpu-advprop_in1k')
    given = config.pop('data_preprocessor')
    if inside:
        config.model.data_preprocessor = given
    apply(entry, config)
    assert mismatch(entry, config) is None
    found = config.model.data_preprocessor if inside else config.data_preprocessor
    assert (found['mean'], found['to_rgb']) == ([127.5] * 3, True)


def test_order_and_resolution_of_a_detector_are_its_own():
    entry = get_entry('efficientnet-b0_tpu-aa_in1k')
    norm = dict(mean=entry.norm.mean, std=entry.norm.std, bgr_to_rgb=True)
    cfg = Config(dict(
        default_scope='mmdet', test_dataloader=dict(dataset=dict(pipeline=[
            dict(type='Resize', scale=(512, 512))])),
        model=dict(data_preprocessor=norm, backbone=dict(type='mmeffnet.EfficientNet'))))
    assert mismatch(entry, cfg) is None


def models_of_the_index(configs):
    import yaml
    for folder in ('efficientnet', 'efficientnet_edgetpu', 'efficientnet_lite'):
        yield from yaml.safe_load((configs / folder / 'metafile.yml').read_text())['Models']


def test_every_set_has_a_config_in_the_index_that_suits_it(configs):
    seen, loaded = set(), {}
    for model in models_of_the_index(configs):
        if model['Name'] not in CATALOG:
            continue
        entry, path = CATALOG[model['Name']], Path(model['Config']).relative_to('configs')
        if path not in loaded:
            loaded[path] = Config.fromfile(configs / path)
        cfg = loaded[path]
        assert mismatch(entry, cfg) is None, entry.name
        assert cfg.model.backbone.arch == entry.variant
        assert cfg.model.head.num_classes == cfg.data_preprocessor.num_classes == entry.classes
        assert model['Weights'] in (entry.address, f'mmeffnet://{entry.name}')
        seen.add(entry.name)
    assert seen == set(CATALOG)


def test_a_file_that_states_its_own_normalisation_is_compared_too(config):
    assert norm_mismatch(IMAGENET_NORM, 'own.h5', config) is None
    assert norm_mismatch(HALF_NORM, 'own.h5', config).startswith(
        'own.h5 states mean 127.5/127.5/127.5 and std 127.5/127.5/127.5 where the config has')
    assert norm_mismatch(Norm(mean=(0, ) * 3, std=(255, ) * 3), 'own.h5', Config({})) is None
    rgb = dict(config.data_preprocessor)
    config.data_preprocessor.update(mean=rgb['mean'][::-1], std=rgb['std'][::-1], to_rgb=False)
    assert norm_mismatch(IMAGENET_NORM, 'own.h5', config) is None  # of BGR, the same numbers
    config.data_preprocessor.mean = rgb['mean']
    assert 'has 103.53/116.28/123.675 and' in norm_mismatch(IMAGENET_NORM, 'own.h5', config)
