"""The detection quickstart in small: it trains, resumes, tests, draws, also under mmdet's tools.

What it reaches at its full length is in docs/downstream.md.
"""
import re

import pytest
import torch
from downstream import assert_equal_weights, need, run, run_theirs, validated, weights
from PIL import Image
from two_processes import run_two

need('mmdet', 'mmcv._ext', 'skimage')

# Two epochs of four steps.
SMALL = '''
_base_ = [__import__('mmeffnet').config_path('quickstart/retinanet_effb0_digits.py')]
_scenes = dict(train=16, val=6, size=96)
train_dataloader = dict(batch_size=4, dataset=dict(scenes=_scenes))
val_dataloader = dict(dataset=dict(scenes=_scenes))
test_dataloader = val_dataloader
model = dict(test_cfg=dict(score_thr=0.))  # so few steps leave every score low
train_cfg = dict(max_epochs=2)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, end=2, by_epoch=False)]
default_hooks = dict(logger=dict(interval=1))
'''
# One step with all scenes, as deep random networks make 1e-2 of float32's rounding in a few.
SYNCHRONISED = '''
_base_ = './small.py'
model = dict(backbone=dict(norm_cfg=dict(type='SyncBN', momentum=1.0)))
train_dataloader = dict(batch_size=16)
optim_wrapper = dict(optimizer=dict(_delete_=True, type='SGD', lr=0.01), clip_grad=None)
param_scheduler = []
train_cfg = dict(max_epochs=1)
'''


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with the configs and a run of two epochs, ``whole``."""
    folder = tmp_path_factory.mktemp('quickstart')
    (folder / 'small.py').write_text(SMALL)
    (folder / 'synchronised.py').write_text(SYNCHRONISED)
    (folder / 'stopped.py').write_text(
        "_base_ = './small.py'\ncustom_imports = dict(imports=['drills'])\n"
        "custom_hooks = [dict(type='Terminated', at=6)]\n")
    run('train.py', 'small.py', '--work-dir', 'whole', cwd=folder)
    return folder


def test_it_trains_evaluates_and_draws(folder):
    assert len(validated(folder / 'whole', 'coco/bbox_mAP')) == 2
    with Image.open(folder / 'whole/predictions.png') as sheet:
        assert min(sheet.size) > 300
    assert (folder / 'whole/learning_curve.png').is_file()


def test_a_stopped_run_goes_on_bit_for_bit(folder):
    run('train.py', 'stopped.py', '--work-dir', 'parted', cwd=folder, code=143)
    run('train.py', 'small.py', '--work-dir', 'parted', '--resume', cwd=folder)
    assert_equal_weights(folder / 'whole/epoch_2.pth', folder / 'parted/epoch_2.pth')


def test_testing_gives_the_last_validation_again(folder):
    tested = run('test.py', 'small.py', 'whole/epoch_2.pth', '--work-dir', 'tested', cwd=folder)
    (value, ) = re.findall(r'coco/bbox_mAP: (\S+)', tested)
    assert float(value) == pytest.approx(validated(folder / 'whole', 'coco/bbox_mAP')[-1], abs=1e-4)
    assert (folder / 'tested/predictions.png').is_file()


def test_the_tools_of_mmdet_train_resume_and_test_it(folder):
    def theirs(tool, *args):
        return run_theirs('mmdet', tool, 'small.py', *args, cwd=folder)
    theirs('train.py', '--work-dir', 'theirs', '--cfg-options', 'train_cfg.max_epochs=1')
    resumed = theirs('train.py', '--work-dir', 'theirs', '--resume')
    assert re.search(r'Epoch\(train\) +\[2\]', resumed)
    assert not re.search(r'Epoch\(train\) +\[1\]', resumed)
    assert 'coco/bbox_mAP' in theirs('test.py', 'theirs/epoch_2.pth')


def test_synchronised_batchnorm_in_two_processes_gives_the_weights_of_one(folder):
    run('train.py', 'synchronised.py', '--work-dir', 'one', cwd=folder)
    run_two('train.py', 'synchronised.py', '--work-dir', 'two', '--cfg-options',
            'train_dataloader.batch_size=8', cwd=folder)
    one, two = (weights(folder / name / 'epoch_1.pth') for name in ('one', 'two'))
    assert one.keys() == two.keys()
    for key in one:  # statistics of a process's own half would differ by a tenth
        tolerance = 1e-4 if 'running_' in key else 1e-3
        torch.testing.assert_close(two[key], one[key], rtol=tolerance, atol=tolerance, msg=key)
