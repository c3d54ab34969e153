"""Several processes train, validate and recover as one does: gloo, on CPUs."""
import json
import time

import pytest
import torch
from mmengine.dataset import DefaultSampler
from namespaces import two_hosts
from two_processes import (
    ENVIRONMENT,
    SAME,
    STEPS,
    assert_same_weights,
    losses,
    run_one,
    run_two,
    write_configs,
)

from mmeffnet.plugin import MIM

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def two_processes_run(joint_batch_run):
    """The run of two processes beside that of one; SyncBN by the name in ``norm_cfg``."""
    run_two('train.py', 'float64.py', '--work-dir', 'two', cwd=joint_batch_run)
    return joint_batch_run


def test_two_processes_have_the_losses_of_one_with_the_joint_batch(two_processes_run):
    one, two = (losses(two_processes_run / name) for name in ('one', 'two'))
    assert len(one) == STEPS
    assert one[-1] < one[0] - 0.1  # it learns: the curves have a shape to agree on
    torch.testing.assert_close(two, one, **SAME)


def test_two_processes_end_with_the_weights_of_one(two_processes_run):
    assert_same_weights(two_processes_run / 'one/epoch_3.pth',
                        two_processes_run / 'two/epoch_3.pth', **SAME)


def test_the_switch_of_the_config_synchronises_batchnorm_too(two_processes_run):
    # One of the three epochs; with a BatchNorm of each process the loss is off by 1e-2.
    (two_processes_run / 'switch.py').write_text(
        "_base_ = './float64.py'\nsync_bn = 'torch'\ntrain_cfg = dict(max_epochs=1)\n"
        "model = dict(backbone=dict(norm_cfg=dict(type='BN')))")
    run_two('train.py', 'switch.py', '--no-validate', '--work-dir', 'switch',
            cwd=two_processes_run)
    switched = losses(two_processes_run / 'switch')
    assert len(switched) == STEPS // 3
    torch.testing.assert_close(switched, losses(two_processes_run / 'one')[:STEPS // 3], **SAME)


@pytest.mark.parametrize(('size', 'world'), [(37, 2), (37, 5), (40, 8), (3, 4)])
def test_every_sample_is_evaluated_in_one_place(size, world, monkeypatch):
    shares = []
    for rank in range(world):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda r=rank: (r, world))
        shares.append(list(DefaultSampler(range(size), shuffle=False, seed=0)))
    assert len({len(share) for share in shares}) == 1  # nobody waits for more batches
    # Results are collected in turns and cut to the size of the data set: what the sampler
    # repeats to fill up the last round is dropped.
    collected = [index for turn in zip(*shares, strict=True) for index in turn]
    assert collected[:size] == list(range(size))


def test_metrics_of_an_uneven_last_batch_are_those_of_one_process(two_processes_run):
    # 37 images in batches of 8: 19 for each process, one of them twice, in batches 8, 8 and 3.
    folder = two_processes_run
    for run, name in ((run_one, 'one'), (run_two, 'two')):
        run('test.py', 'float64.py', 'one/epoch_3.pth', '--out', f'{name}.json',
            '--out-item', 'metrics', '--work-dir', f'test_{name}', cwd=folder)
    one, two = (json.loads((folder / f'{name}.json').read_text()) for name in ('one', 'two'))
    assert {key: value for key, value in two.items() if 'time' not in key} == {
        key: value for key, value in one.items() if 'time' not in key}
    assert two['accuracy/top1'] * 37 / 100 == pytest.approx(
        round(two['accuracy/top1'] * 37 / 100), abs=1e-4)  # of 37, no image counted twice


def wait_for(path, processes, log, seconds=90):
    """Wait until a file is there, as long as the processes run."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert all(p.poll() is None for p in processes), log.read_text()[-3000:]
        assert time.monotonic() < end, f'no {path.name} after {seconds} s'
        time.sleep(0.1)


def test_a_host_is_lost_and_the_run_ends_as_if_nothing_had_happened(two_processes_run, tmp_path):
    # In the third epoch the second host stands still, is killed, and is started again; the
    # first host has restarted its process meanwhile, and both go on from the second epoch.
    write_configs(tmp_path, hosts=(
        "_base_ = './float64.py'\n"
        "default_hooks = dict(hold=dict(type='HoldOnceHook', step=10, marker='held'))"))
    command = [MIM / 'tools/train.py', 'hosts.py', '--launcher', 'pytorch', '--resume',
               '--work-dir', 'out']
    log = tmp_path / 'log'
    with two_hosts() as (first, second), log.open('w') as out:
        def start(host):
            return host.torchrun(*command, store=first, log=out, env=ENVIRONMENT, cwd=tmp_path)

        processes = [start(first), start(second)]
        wait_for(tmp_path / 'held', processes, log)
        assert (tmp_path / 'out/epoch_2.pth').exists()
        assert not (tmp_path / 'out/epoch_3.pth').exists()
        second.crash()
        assert processes.pop().wait(10) != 0
        processes.append(start(second))
        codes = [process.wait(120) for process in processes]
    output = log.read_text()
    assert codes == [0, 0], output[-3000:]
    assert 'resumed epoch: 2, iter: 8' in output
    assert len(losses(tmp_path / 'out')) == 4  # of the third epoch, all of it
    assert_same_weights(two_processes_run / 'two/epoch_3.pth', tmp_path / 'out/epoch_3.pth',
                        rtol=0, atol=0)
