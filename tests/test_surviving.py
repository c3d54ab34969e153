"""Runs that are killed, stopped or short of room: what is left, and how they go on."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY, run_tool

from mmeffnet.plugin import MIM

pytestmark = pytest.mark.slow

HERE = str(Path(__file__).parent)

# Checkpoints in the midst of epochs (of 8 batches) and of steps (of 2 batches). One is kept.
MID = """
_base_ = './tiny_base.py'
train_dataloader = dict(num_workers=2, persistent_workers=True)
optim_wrapper = dict(accumulative_counts=2)
default_hooks = dict(checkpoint=dict(
    by_epoch=False, interval=3, max_keep_ckpts=1, save_best=None))
train_cfg = dict(max_epochs=2)
randomness = dict(seed=1)
custom_imports = dict(imports=['drills'])
"""
EMA = "dict(type='EMAHook', momentum=0.3)"


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A folder with configs, and the run ``whole`` that nothing happened to."""
    folder = tmp_path_factory.mktemp('surviving')
    (folder / 'tiny_base.py').write_text(TINY)
    (folder / 'mid.py').write_text(MID)
    assert train(folder, '--work-dir', 'whole').returncode == 0
    return folder


def train(folder, *args, drill=None, more=''):
    if drill:
        # It may not lie in the config of the run that goes on.
        (folder / 'drill.py').write_text(
            f"_base_ = './mid.py'\ncustom_hooks = [{EMA}, {drill}]\n{more}\n")
    return run_tool('train.py', 'drill.py' if drill else 'mid.py', *args, cwd=folder,
                    env=dict(PYTHONPATH=HERE))


def load(path):
    return torch.load(path, weights_only=True)


def same(one, other):
    """Whether two checkpoints' contents are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def assert_equal_ends(folder, run):
    whole, part = load(folder / 'whole/iter_16.pth'), load(folder / run / 'iter_16.pth')
    for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers', 'random_state'):
        assert same(whole[key], part[key]), key
    losses = [x['message_hub']['log_scalars']['train/loss']['history'] for x in (whole, part)]
    assert torch.equal(*losses)


def test_a_run_killed_while_it_writes_a_checkpoint_goes_on_from_the_one_before(folder):
    killed = train(folder, '--work-dir', 'killed', drill="dict(type='KilledWhileWriting', at=6)")
    assert killed.returncode == -9
    left = {path.name for path in (folder / 'killed').iterdir()}
    assert 'iter_3.pth' in left
    assert 'iter_6.pth' not in left
    assert any(name.endswith('.part') for name in left)
    assert load(folder / 'killed/iter_3.pth')['gradients']  # 3 batches are a step and a half

    resumed = train(folder, '--work-dir', 'killed', '--resume')
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert 'resumed epoch: 0, iter: 3' in resumed.stdout
    assert not list((folder / 'killed').glob('.*.part'))
    assert_equal_ends(folder, 'killed')


@pytest.fixture(scope='module')
def stopped(folder):
    """The run ``stopped``, which SIGTERM ended in the midst of its second step."""
    return train(folder, '--work-dir', 'stopped', drill="dict(type='Terminated', at=3)")


def test_sigterm_saves_after_the_step_and_the_run_goes_on_from_there(folder, stopped):
    assert stopped.returncode == 143, stopped.stderr[-2000:]
    assert re.search('SIGTERM: saved after 4 iterations in .*/stopped; go on with --resume',
                     stopped.stdout)
    assert 'Traceback' not in stopped.stderr
    shutil.copytree(folder / 'stopped', folder / 'resumed')
    resumed = train(folder, '--work-dir', 'resumed', '--resume')
    assert 'resumed epoch: 0, iter: 4' in resumed.stdout
    assert_equal_ends(folder, 'resumed')


@pytest.mark.parametrize('loop', ['', "dict(_delete_=True, type='IterBasedTrainLoop', "
                                      "max_iters=16, val_interval=8)"], ids=['epochs', 'steps'])
def test_sigterm_to_loading_workers_too_is_as_to_the_run_alone(folder, loop):
    name = 'all_steps' if loop else 'all_epochs'
    result = train(folder, '--work-dir', name, drill="dict(type='AllTerminated', at=3)",
                   more=f'train_cfg = {loop}' if loop else '')
    assert result.returncode == 143, result.stderr[-2000:]
    assert f'SIGTERM: saved after 4 iterations in {folder / name}; go on' in result.stdout
    assert 'worker' not in result.stderr
    if not loop:
        assert train(folder, '--work-dir', name, '--resume').returncode == 0
        assert_equal_ends(folder, name)


def test_a_torn_checkpoint_is_passed_over_and_named(folder, stopped):
    shutil.copytree(folder / 'stopped', folder / 'torn')
    content = (folder / 'whole/iter_16.pth').read_bytes()
    (folder / 'torn/iter_16.pth').write_bytes(content[:len(content) // 2])
    resumed = train(folder, '--work-dir', 'torn', '--resume')
    assert 'iter_16.pth cannot be resumed: ' in resumed.stdout
    assert 'resumed epoch: 0, iter: 4' in resumed.stdout
    assert_equal_ends(folder, 'torn')


def test_a_killed_worker_ends_the_run_with_a_line(folder):
    result = train(folder, '--work-dir', 'worker', drill="dict(type='WorkerKilled', at=4)")
    assert result.returncode == 1
    assert re.search(r'^error: a loading worker was killed at iteration \d, most often because the '
                     'memory was full: set train_dataloader.num_workers lower',
                     result.stderr.strip().splitlines()[-1])


def test_a_full_disk_keeps_the_last_checkpoint_and_says_so(folder, tmp_path):
    one = (folder / 'whole/iter_16.pth').stat().st_size
    room = ['unshare', '-rm', 'sh', '-c', 'mount -t tmpfs -o size=$1 none $2 && shift 2 && "$@"',
            'sh', str(int(1.7 * one)), str(tmp_path)]
    if not shutil.which('unshare') or subprocess.run([*room, 'true'], check=False,
                                                     capture_output=True).returncode:
        pytest.skip('needs the right to mount a file system')
    command = [*room, 'sh', '-c', f'"$@"; echo code $?; ls -a {tmp_path}', 'sh', sys.executable,
               str(MIM / 'tools/train.py'), 'mid.py', '--work-dir', str(tmp_path)]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300,
                            check=False, env={**os.environ, 'PYTHONPATH': HERE})
    assert 'code 1' in result.stdout
    assert [line for line in result.stdout.splitlines() if line.endswith(('.pth', '.part'))] == [
        'iter_3.pth']
    assert re.search("^error: '.*iter_6.pth' .* could not be written: No space left on device. "
                     "'.*iter_3.pth' is whole: make room, then go on with --resume$",
                     result.stderr.splitlines()[-1])
