"""The segmentation configs: short, right in every number, and they train; no operators needed."""
import re

import pytest
import torch
from downstream import need

need('mmseg')

from mmengine.config import Config  # noqa: E402
from mmengine.model import revert_sync_batchnorm  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402
from mmseg.datasets import CityscapesDataset  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

from mmeffnet import check_model, config_path  # noqa: E402
from mmeffnet.engine.model_checks import check_predictors  # noqa: E402
from mmeffnet.errors import InputError  # noqa: E402
from mmeffnet.plugin import MIM  # noqa: E402
from mmeffnet.weights.catalog import CATALOG  # noqa: E402

ROOT = MIM / 'configs' / 'segmentation'
CONFIGS = sorted(path.name for path in ROOT.glob('*.py'))
ONE_OF_EACH = ['deeplabv3plus_effb0-d8_4xb4-80k_ade20k-512x512.py',
               'deeplabv3plus_effb0-d16_4xb4-80k_ade20k-512x512.py',
               'upernet_effb0_4xb4-160k_ade20k-512x512.py',
               'fpn_effb0_4xb4-160k_ade20k-512x512.py']
CLASSES = 150


def model_of(name, **backbone):
    cfg = Config.fromfile(ROOT / name)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None  # nothing is downloaded here
    cfg.model.backbone.update(backbone)
    return cfg.model


def build(name, **backbone):
    return revert_sync_batchnorm(MODELS.build(model_of(name, **backbone)))  # as one process does


def test_there_is_a_config_for_each_head_variant_and_stride():
    assert {name.partition('_4xb4')[0] for name in CONFIGS} == {
        f'{head}_eff{arch}{stride}' for head, strides in (
            ('deeplabv3plus', ('-d8', '-d16')), ('upernet', ('', )), ('fpn', ('', )))
        for arch in ('b0', 'b3', 'b5') for stride in strides}


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_is_short_and_fits_its_backbone(name, tmp_path):
    assert len((ROOT / name).read_text().splitlines()) <= 40
    cfg = Config.fromfile(ROOT / name)
    check_model(cfg.model)
    assert cfg.default_scope == 'mmseg'
    assert 'mmeffnet.PyramidCheckHook' in [hook['type'] for hook in cfg.custom_hooks]
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()


@pytest.mark.parametrize('name', CONFIGS)
def test_weights_and_input_belong_together(name):
    model = Config.fromfile(ROOT / name).model
    (entry, ) = [e for e in CATALOG.values() if e.source == model.backbone.init_cfg.checkpoint]
    assert entry.variant == model.backbone.arch
    assert model.data_preprocessor.mean == [123.675, 116.28, 103.53]
    assert model.data_preprocessor.bgr_to_rgb


@pytest.mark.parametrize('name', CONFIGS)
def test_a_segmenter_builds_with_the_stride_that_its_name_says(name):
    with torch.device('meta'):
        segmenter = MODELS.build(model_of(name))
    stated = re.search(r'-d(\d+)_', name)
    assert segmenter.backbone.feature_info.strides[-1] == (int(stated[1]) if stated else 32)


@pytest.mark.parametrize('name', ONE_OF_EACH)
def test_a_training_step_is_finite_and_reaches_the_first_stage(name):
    torch.manual_seed(0)
    segmenter = build(name).train()
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(0, CLASSES, (1, 64, 96))),
                             metainfo=dict(img_shape=(64, 96), ori_shape=(64, 96)))
               for _ in range(2)]
    data = dict(inputs=[torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)] * 2,
                data_samples=samples)
    losses = segmenter(**segmenter.data_preprocessor(data, True), mode='loss')
    total, _ = segmenter.parse_losses(losses)
    total.backward()
    assert torch.isfinite(total)
    assert all(p.grad is not None and p.grad.isfinite().all()
               for p in segmenter.backbone.layers[:6].parameters())


@pytest.mark.parametrize('name', ONE_OF_EACH)
@pytest.mark.parametrize('size', [(64, 96), (65, 47)])
def test_every_pixel_gets_its_scores(name, size):
    segmenter = build(name).eval()
    with torch.no_grad():
        scores = segmenter(torch.zeros(1, 3, *size), mode='tensor')
        whole = segmenter.encode_decode(torch.zeros(1, 3, *size), [dict(img_shape=size)])
    assert scores.shape == (1, CLASSES, *(-(-side // 4) for side in size))  # of the first output
    assert whole.shape == (1, CLASSES, *size)


def test_a_head_for_boundaries_has_classes_of_its_own():
    """mmseg's STDC has one among three auxiliary heads; the others are held against the data."""
    init_default_scope('mmseg')
    model = Config.fromfile(config_path(
        'mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py')).model
    model = MODELS.build(model)
    assert [head.num_classes for head in model.auxiliary_head] == [19, 19, 2]
    data = CityscapesDataset(lazy_init=True)
    check_predictors(data, model, 'train_dataloader')
    model.auxiliary_head[1].num_classes = 2
    with pytest.raises(InputError, match=r'set model\.auxiliary_head\.1\.num_classes=19'):
        check_predictors(data, model, 'train_dataloader')


def test_the_pretrained_network_of_the_base_config_is_refused_by_name():
    model = model_of('upernet_effb0_4xb4-160k_ade20k-512x512.py')
    model.pretrained = 'open-mmlab://resnet50_v1c'
    with pytest.raises(InputError, match=r"model\.pretrained='open-mmlab://resnet50_v1c'.*"
                                         r'pretrained=None'):
        check_model(model)


def test_wrong_channels_of_a_segmentation_head_are_refused_by_name():
    model = model_of('deeplabv3plus_effb3-d8_4xb4-80k_ade20k-512x512.py')
    model.decode_head.c1_in_channels = 256
    with pytest.raises(InputError, match=r'model\.decode_head\.c1_in_channels=256: output 0 of '
                                         r'\[32, 48, 136, 384\].*write c1_in_channels=32'):
        check_model(model)
