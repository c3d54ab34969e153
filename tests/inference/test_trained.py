"""Checkpoints of a training: predicted with as tools/test.py does, by what they say themselves."""
import pickle
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_tool
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from peers import calibrated
from PIL import Image
from test_predictor import random_weights

from mmeffnet.engine import convert
from mmeffnet.errors import InputError
from mmeffnet.inference.network import build_network
from mmeffnet.inference.predictor import Predictor

CLASSES = ('cat', 'dog', 'eel')
# Everything differs from what would be assumed for lite0, the order of the channels too.
CONFIG = """
_base_ = ['mmeffnet::_base_/models/efficientnet.py', 'mmeffnet::_base_/default_runtime.py']
model = dict(backbone=dict(arch='lite0', conv_cfg=dict(type='Conv2d'),
                           norm_cfg=dict(type='BN', eps=0.5, momentum=0.5)),
             head=dict(arch='lite0', num_classes=3, topk=1))
data_preprocessor = dict(num_classes=3, mean=[90., 120., 150.], std=[40., 60., 80.], to_rgb=False)
pipeline = [dict(type='LoadImageFromFile'), dict(type='ResizeEdge', scale=72, edge='short'),
            dict(type='CenterCrop', crop_size=64), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=3, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type='CustomDataset', data_root='pictures', pipeline=pipeline))
test_dataloader = dict(
    batch_size=3, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type='CustomDataset', data_root='pictures', pipeline=pipeline))
test_evaluator = dict(type='mmeffnet.Accuracy')
test_cfg = dict()
train_cfg = dict(by_epoch=True, max_epochs=1)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=1e-4))
randomness = dict(seed=0)
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A training, and what tools/test.py says of its pictures: 'epoch_1.pth', 'pred.pkl'."""
    folder = tmp_path_factory.mktemp('trained')
    (folder / 'config.py').write_text(CONFIG)
    draw = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        for size in ((100, 80), (70, 150)):
            picture = draw.integers(0, 90, (*size, 3), dtype=np.uint8)
            picture[..., number] += 150
            (folder / 'pictures' / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(folder / 'pictures' / name / f'{size[0]}.png')
    for tool, *args in (('train.py', 'config.py', '--work-dir', '.'),
                        ('test.py', 'config.py', 'epoch_1.pth', '--out', 'pred.pkl')):
        done = run_tool(tool, *args, cwd=folder)
        assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture
def changed(folder, tmp_path):
    """A copy of the checkpoint whose config text, or other ``meta``, is another."""
    def write(old='', new='', **meta):
        checkpoint = torch.load(folder / 'epoch_1.pth', weights_only=True)
        text = checkpoint['meta']['cfg']
        found = re.sub(old, new, text) if old else text
        assert not old or found != text
        checkpoint['meta'] |= dict(cfg=found, **meta)
        torch.save(checkpoint, tmp_path / 'changed.pth')
        return str(tmp_path / 'changed.pth')
    return write


def test_predictions_are_those_of_the_test_tool(folder, said):
    judged = pickle.loads((folder / 'pred.pkl').read_bytes())
    predictor = Predictor(folder / 'epoch_1.pth', device='cpu')
    assert predictor.network.names == CLASSES
    found = predictor([sample['img_path'] if sample['img_path'][0] == '/' else
                       folder / sample['img_path'] for sample in judged])
    shares = torch.tensor([[one.probability for one in sorted(row, key=lambda p: p.index)]
                           for row in found])
    expected = torch.stack([sample['pred_score'] for sample in judged])
    assert expected.std(dim=0).max() > 1e-2  # pictures are told apart
    torch.testing.assert_close(shares, expected, rtol=0, atol=1e-5)
    notice, = [line for line in said if 'is no published set' in line]
    assert notice.endswith(
        'its own are 64 px, mean (150.0, 120.0, 90.0), std (80.0, 60.0, 40.0), BGR input, '
        'SYMMETRIC padding, BatchNorm eps 0.5, names of the classes')
    assert not [line for line in said if 'cannot be followed' in line]


def test_the_map_lies_on_what_the_test_pipeline_cuts_out(folder):
    network = build_network(folder / 'epoch_1.pth', device='cpu')
    assert network.settings.box((100, 80)) == pytest.approx((50 - 320 / 9, 40 - 320 / 9,
                                                             50 + 320 / 9, 40 + 320 / 9))


def test_what_is_given_goes_before_what_the_training_says(folder):
    network = build_network(folder / 'epoch_1.pth', device='cpu', classes=['a', 'b', 'c'],
                            resampler='pil')
    assert network.names == ('a', 'b', 'c')
    assert (network.settings.resolution, network.settings.transforms) == (64, ())


@pytest.mark.parametrize(('old', 'new', 'told'), [
    ("type='ResizeEdge'", "type='Mine'",
     'the test pipeline (LoadImageFromFile, Mine, CenterCrop, PackInputs)'),
    ("edge='short'", "edge='long'",
     'the test pipeline (LoadImageFromFile, ResizeEdge, CenterCrop, PackInputs)'),
    ('to_rgb=False', "to_rgb=False, type='Mine'", "data_preprocessor.type='Mine'"),
    ('to_rgb=False', 'to_rgb=False, pad_size_divisor=48', 'data_preprocessor.pad_size_divisor=48'),
    ('(?m)^model = ', 'print()\nmodel = ', 'the config'),
    ('(?m)^model = ', 'model = 1 if True else ', 'the config'),
    (r'(?s).*', '<html>', 'the config')])
def test_what_cannot_be_followed_is_said_in_one_line(changed, said, capsys, old, new, told):
    network = build_network(changed(old, new), device='cpu')
    line, = [line for line in said if 'cannot be followed' in line]
    assert f'of its training {told} cannot be followed here' in line
    notice, = [line for line in said if 'is no published set' in line]
    if 'pipeline' in told or told == 'the config':
        assert (network.settings.resolution, network.settings.transforms) == (224, ())
        assert '224 px' in notice.split('assumed, as for lite0, are ')[1]
    if told == 'the config':
        assert 'BatchNorm eps 0.001' in notice.split('assumed, as for lite0, are ')[1]
    assert network.names == CLASSES


@pytest.mark.parametrize(('old', 'new', 'told'), [
    ("type='GlobalAveragePooling'", "type='GeneralizedMeanPooling'",
     "model.neck.type='GeneralizedMeanPooling'"),
    ("type='mmeffnet.EfficientNetHead'", "type='MultiLabelLinearClsHead'",
     "model.head.type='MultiLabelLinearClsHead'"),
    ("arch='lite0'", "arch='lite0', act_cfg=dict(type='SiLU')",
     "model.backbone.act_cfg.type='SiLU'"),
    ("arch='lite0'", "arch='b0'", "a model.backbone.arch that is not 'lite0'"),
    ("arch='lite0'", "arch='lite0', output_stride=16", 'model.backbone.output_stride=16')])
def test_a_model_that_computes_something_else_is_refused(changed, old, new, told):
    with pytest.raises(InputError, match=re.escape(told) + '.*use tools/test.py with its config'):
        build_network(changed(old, new), device='cpu')


def test_a_training_of_another_head_is_no_backbone_alone(changed, tmp_path):
    """None of its tensors is of a classifier of ours; of a backbone alone nothing else is told."""
    path = changed("type='mmeffnet.EfficientNetHead'", "type='StackedLinearClsHead'")
    checkpoint = torch.load(path, weights_only=True)
    state = {key: tensor for key, tensor in checkpoint['state_dict'].items() if 'head.' not in key}
    torch.save({**checkpoint, 'state_dict': {
        **state, 'head.layers.0.fc.weight': torch.ones(3, 1280)}}, path)
    with pytest.raises(InputError, match="its training had model.head.type='StackedLinearClsHead', "
                       'and what predicts is .*: use tools/test.py with its config$'):
        build_network(path, device='cpu')
    convert.main([path, str(tmp_path / 'clean.pth')])
    clean, = tmp_path.glob('clean-*.pth')
    with pytest.raises(InputError, match='these weights have no classifier, only a backbone'):
        build_network(clean, device='cpu')


# Networks of no published variant.

SCALED = """scaling=dict(type='mmeffnet.ModelScaling', width=0.3, depth=0.5)"""
SHORT = SCALED.replace("type='mmeffnet.ModelScaling', ", '')  # the type may be left out
CUSTOM = """arch=dict(_delete_=True, stem=8, head=24, activation='ReLU6', stages=dict(
    first=dict(block='fused', kernel=3, stride=2, expand=2, channels=8, repeats=1),
    second=dict(block='mbconv', kernel=5, stride=2, expand=3, channels=16, repeats=2,
                se_ratio=0.25)))"""


def unpublished(folder, backbone, head):
    """What a training of another architecture leaves: the model, and the path of its checkpoint.

    The order of the channels, normalisation, padding and epsilon are those of ``CONFIG``.
    """
    (folder / 'base.py').write_text(CONFIG.replace("'lite0'", "'b0'"))
    (folder / 'other.py').write_text(
        f"_base_ = 'base.py'\nmodel = dict(backbone=dict({backbone}), "
        f"head=dict(arch=None, in_channels={head}))\n")
    cfg = Config.fromfile(folder / 'other.py')
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor})
    calibrated(model.backbone)
    torch.nn.init.normal_(model.float().head.fc.weight)
    meta = dict(cfg=cfg.pretty_text, dataset_meta=dict(classes=CLASSES))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'other.pth')
    return model.eval(), folder / 'other.pth'


@pytest.mark.parametrize(('backbone', 'head'), [(SCALED, 384), (SHORT, 384), (CUSTOM, 24)],
                         ids=['scaled', 'short', 'custom'])
def test_a_network_of_no_variant_is_built_from_what_its_training_says(
        tmp_path, said, backbone, head):
    model, path = unpublished(tmp_path, backbone, head)
    network = build_network(path, device='cpu')
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 80, 3), np.uint8))
    pixels = torch.from_numpy(network.settings.pixels(picture).copy()).permute(2, 0, 1)
    inputs = model.data_preprocessor(dict(inputs=pixels.flip(0)[None]))['inputs']
    torch.testing.assert_close(network.settings.tensor(picture)[None], inputs, rtol=0, atol=1e-6)
    with torch.no_grad():
        expected = model.double()(inputs.double(), mode='tensor')
        given = network.model.double()(inputs.double())
    assert expected.std() > 1e-3
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-12 * expected.abs().max().item())
    assert (network.names, network.variant, network.title) == (CLASSES, None, 'EfficientNet')
    assert network.settings.resolution == 64
    notice, = [line for line in said if 'is no published set' in line]
    assert 'assumed' not in notice


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('custom', [True, False])
def test_a_converted_file_says_what_the_training_said(tmp_path, changed, custom, suffix):
    source = unpublished(tmp_path, CUSTOM, 24)[1] if custom else Path(changed())
    if suffix == '.safetensors':
        pytest.importorskip('safetensors', reason='is not installed')
    convert.main([str(source), str(tmp_path / f'clean{suffix}')])
    clean, = tmp_path.glob(f'clean-*{suffix}')
    before, after = (build_network(path, device='cpu') for path in (source, clean))
    assert after.settings == before.settings
    assert after.names == before.names == CLASSES
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(after.model(image), before.model(image))


@pytest.mark.parametrize(('old', 'new', 'told'), [
    ('(?s).*', 'print()', 'these are the weights of no published variant, and the architecture and '
     'the size of its input and its normalisation cannot be told from the file: use tools/test.py'),
    ("type='ResizeEdge'", "type='Mine'", 'and the size of its input cannot be told from the file'),
    ('depth=0.5', 'depth=0.5, phi=1', "its training had model.backbone.arch='b0', and what"),
    ('scaling=', 'output_stride=16, scaling=',
     'its training had model.backbone.output_stride=16, and what'),
    ('width=0.3', 'width=0.4', 'or no place there: use tools/test.py'),
    ('depth=0.5', 'depth=0.2', 'in the architecture that its training had, or no place there')])
def test_a_network_of_no_variant_that_cannot_be_told_is_refused(tmp_path, old, new, told):
    _, path = unpublished(tmp_path, SCALED, 384)
    content = torch.load(path, weights_only=True)
    content['meta']['cfg'], count = re.subn(old, new, content['meta']['cfg'])
    assert count
    torch.save(content, path)
    with pytest.raises(InputError, match=re.escape(told)):
        build_network(path, device='cpu')


def test_names_of_another_number_are_left_out_in_one_line(changed, said):
    network = build_network(changed(dataset_meta=dict(classes=['a', 'b'])), device='cpu')
    assert network.names == ('class 0', 'class 1', 'class 2')
    assert [line for line in said if 'the 2 class names for 3 classes cannot be followed' in line]


def test_the_notice_names_eps_and_says_which_settings_are_assumed(said):
    build_network(replace(random_weights('b0'), layout='torchvision'), device='cpu')
    assert said[-1].endswith(
        'its own are SYMMETRIC padding, BatchNorm eps 1e-05; assumed, as for b0, are 224 px, mean '
        '(123.675, 116.28, 103.53), std (58.395, 57.12, 57.375), RGB input')
