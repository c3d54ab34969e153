"""What mmseg's evaluation would find out after the first epoch is said before the first step."""
from contextlib import nullcontext

import pytest
from downstream import need

need('mmseg', 'mmcv._ext')

from mmengine.config import Config, ConfigDict  # noqa: E402
from mmengine.evaluator import Evaluator  # noqa: E402
from mmseg.evaluation import IoUMetric  # noqa: E402
from torch import nn  # noqa: E402

from mmeffnet.engine.evaluator_checks import check_evaluator  # noqa: E402
from mmeffnet.errors import InputError  # noqa: E402


def check(model=None, **options):
    cfg = Config(dict(val_evaluator=dict(type='IoUMetric', **options)))
    check_evaluator(cfg, 'val', Evaluator([IoUMetric(**options)]), None, model or nn.Module())


@pytest.mark.parametrize('known', ['mIoU', ['mIoU', 'mDice', 'mFscore']])
def test_a_metric_that_mmseg_does_not_know_is_named(known):
    check()
    check(iou_metrics=known)
    for given in ('mIOU', ['mDice', 'mIOU']):
        with pytest.raises(InputError, match=(
                r"^val_evaluator\.iou_metrics has 'mIOU', which is none of 'mIoU', 'mDice', "
                r"'mFscore'; did you mean 'mIoU'\?$")):
            check(iou_metrics=given)


def test_a_metric_that_is_made_of_mmsegs_may_know_more():
    class More(IoUMetric):
        pass
    cfg = Config(dict(val_evaluator=dict(type='More', iou_metrics=['boundary'])))
    for kind, refused in ((More, nullcontext()), (IoUMetric, pytest.raises(InputError))):
        evaluator = Evaluator([kind(iou_metrics=['boundary'])])
        with refused as found:
            check_evaluator(cfg, 'val', evaluator, None, nn.Module())
        assert (found is None) is (kind is More)


@pytest.mark.parametrize(('settings', 'missing'), [
    (dict(mode='whole'), None), (dict(mode='slide', crop_size=(9, 9), stride=(5, 5)), None),
    (dict(mode='slide', crop_size=(9, 9)), 'stride'), (dict(mode='slide'), 'crop_size'),
    ({}, None)])
def test_a_window_that_slides_has_a_size_and_a_stride(settings, missing):
    model = nn.Module()
    model.decode_head, model.test_cfg = nn.Identity(), ConfigDict(settings)
    refused = pytest.raises(InputError, match=(
        rf"^model\.test_cfg\.mode='slide' slides a window and model\.test_cfg\.{missing} is "
        r'missing: set it'))
    with refused if missing else nullcontext():
        check(model)
