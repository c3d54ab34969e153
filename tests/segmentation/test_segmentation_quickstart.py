"""The segmentation quickstart in small, by our tools and mmseg's; no compiled operators needed."""
import re

import pytest
from conftest import run_tool
from downstream import assert_equal_weights, need, run, run_theirs, validated
from PIL import Image
from two_processes import ENVIRONMENT

need('mmseg', 'skimage')

# Two epochs of four steps.
SMALL = '''
_base_ = [__import__('mmeffnet').config_path('quickstart/fpn_effb0_digits.py')]
_scenes = dict(train=16, val=6, size=96)
model = dict(data_preprocessor=dict(size=(96, 96)))
train_dataloader = dict(batch_size=4, dataset=dict(scenes=_scenes))
val_dataloader = dict(dataset=dict(scenes=_scenes))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2)
param_scheduler = [dict(type='LinearLR', start_factor=0.1, end=2, by_epoch=False)]
default_hooks = dict(logger=dict(interval=1))
'''
# A shipped config counts steps in place of epochs; the data of the quickstart, one step of each.
BY_STEPS = '''
_base_ = [__import__('mmeffnet').config_path(
    'segmentation/deeplabv3plus_effb0-d16_4xb4-80k_ade20k-512x512.py')]
_scenes = dict(train=16, val=6, size=96)
_pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
             dict(type='PackSegInputs')]
_data = dict(_delete_=True, batch_size=2, num_workers=0, sampler=dict(
    type='DefaultSampler', shuffle=False), dataset=dict(
        type='mmeffnet.DigitMasks', split='val', data_root='data/digit_scenes', scenes=_scenes,
        pipeline=_pipeline))
model = dict(backbone=dict(init_cfg=None), data_preprocessor=dict(size=(96, 96)),
             decode_head=dict(num_classes=11), auxiliary_head=dict(num_classes=11))
train_dataloader = dict(_data, sampler=dict(type='InfiniteSampler', shuffle=True))
val_dataloader = _data
test_dataloader = _data
train_cfg = dict(max_iters=4, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2), logger=dict(interval=1))
'''


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with the configs and a run of two epochs, ``whole``."""
    folder = tmp_path_factory.mktemp('quickstart')
    (folder / 'small.py').write_text(SMALL)
    (folder / 'by_steps.py').write_text(BY_STEPS)
    (folder / 'stopped.py').write_text(
        "_base_ = './small.py'\ncustom_imports = dict(imports=['drills'])\n"
        "custom_hooks = [dict(type='Terminated', at=6)]\n")
    run('train.py', 'small.py', '--work-dir', 'whole', cwd=folder)
    return folder


def test_it_trains_evaluates_and_draws(folder):
    assert len(validated(folder / 'whole', 'mIoU')) == 2
    with Image.open(folder / 'whole/predictions.png') as sheet:
        assert min(sheet.size) > 300


def test_a_stopped_run_goes_on_bit_for_bit(folder):
    run('train.py', 'stopped.py', '--work-dir', 'parted', cwd=folder, code=143)
    run('train.py', 'small.py', '--work-dir', 'parted', '--resume', cwd=folder)
    assert_equal_weights(folder / 'whole/epoch_2.pth', folder / 'parted/epoch_2.pth')


def test_testing_gives_the_last_validation_again(folder):
    tested = run('test.py', 'small.py', 'whole/epoch_2.pth', '--work-dir', 'tested', cwd=folder)
    (value, ) = re.findall(r'mIoU: (\S+)', tested)
    assert float(value) == pytest.approx(validated(folder / 'whole', 'mIoU')[-1], abs=1e-2)
    assert (folder / 'tested/predictions.png').is_file()


@pytest.mark.parametrize('config', ['small.py', 'by_steps.py'])
def test_the_tools_of_mmseg_train_and_test(folder, config):
    run_theirs('mmseg', 'train.py', config, '--work-dir', f'theirs_{config}', cwd=folder)
    last = (folder / f'theirs_{config}' / 'last_checkpoint').read_text().strip()
    assert 'mIoU' in run_theirs('mmseg', 'test.py', config, last, cwd=folder)


def test_a_shipped_config_that_counts_steps_trains_resumes_and_tests(folder):
    run('train.py', 'by_steps.py', '--work-dir', 'steps', '--cfg-options', 'train_cfg.max_iters=2',
        cwd=folder)
    assert (folder / 'steps/iter_2.pth').is_file()
    run('train.py', 'by_steps.py', '--work-dir', 'steps', '--resume', cwd=folder)
    assert 'mIoU' in run('test.py', 'by_steps.py', 'steps/iter_4.pth', cwd=folder)


def test_another_number_of_classes_is_refused_in_one_line(folder):
    result = run_tool('train.py', 'small.py', '--cfg-options', 'model.decode_head.num_classes=19',
                      cwd=folder, env=ENVIRONMENT)
    assert result.returncode == 2
    assert result.stderr.strip().splitlines()[-1] == (
        'error: train_dataloader: the data set has 2 classes and the model has 19: set '
        'model.decode_head.num_classes=2')
