"""Synchronised BatchNorm without an accelerator, against BatchNorm of the joint batch."""
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.multiprocessing import spawn
from two_processes import free_port

from mmeffnet.models.sync_bn import HostSyncBatchNorm, synchronise_on_host

PARTS = [slice(0, 2), slice(2, 5)]  # of unequal size
CLOSE = dict(rtol=1e-10, atol=1e-12)


def compare(rank, port, ended):
    """In each of two processes: outputs, gradients and statistics are those of the joint batch."""
    dist.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    generator = torch.Generator().manual_seed(0)
    # Far from zero, where a variance as a difference of large numbers would be wrong.
    joint, direction = (torch.randn((5, 3, 4, 4), generator=generator, dtype=torch.float64) * 3
                        + offset for offset in (100, 0))
    for options in (dict(momentum=0.1), dict(momentum=None), dict(affine=False),
                    dict(track_running_stats=False)):
        judge = nn.BatchNorm2d(3, **options).double()
        ours = HostSyncBatchNorm(3, **options).double()
        for _ in range(2):
            whole = joint.clone().requires_grad_()
            part = joint[PARTS[rank]].clone().requires_grad_()
            expected, got = judge(whole), ours(part)
            torch.testing.assert_close(got, expected[PARTS[rank]], **CLOSE)
            (expected * direction).sum().backward()
            (got * direction[PARTS[rank]]).sum().backward()
            torch.testing.assert_close(part.grad, whole.grad[PARTS[rank]], **CLOSE)
        for mine, theirs in zip(ours.parameters(), judge.parameters(), strict=True):
            dist.all_reduce(mine.grad)
            torch.testing.assert_close(mine.grad, theirs.grad, **CLOSE)
        for mine, theirs in zip(ours.buffers(), judge.buffers(), strict=True):
            torch.testing.assert_close(mine, theirs, **CLOSE)
    half = HostSyncBatchNorm(3)(joint[PARTS[rank]].bfloat16())
    assert half.dtype == torch.bfloat16
    with pytest.raises(RuntimeError, match='gradients of gradients .*: train in one process'):
        torch.autograd.grad(ours(part).sum(), part, create_graph=True)
    with pytest.raises(ValueError, match='got shape'):
        HostSyncBatchNorm(3)(torch.zeros(3))
    dist.destroy_process_group()
    (ended / str(rank)).touch()


@pytest.mark.slow
def test_two_processes_normalise_the_joint_batch(tmp_path):
    spawn(compare, args=(free_port(), tmp_path), nprocs=2)  # which raises what they raise
    assert {path.name for path in tmp_path.iterdir()} == {'0', '1'}


def test_one_process_has_plain_batchnorm():
    x = torch.randn((4, 3, 5, 5), generator=torch.Generator().manual_seed(0))
    judge, ours = nn.BatchNorm2d(3), HostSyncBatchNorm(3)
    assert torch.equal(ours(x), judge(x))
    assert torch.equal(ours.running_var, judge.running_var)
    assert torch.equal(ours.eval()(x), judge.eval()(x))


def test_layers_are_replaced_with_their_tensors_and_settings():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(
        nn.SyncBatchNorm(4, eps=1e-3, momentum=0.01), nn.BatchNorm2d(4),
        nn.SyncBatchNorm(4, affine=False, track_running_stats=False))).eval()
    state = model.state_dict()
    replaced = synchronise_on_host(model)
    new, other, bare = replaced[1]
    assert type(new) is HostSyncBatchNorm
    assert type(other) is nn.BatchNorm2d
    assert (new.eps, new.momentum, new.training) == (1e-3, 0.01, False)
    assert (bare.affine, bare.track_running_stats) == (False, False)
    assert {key: tensor.data_ptr() for key, tensor in replaced.state_dict().items()} == {
        key: tensor.data_ptr() for key, tensor in state.items()}
