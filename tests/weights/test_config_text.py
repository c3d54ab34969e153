"""The config that a training's checkpoint carries as text: what is read, and that nothing runs."""
import pytest
import torch
from mmengine.config import Config

from mmeffnet import VARIANTS, EfficientNet
from mmeffnet.config_text import read_config
from mmeffnet.variants import Norm
from mmeffnet.weights import load_weights
from mmeffnet.weights.settings import norm_mismatch
from mmeffnet.weights.trained import READ, read_pipeline, trained

LOAD, PACK = dict(type='LoadImageFromFile'), dict(type='mmeffnet.PackChannelsLast')
CROP = dict(type='EfficientNetCenterCrop', crop_size=224)


def config(preprocessor=None, **backbone):
    return Config(dict(
        default_scope='mmpretrain', data_preprocessor=preprocessor,
        model=dict(type='ImageClassifier', neck=dict(type='GlobalAveragePooling'),
                   backbone=dict(type='mmeffnet.EfficientNet', arch='b0', **backbone),
                   head=dict(type='LinearClsHead', num_classes=1000)),
        test_dataloader=dict(dataset=dict(pipeline=[LOAD, CROP, PACK]))))


def test_a_dumped_config_is_read_as_it_was():
    cfg = Config(dict(model=dict(a=-1e-5, b=[(1, 2), dict(c=None)], e='ü',
                                 d={'x-y': True, 'backbone.layers.0': dict(lr_mult=0.1)}),
                      other=1))
    # As the forks dump a class, which mmengine 0.10.7 cannot.
    text = cfg.pretty_text + ('data_preprocessor=dict(type=torch.nn.modules.batchnorm.BatchNorm2d,'
                              'least=-inf)')
    assert read_config(text, READ) == dict(
        model=cfg.model.to_dict(),
        data_preprocessor=dict(type='torch.nn.modules.batchnorm.BatchNorm2d', least='-inf'))


@pytest.mark.parametrize('text', [
    'model = __import__("pathlib").Path("{path}").touch()',
    'model = dict(a=dict(__import__("pathlib").Path("{path}").touch()))',
    'import pathlib\npathlib.Path("{path}").touch()\nmodel = dict()',
    'model = [1 for _ in "a"]', 'model = dict(**dict(a=1))', 'model = dict()\ndel model',
    'model, other = 1, 2', 'model = dict({"a": 1}, b=2)', '', '\n', 'model = <function f at 0x7f>',
    '(' * 10 ** 5, '-' * 10 ** 5 + '1',
    b'\xff', None, 7, dict()])
def test_a_text_that_is_more_than_data_is_not_read_and_never_run(text, tmp_path):
    path = tmp_path / 'run'
    text = text.replace('{path}', str(path)) if isinstance(text, str) else text
    assert read_config(text, READ) is None
    assert trained(dict(cfg=text)) == dict(unread=('the config', ))
    assert not path.exists()


@pytest.mark.parametrize('text', ['model = 1', 'model = dict(backbone=[1])',
                                  'test_dataloader = dict(dataset=dict(pipeline=[1]))',
                                  'model = dict(backbone=dict(arch=[1], conv_cfg="Conv2d"))'])
def test_a_config_of_another_form_is_not_read(text):
    assert trained(dict(cfg=text))['unread'] == ('the config', )


@pytest.mark.parametrize(('given', 'norm', 'order'), [
    (dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=True), Norm(mean=(1, 2, 3), std=(4, 5, 6)), 'rgb'),
    (dict(mean=[1, 2, 3], std=[4, 5, 6]), Norm(mean=(3, 2, 1), std=(6, 5, 4)), 'bgr'),
    (dict(mean=[127.5], std=[2]), Norm(mean=(127.5, ) * 3, std=(2, ) * 3), 'bgr'),
    (dict(to_rgb=True), Norm(mean=(0, 0, 0), std=(1, 1, 1)), 'rgb'),
    (dict(mean=None, std=[4, 5, 6], to_rgb=True), Norm(mean=(0, 0, 0), std=(1, 1, 1)), 'rgb'),
    (None, Norm(mean=(0, 0, 0), std=(1, 1, 1)), 'bgr')])
def test_the_normalisation_is_that_of_rgb_whatever_the_order(given, norm, order):
    cfg = config(given)
    found = trained(dict(cfg=cfg.pretty_text))
    assert (found['norm'], found['channel_order'], found['unread']) == (norm, order, ())
    # A training is tested with its own config without a warning.
    assert norm_mismatch(norm, 'epoch_1.pth', cfg) is None


@pytest.mark.parametrize(('to_rgb', 'order'), [(False, 'rgb'), (True, 'bgr')])
@pytest.mark.parametrize('wrapped', [lambda data: data,
                                     lambda data: dict(type='RepeatDataset', dataset=data)])
def test_data_that_are_rgb_already_are_turned_to_bgr(wrapped, to_rgb, order):
    """CIFAR's, which no transform reads."""
    cfg = config(dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=to_rgb))
    dataset = cfg.test_dataloader.dataset
    cfg.test_dataloader.dataset = wrapped(dict(
        type='mmpretrain.CIFAR10', pipeline=dataset.pipeline[1:]))
    found = trained(dict(cfg=cfg.pretty_text))
    norm = Norm(mean=(1, 2, 3), std=(4, 5, 6)) if order == 'rgb' else Norm(
        mean=(3, 2, 1), std=(6, 5, 4))
    assert (found['norm'], found['channel_order']) == (norm, order)
    assert norm_mismatch(norm, 'epoch_1.pth', cfg) is None


@pytest.mark.parametrize('given', [dict(mean=[1, 2], std=[1, 2]), dict(mean=[1, 2, 3]),
                                   dict(mean=[1, 2, 3], std=[1, 0, 1]), dict(mean='a', std=[1])])
def test_a_normalisation_that_is_none_is_not_read(given):
    found = trained(dict(cfg=config(given).pretty_text))
    assert 'norm' not in found
    assert found['unread'][0].startswith(('data_preprocessor.mean=', 'data_preprocessor.std='))


@pytest.mark.parametrize(('backbone', 'padding', 'eps'), [
    (dict(), 'same', 1e-3), (dict(norm_cfg=dict(type='SyncBN', momentum=0.1)), 'same', 1e-3),
    (dict(conv_cfg=dict(type='Conv2d'), norm_cfg=dict(type='BN', eps=1e-5)), 'symmetric', 1e-5),
    (dict(conv_cfg=dict(type='mmeffnet.Conv2dSame')), 'same', 1e-3)])
def test_padding_and_eps_are_those_that_the_backbone_is_built_with(backbone, padding, eps):
    from mmeffnet.models.loading import eps_of, padding_of
    found = trained(dict(cfg=config(**backbone).pretty_text))
    built = EfficientNet('b0', **backbone)
    assert (found['padding'], found['eps'], found['parts']) == (padding, eps, ())
    assert (padding_of(built), eps_of(built)) == (padding, eps)


def test_mmpretrain_s_own_backbone_completes_no_eps():
    cfg = config(norm_cfg=dict(type='BN'))
    for kind, scope, eps in (('EfficientNet', 'mmpretrain', 1e-5),
                             ('EfficientNet', 'mmeffnet', 1e-3),
                             ('mmeffnet.EfficientNet', 'mmpretrain', 1e-3)):
        cfg.model.backbone.type, cfg.default_scope = kind, scope
        assert trained(dict(cfg=cfg.pretty_text))['eps'] == eps


@pytest.mark.parametrize(('key', 'layer', 'setting'), [
    ('norm_cfg', dict(type='GN', num_groups=4), 'eps'),
    ('conv_cfg', dict(type='ConvAWS'), 'padding')])
def test_layers_of_the_user_s_choice_are_named(key, layer, setting):
    found = trained(dict(cfg=config(**{key: layer}).pretty_text))
    # The order of the keys is that of the text.
    assert found['parts'] == (f'model.backbone.{key}={dict(sorted(layer.items()))}', )
    assert setting not in found


@pytest.mark.parametrize('pipeline', [
    [], [LOAD], [LOAD, PACK], [CROP], [LOAD, CROP, CROP, PACK], [CROP, LOAD, PACK],
    [dict(type='LoadImageFromFile', color_type='grayscale'), CROP, PACK],
    [LOAD, {**CROP, 'interpolation': 'area'}, PACK], [LOAD, {**CROP, 'other': 1}, PACK],
    [LOAD, dict(type='ResizeEdge', scale=200), dict(type='CenterCrop', crop_size=224), PACK],
    [LOAD, dict(type='ResizeEdge', scale=200), dict(type='CenterCrop', crop_size=(96, 64)), PACK],
    [LOAD, dict(type='Resize', scale=(224, 200)), PACK],
    [LOAD, dict(type='Resize', scale=224, keep_ratio=True), PACK],
    [LOAD, CROP, dict(type='RandomFlip'), PACK]])
def test_other_pipelines_are_not_guessed_at(pipeline):
    assert read_pipeline(pipeline) is None


def test_a_training_of_bgr_input_states_no_norm_of_rgb(tmp_path):
    state = {f'backbone.{key}': value for key, value in EfficientNet('lite0').state_dict().items()}
    cfg = config(dict(mean=[1, 2, 3], std=[4, 5, 6]), norm_cfg=dict(type='BN', eps=0.1))
    cfg.model.backbone.arch = 'lite0'
    for to_rgb, norm in ((False, None), (True, Norm(mean=(1, 2, 3), std=(4, 5, 6)))):
        cfg.data_preprocessor.to_rgb = to_rgb
        torch.save(dict(state_dict=state, meta=dict(cfg=cfg.pretty_text)), tmp_path / 'a.pth')
        weights = load_weights(tmp_path / 'a.pth')
        assert (weights.norm, weights.eps, weights.padding) == (norm, 0.1, 'same')
        assert weights.stated['arch'] == VARIANTS['lite0'].arch


def parts(cfg):
    return trained(dict(cfg=cfg.pretty_text))['parts']


def test_a_name_without_a_package_is_meant_in_its_scope():
    """MMEngine writes ``_scope_`` into models that were inherited by name."""
    norm = dict(norm_cfg=dict(type='BN'))
    for scope, type_, eps in (('mmeffnet', 'EfficientNet', 1e-3),
                              ('mmpretrain', 'EfficientNet', 1e-5),
                              ('mmpretrain', 'mmeffnet.EfficientNet', 1e-3)):
        cfg = config(**norm)
        cfg.model.backbone.type, cfg.model._scope_ = type_, scope
        assert trained(dict(cfg=cfg.pretty_text))['eps'] == eps


def test_defaults_are_those_of_the_package():
    cfg = config()
    cfg.model.backbone |= dict(type='mmpretrain.EfficientNet', arch='es', conv_cfg=None)
    assert trained(dict(cfg=cfg.pretty_text))['padding'] == 'symmetric'
    assert parts(cfg) == ("model.backbone.act_cfg.type='Swish'", )
    cfg.model.backbone |= dict(type='mmeffnet.EfficientNet')
    assert trained(dict(cfg=cfg.pretty_text))['padding'] == 'same'
    assert not parts(cfg)
    assert not parts(config(act_cfg=dict(type='Swish')))  # of b0, which has it by another name


def test_further_arguments_and_classes_of_others_are_not_taken_for_known_ones():
    assert parts(config(conv_cfg=dict(type='Conv2d', padding_mode='reflect')))
    cfg = config()
    cfg.model.backbone.type = 'mine.EfficientNet'
    assert "model.backbone.type='mine.EfficientNet'" in parts(cfg)
    assert read_pipeline([LOAD, dict(type='mine.EfficientNetCenterCrop', crop_size=224), PACK]
                         ) is None
    assert read_pipeline([LOAD | dict(ignore_empty=True), CROP | dict(_scope_='mmpretrain'), PACK]
                         )['resolution'] == 224
    cfg = config()
    cfg.model.neck = [dict(type='GlobalAveragePooling')]
    assert not parts(cfg)


def test_the_pipeline_of_the_test_is_looked_for_in_wrappers():
    cfg = config()
    cfg.val_dataloader = dict(dataset=dict(pipeline=[LOAD, CROP | dict(crop_size=64), PACK]))
    inner = cfg.test_dataloader.dataset
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[inner])
    assert trained(dict(cfg=cfg.pretty_text))['input']['resolution'] == 224
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[inner, inner])
    assert 'input' not in trained(dict(cfg=cfg.pretty_text))  # and not that of the validation


def test_a_model_with_its_own_empty_preprocessor_does_not_get_that_beside_it():
    cfg = config(dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=True))
    cfg.model.data_preprocessor = None
    assert trained(dict(cfg=cfg.pretty_text))['norm'] == Norm(mean=(0, 0, 0), std=(1, 1, 1))
