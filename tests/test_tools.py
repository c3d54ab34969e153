"""Training, testing and resuming through the shipped tools, in fresh processes."""
import json
import os
import re
import subprocess
import sys

import pytest
import torch
from conftest import TINY, run_tool

from mmeffnet.engine import cli
from mmeffnet.plugin import MIM


def accuracies(output):
    """Top-1 of each validation or test in a log."""
    return [float(x) for x in re.findall(r'accuracy/top1: ([\d.]+)', output)]


def load(path):
    return torch.load(path, map_location='cpu', weights_only=True)


@pytest.fixture(scope='module')
def whole_run(tmp_path_factory):
    """Three epochs of the tiny config without interruption."""
    folder = tmp_path_factory.mktemp('whole')
    (folder / 'tiny_base.py').write_text(TINY)
    (folder / 'tiny.py').write_text("_base_ = './tiny_base.py'")
    result = run_tool('train.py', 'tiny.py', '--work-dir', 'out', cwd=folder)
    assert result.returncode == 0, result.stderr[-2000:]
    return folder, result.stdout


def test_training_validates_every_epoch_and_says_where_its_files_are(whole_run):
    folder, output = whole_run
    assert len(accuracies(output)) == 3
    for name in ('learning_curve.png', 'confusion_matrix.png'):
        path = folder / 'out' / name
        assert path.read_bytes().startswith(b'\x89PNG')
        assert str(path) in output
    assert f'Checkpoints and logs: {folder / "out"}' in output


def test_testing_a_checkpoint_repeats_the_last_validation(whole_run):
    folder, trained = whole_run
    result = run_tool('test.py', 'tiny.py', 'out/epoch_3.pth', '--out', 'metrics.json',
                      '--out-item', 'metrics', cwd=folder)
    assert result.returncode == 0, result.stderr[-2000:]
    assert accuracies(result.stdout) == accuracies(trained)[-1:]
    written = json.loads((folder / 'metrics.json').read_text())
    assert written['accuracy/top1'] == pytest.approx(accuracies(trained)[-1], abs=1e-3)
    assert written['accuracy/top1'] > 20  # more than chance, so that the comparison means something


@pytest.mark.slow
def test_synchronised_batchnorm_needs_no_second_process(whole_run):
    folder, trained = whole_run
    result = run_tool('test.py', 'tiny.py', 'out/epoch_3.pth', '--cfg-options',
                      'model.backbone.norm_cfg.type=SyncBN', cwd=folder)
    assert accuracies(result.stdout) == accuracies(trained)[-1:], result.stderr[-2000:]


def test_predictions_are_written_and_drawn(whole_run):
    folder, trained = whole_run
    result = run_tool('test.py', 'tiny.py', 'out/epoch_3.pth', '--out', 'pred.pkl',
                      '--show-dir', 'shown', '--interval', '100', cwd=folder)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (folder / 'pred.pkl').stat().st_size > 1000
    assert len(list(folder.rglob('shown/*.png'))) == 4  # of 360 digits, every hundredth


def test_augmented_testing_averages_over_flips(whole_run):
    folder, trained = whole_run
    result = run_tool('test.py', 'tiny.py', 'out/epoch_3.pth', '--tta', cwd=folder)
    assert accuracies(result.stdout), result.stderr[-2000:]
    # Digits are no longer themselves when they are mirrored.
    assert accuracies(result.stdout) != accuracies(trained)[-1:]
    (folder / 'twice.py').write_text(
        "_base_ = './tiny.py'\n"
        'test_dataloader = dict(dataset=dict(_delete_=True, '
        "type='ConcatDataset', datasets=2 * [{{_base_.test_dataloader.dataset}}]))\n")
    twice = run_tool('test.py', 'twice.py', 'out/epoch_3.pth', '--tta', cwd=folder)
    assert accuracies(twice.stdout) == accuracies(result.stdout), twice.stderr[-2000:]


def test_checkpoints_hold_plain_data_only(whole_run):
    # A fresh interpreter without this package: PyTorch alone must be able to read the file.
    folder, _ = whole_run
    code = ("import sys, torch; c = torch.load('out/epoch_2.pth', weights_only=True); "
            "assert not {'mmengine', 'mmeffnet'} & set(sys.modules); print(sorted(c))")
    result = subprocess.run([sys.executable, '-c', code], cwd=folder, capture_output=True,
                            text=True, check=True)
    for key in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers', 'message_hub',
                'random_state'):
        assert repr(key) in result.stdout


def test_resuming_gives_the_weights_of_an_uninterrupted_run(whole_run, tmp_path):
    folder, _ = whole_run
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'epoch_2.pth').write_bytes((folder / 'out/epoch_2.pth').read_bytes())
    (tmp_path / 'out' / 'last_checkpoint').write_text(str(tmp_path / 'out' / 'epoch_2.pth'))
    result = run_tool('train.py', folder / 'tiny.py', '--work-dir', 'out', '--resume',
                      cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert 'Epoch(train) [3]' in result.stdout
    assert 'Epoch(train) [2]' not in result.stdout
    whole, resumed = load(folder / 'out/epoch_3.pth'), load(tmp_path / 'out/epoch_3.pth')
    for part in ('state_dict', 'ema_state_dict'):
        assert whole[part].keys() == resumed[part].keys()
        for key, value in whole[part].items():
            assert torch.equal(value, resumed[part][key]), f'{part}: {key}'
    assert whole['meta']['epoch'] == resumed['meta']['epoch'] == 3
    assert whole['meta']['iter'] == resumed['meta']['iter'] == 24
    assert whole['optimizer']['param_groups'] == resumed['optimizer']['param_groups']
    assert whole['param_schedulers'] == resumed['param_schedulers']
    for key, state in whole['optimizer']['state'].items():
        assert torch.equal(state['exp_avg_sq'], resumed['optimizer']['state'][key]['exp_avg_sq'])
    assert torch.equal(whole['random_state']['torch'], resumed['random_state']['torch'])
    losses = [c['message_hub']['log_scalars']['train/loss']['history'] for c in (whole, resumed)]
    assert torch.equal(*losses)  # the learning curve goes on, too


@pytest.mark.slow
def test_a_path_to_resume_from_is_taken_and_load_from_starts_at_zero(whole_run, tmp_path):
    folder, _ = whole_run
    weights = folder / 'out/epoch_2.pth'
    resumed = run_tool('train.py', folder / 'tiny.py', '--work-dir', 'a', '--resume', weights,
                       '--no-validate', '--no-pin-memory', '--no-persistent-workers',
                       cwd=tmp_path)
    assert 'Epoch(train) [3][8/8]' in resumed.stdout, resumed.stderr[-2000:]
    assert not accuracies(resumed.stdout)
    started = run_tool('train.py', folder / 'tiny.py', '--work-dir', 'b', '--cfg-options',
                       f'load_from={weights}', 'train_cfg.max_epochs=1', cwd=tmp_path)
    assert 'Epoch(train) [1][8/8]' in started.stdout, started.stderr[-2000:]
    assert load(tmp_path / 'b/epoch_1.pth')['meta']['iter'] == 8


@pytest.mark.slow
def test_mixed_precision_trains_and_tests_on_a_cpu(whole_run, tmp_path):
    folder, _ = whole_run
    trained = run_tool('train.py', folder / 'tiny.py', '--amp', '--work-dir', 'out',
                       '--cfg-options', 'train_cfg.max_epochs=1', cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr[-2000:]
    # A dump of the config shows what the flag asked for.
    assert "precision='mixed'" in (tmp_path / 'out/tiny.py').read_text()
    tested = run_tool('test.py', folder / 'tiny.py', 'out/epoch_1.pth', '--amp', cwd=tmp_path)
    assert accuracies(tested.stdout), tested.stderr[-2000:]


def test_the_learning_rate_scales_only_on_request_and_the_mismatch_is_said(whole_run, tmp_path):
    folder, output = whole_run
    assert re.search(r'for batches of 64 images and this run has 32 .*--auto-scale-lr', output)
    scaled = run_tool('train.py', folder / 'tiny.py', '--auto-scale-lr', '--work-dir', 'out',
                      '--cfg-options', 'train_cfg.max_epochs=1', cwd=tmp_path)
    assert 'for batches of 64' not in scaled.stdout

    def first_rate(text):
        return float(re.search(r' lr: (\S+)', text)[1])
    assert first_rate(scaled.stdout) == pytest.approx(first_rate(output) / 2, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize('launch', ['script', 'torchrun'])
def test_two_processes_train_together_without_cuda(launch, whole_run, tmp_path):
    folder, _ = whole_run
    options = ['--work-dir', 'out', '--cfg-options', 'train_cfg.max_epochs=1']
    if launch == 'script':
        result = subprocess.run(
            ['bash', str(MIM / 'tools/dist_train.sh'), str(folder / 'tiny.py'), '2', *options],
            cwd=tmp_path, capture_output=True, text=True, timeout=600,
            env={**os.environ, 'PYTHON': sys.executable, 'PORT': '29611'})
    else:
        result = run_tool('train.py', folder / 'tiny.py', '--launcher', 'pytorch', *options,
                          launcher=['-m', 'torch.distributed.run', '--nproc_per_node=2',
                                    '--master_port=29612'], cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    # 256 digits in batches of 2 x 32.
    assert 'Epoch(train) [1][4/4]' in result.stdout
    assert load(tmp_path / 'out/epoch_1.pth')['meta']['iter'] == 4


@pytest.mark.parametrize('flag', ['--local_rank=3', '--local-rank=3'])
def test_both_spellings_of_the_local_rank_parse(flag, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '')  # so that it is as before at the end
    monkeypatch.delenv('LOCAL_RANK')
    args = cli.parse(cli.train_parser(), ['config.py', flag])
    assert args.local_rank == 3
    assert os.environ['LOCAL_RANK'] == '3'


def test_launched_ranks_come_from_the_environment(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '1')
    cli.parse(cli.test_parser(), ['config.py', 'weights.pth', '--launcher', 'pytorch'])
    assert os.environ['LOCAL_RANK'] == '1'
