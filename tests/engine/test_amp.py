"""Precision by device."""
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper as Float16OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS, DefaultScope

from mmeffnet.engine import amp, cli, run
from mmeffnet.engine.config import load_config
from mmeffnet.registry import MODELS


@pytest.mark.parametrize(('device', 'bf16', 'precision', 'chosen'), [
    ('cpu', False, 'auto', 'float32'),
    ('cpu', False, 'mixed', 'bfloat16'),
    ('cuda', True, 'auto', 'bfloat16'),
    ('cuda', False, 'auto', 'float16'),
    ('cuda', False, 'mixed', 'float16'),
    ('cuda', True, 'float32', 'float32'),
    ('cpu', False, 'float16', 'float16'),
])
def test_the_precision_fits_the_device(device, bf16, precision, chosen, monkeypatch):
    monkeypatch.setattr(amp, 'get_device', lambda: device)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: bf16)
    assert amp.choose_precision(precision) == chosen


def test_an_unknown_precision_names_the_known():
    with pytest.raises(ValueError, match="precision='fp8' must be one of .*'bfloat16'"):
        amp.choose_precision('fp8')


def wrapper(precision, **options):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.)
    return OPTIM_WRAPPERS.build(dict(type='mmeffnet.AmpOptimWrapper', optimizer=optimizer,
                                     precision=precision, **options))


def test_bfloat16_reaches_the_layers_and_no_further():
    layer, x = (item.to(get_device()) for item in (torch.nn.Linear(2, 2), torch.ones(1, 2)))
    made = wrapper('bfloat16', accumulative_counts=2, clip_grad=dict(max_norm=1.))
    with made.optim_context(layer):
        assert layer(x).dtype == torch.bfloat16
    assert layer(x).dtype == torch.float32
    assert made._accumulative_counts == 2
    assert made.clip_grad_kwargs == dict(max_norm=1.)


def compiled_operators():
    reason = 'RoIAlign needs mmcv with compiled operators: python tools/build_operators.py'
    return pytest.importorskip('mmcv.ops', reason=reason, exc_type=ImportError)


def test_what_mmcv_compiles_without_bfloat16_computes_in_float32():
    """Else RoIAlign of a detector, for one, ends the first step."""
    align = compiled_operators().RoIAlign(2, 1.)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.align = torch.nn.Conv2d(3, 3, 1), align

        def forward(self, x):
            return self.conv(self.align(self.conv(x), torch.tensor([[0., 1., 1., 5., 5.]])))

    model, made = Model(), wrapper('bfloat16')
    for _ in range(2):
        with made.optim_context(model):
            found = model(torch.ones(1, 3, 8, 8))
    assert found.dtype == torch.bfloat16
    found.float().sum().backward()
    assert model.conv.weight.grad.abs().max() > 0
    torch.testing.assert_close(found.float(), model(torch.ones(1, 3, 8, 8)), rtol=0, atol=0.02)


def test_a_test_in_mixed_precision_computes_them_in_float32_too(tiny_config, tmp_path,
                                                                monkeypatch, capfd):
    ops = compiled_operators()

    @MODELS.register_module(name='AlignedNeck')
    class Aligned(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.align = ops.RoIAlign(2, 1.)

        def forward(self, outs):
            boxes = [[float(image), 0., 0., 2., 2.] for image in range(len(outs[-1]))]
            return outs[-1].mean((2, 3)) + self.align(outs[-1], torch.tensor(boxes)).mean((2, 3)),

    monkeypatch.chdir(tmp_path)
    try:
        config = tiny_config("model = dict(neck=dict(type='AlignedNeck'))",
                             'test_dataloader = dict(num_workers=0, dataset=dict(indices=8))')
        cfg = load_config(config)
        model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor})
        torch.save(dict(state_dict=model.state_dict()), 'aligned.pth')
        run.test(cli.parse(cli.test_parser(), [config, 'aligned.pth', '--amp']))
    finally:
        MODELS.module_dict.pop('AlignedNeck')
    assert 'accuracy/top1' in capfd.readouterr().out


def test_regions_of_a_detector_are_extracted_in_float32():
    """mmdet gathers what RoIAlign gives, float32, into a tensor of its input's type."""
    compiled_operators()
    extractor = pytest.importorskip('mmdet.models', reason='needs mmdet').SingleRoIExtractor(
        dict(type='RoIAlign', output_size=2), 3, [4, 8])
    amp.keep_in_float32(extractor)
    maps = [torch.ones(1, 3, side, side, dtype=torch.bfloat16) for side in (16, 8)]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = extractor(maps, torch.tensor([[0., 1., 1., 50., 50.]]))
    assert found.dtype == torch.float32
    assert found.eq(1).all()


def test_boxes_of_a_detector_are_found_in_float32():
    """mmcv's nms is a function that lacks bfloat16 on a CPU, and in it boxes would be rounded."""
    compiled_operators()
    kind = pytest.importorskip('mmdet.models', reason='needs mmdet').RetinaHead
    with DefaultScope.overwrite_default_scope('mmdet'):
        head = kind(2, 4, stacked_convs=0, test_cfg=ConfigDict(
            nms_pre=9, score_thr=0., nms=dict(type='nms', iou_threshold=0.5), max_per_img=4),
            anchor_generator=dict(type='AnchorGenerator', scales=[4], ratios=[1.], strides=[8]))

    def boxes(dtype):
        found, = head.predict_by_feat(
            [torch.linspace(-3, 3, 32).reshape(1, 2, 4, 4).to(dtype)],
            [torch.linspace(-1, 1, 64).reshape(1, 4, 4, 4).to(dtype)],
            batch_img_metas=[dict(img_shape=(32, 32), scale_factor=(1., 1.))])
        return found

    expected = boxes(torch.float32)
    with wrapper('bfloat16').optim_context(torch.nn.Sequential(head)):
        found = boxes(torch.bfloat16)
    assert found.bboxes.dtype == found.scores.dtype == torch.float32
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=0.01)
    torch.testing.assert_close(found.bboxes, expected.bboxes, rtol=0, atol=0.2)


def test_a_layer_that_lacks_bfloat16_is_left_alone_outside_of_it():
    class FocalLoss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Linear(2, 2)

        def forward(self, x):
            return self.weight(x)

    class Mine(FocalLoss):
        pass

    layer, x, device = Mine().to(get_device()), torch.ones(1, 2, device=get_device()), get_device()
    with wrapper('bfloat16').optim_context(torch.nn.Sequential(layer)):
        assert layer(x.bfloat16()).dtype == torch.float32
    with torch.autocast(device, dtype=torch.float16):  # such as of a validation
        assert layer(x).dtype == torch.float16
    assert layer(x).dtype == torch.float32


def test_float32_computes_in_float32():
    layer = torch.nn.Linear(2, 2)
    with wrapper('float32').optim_context(layer):
        assert layer(torch.ones(1, 2)).dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason='scaling float16 needs CUDA')
def test_float16_scales_its_loss():
    made = wrapper('float16')
    assert isinstance(made, Float16OptimWrapper)
    assert made.loss_scaler.get_scale() > 1
