"""The detection configs: short, right in every number, and they train."""
import re

import pytest
import torch
from downstream import need

need('mmdet', 'mmcv._ext')

from mmdet.registry import MODELS  # noqa: E402
from mmdet.testing import demo_mm_inputs  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.model import revert_sync_batchnorm  # noqa: E402
from mmengine.registry import init_default_scope  # noqa: E402

from mmeffnet import check_model  # noqa: E402
from mmeffnet.detection.family import EFFICIENTDETS  # noqa: E402
from mmeffnet.errors import InputError  # noqa: E402
from mmeffnet.plugin import MIM  # noqa: E402
from mmeffnet.weights.catalog import CATALOG  # noqa: E402

ROOT = MIM / 'configs' / 'detection'
CONFIGS = sorted(path.name for path in ROOT.glob('*.py'))
FAMILY = [name for name in CONFIGS if name.startswith('efficientdet')]
ONE_OF_EACH = ['retinanet_effb0_fpn_1x_coco.py', 'fcos_effb0_fpn_gn-head_1x_coco.py',
               'faster-rcnn_effb4_fpn_1x_coco.py', 'mask-rcnn_effb3_fpn_1x_coco.py',
               'retinanet_effb3_fpn_8xb4-crop896-1x_coco.py',
               'efficientdet_d0_8xb16-crop512-300e_coco.py']


def model_of(name, **backbone):
    cfg = Config.fromfile(ROOT / name)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None  # nothing is downloaded here
    cfg.model.backbone.update(backbone)
    cfg.model.data_preprocessor.pop('batch_augments', None)  # pads every picture to 896 px
    return cfg.model


def test_there_is_a_config_for_each_detector_and_family():
    assert len(CONFIGS) == 20
    assert set(ONE_OF_EACH) <= set(CONFIGS)


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_is_short_and_fits_its_backbone(name, tmp_path):
    assert len((ROOT / name).read_text().splitlines()) <= 40
    cfg = Config.fromfile(ROOT / name)
    check_model(cfg.model)
    assert 'mmeffnet.PyramidCheckHook' in [hook['type'] for hook in cfg.custom_hooks]
    cfg.dump(tmp_path / 'dumped.py')
    assert Config.fromfile(tmp_path / 'dumped.py').to_dict() == cfg.to_dict()


@pytest.mark.parametrize(('head', 'field'), [
    ('FCOSHead', 'strides'), ('mmdet.RPNHead', 'anchor_generator.strides'),
    ('GARPNHead', 'approx_anchor_generator.strides'), ('RetinaHead', None),
    ('RepPointsHead', None), ('DETRHead', None), ('NotThereHead', None)])
def test_strides_that_mmdets_heads_have_by_default_are_held_against_the_levels(head, field):
    model = dict(backbone=dict(type='mmeffnet.EfficientNet', out_indices=(3, 4, 5)),
                 neck=dict(type='FPN', in_channels=[40, 112, 320], out_channels=256, num_outs=5),
                 bbox_head=dict(type=head))
    if not field:
        check_model(model)
        return
    with pytest.raises(InputError, match=re.escape(
            f'model.bbox_head.{field}=[4, 8, 16, 32, 64] (the default): the neck gives levels '
            'with strides [8, 16, 32, 64, 128]')):
        check_model(model)


@pytest.mark.parametrize('name', CONFIGS)
def test_the_input_is_what_the_pretrained_weights_know(name):
    model = Config.fromfile(ROOT / name).model
    (entry, ) = [e for e in CATALOG.values() if e.source == model.backbone.init_cfg.checkpoint]
    assert entry.variant == model.backbone.arch
    mean = 127.5 if entry.variant in ('es', 'lite0') else 123.675
    assert model.data_preprocessor.mean[0] == mean
    assert model.data_preprocessor.bgr_to_rgb


@pytest.mark.parametrize('name', CONFIGS)
def test_a_detector_builds(name):
    model = model_of(name)
    with torch.device('meta'):
        detector = MODELS.build(model)
    info = detector.backbone.feature_info
    assert info.channels == list(model.neck.in_channels)
    assert info.strides in ([8, 16, 32], [4, 8, 16, 32])


@pytest.mark.parametrize('name', FAMILY)
def test_an_efficientdet_config_says_what_the_table_says(name):
    cfg, row = Config.fromfile(ROOT / name), EFFICIENTDETS[name.split('_')[1]]
    anchors = cfg.model.bbox_head.anchor_generator
    assert cfg.model.backbone.arch == row.arch
    assert {cfg.model.neck.out_channels, cfg.model.bbox_head.in_channels} == {row.channels}
    assert cfg.model.neck.repeats == row.fpn_repeats
    assert cfg.model.neck.fusion == row.fusion
    assert cfg.model.neck.num_outs == row.levels
    assert cfg.model.bbox_head.stacked_convs == row.head_repeats
    assert anchors.strides == row.strides
    assert anchors.anchor_scale == row.anchor_scale
    assert cfg.model.data_preprocessor.pad_size_divisor == row.strides[-1]
    sizes = [step[key] for pipeline in (cfg.train_dataloader.dataset.pipeline,
                                        cfg.test_dataloader.dataset.pipeline)
             for step in pipeline for key in ('scale', 'crop_size') if key in step]
    assert sizes == [(row.resolution, row.resolution)] * 3
    assert f'-crop{row.resolution}-' in name


@pytest.mark.parametrize('name', FAMILY)
def test_an_efficientdet_config_has_the_schedule_of_the_paper(name):
    cfg = Config.fromfile(ROOT / name)
    devices, batch = map(int, re.search(r'_(\d+)xb(\d+)-', name).groups())
    assert devices * batch == cfg.auto_scale_lr.base_batch_size == 128
    assert cfg.train_dataloader.batch_size == batch
    epochs = 600 if name.startswith('efficientdet_d7') else 300
    assert cfg.train_cfg.max_epochs == epochs == cfg.param_scheduler[-1].end
    assert f'-{epochs}e_' in name
    assert cfg.optim_wrapper.optimizer.lr == 0.16
    assert {'EMAHook', 'mmeffnet.PyramidCheckHook'} == {hook.type for hook in cfg.custom_hooks}


def test_there_is_a_config_for_each_efficientdet():
    assert {name.split('_')[1] for name in FAMILY} == set(EFFICIENTDETS)


def step(model, dtype=None):
    """Losses of one training step with pictures of two sizes, one of them without objects."""
    torch.manual_seed(0)
    detector = revert_sync_batchnorm(MODELS.build(model)).train()  # as one process does
    detector.init_weights()
    data = demo_mm_inputs(2, [[3, 64, 96], [3, 96, 64]], num_items=[2, 0],
                          with_mask='roi_head' in model)
    with torch.autocast('cpu', dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        losses = detector(**detector.data_preprocessor(data, True), mode='loss')
    total, _ = detector.parse_losses(losses)
    total.backward()
    return detector, total


@pytest.mark.parametrize('name', ONE_OF_EACH)
def test_a_training_step_is_finite_and_reaches_the_backbone(name):
    detector, total = step(model_of(name))
    assert torch.isfinite(total)
    trained = [p for p in detector.backbone.layers[3].parameters() if p.requires_grad]
    assert trained
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


@pytest.mark.parametrize('options', [
    dict(frozen_stages=4), dict(with_cp=True), dict(norm_cfg=dict(type='SyncBN'))])
def test_a_detector_trains_with(options):
    detector, total = step(model_of('retinanet_effb0_fpn_1x_coco.py', **options))
    assert torch.isfinite(total)
    first = options.get('frozen_stages', 1)
    grads = [any(p.grad is not None for p in layer.parameters())
             for layer in detector.backbone.layers]
    assert grads == [False] * first + [True] * (6 - first) + [False]


def test_a_detector_trains_in_bfloat16():
    _, whole = step(model_of('retinanet_effb0_fpn_1x_coco.py', drop_path_rate=0.))
    _, half = step(model_of('retinanet_effb0_fpn_1x_coco.py', drop_path_rate=0.), torch.bfloat16)
    assert half.item() == pytest.approx(whole.item(), rel=0.05)
