"""Bytes moved and saved, against numbers worked out by hand."""
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmeffnet.analysis.traffic import Traffic, covered, saved_for_backward


def counted(work):
    """Bytes read and written by all operations of ``work``."""
    with Traffic() as traffic:
        work()
    return traffic.read.total(), traffic.written.total()


def floats(*shape):
    return torch.rand(shape)


X = floats(2, 3, 4, 4)  # 96 elements, 384 bytes


def test_an_operation_reads_its_inputs_and_writes_its_output():
    with Traffic() as traffic:
        X.relu()
    assert (traffic.read, traffic.written, traffic.moved) == ({'relu': 384}, {'relu': 384}, 768)


def test_a_convolution_moves_input_kernel_bias_and_output():
    conv = nn.Conv2d(3, 5, 3, padding=1)
    # 5 kernels of 3x3x3 and 5 biases; 2 images of 5 channels of 16 pixels.
    assert counted(lambda: conv(X)) == (384 + 4 * (5 * 27 + 5), 4 * 2 * 5 * 16)


@pytest.mark.parametrize('view', [
    lambda x: x.view(6, 16), lambda x: x.permute(0, 2, 3, 1), lambda x: x[:, 1:],
    lambda x: x.transpose_(0, 1),
    lambda x: x.detach(), lambda x: x.contiguous(), lambda x: x.expand(2, 2, 3, 4, 4),
    lambda x: x.split(1), lambda x: x.flatten(1), lambda x: x.size()])
def test_views_and_metadata_move_nothing(view):
    x = X.clone()
    assert counted(lambda: view(x)) == (0, 0)


@pytest.mark.parametrize(('work', 'read', 'written'), [
    (lambda x: x.add_(X), 768, 384),               # reads both, writes one
    (lambda x: x.add_(1), 384, 384),
    (lambda x: x.zero_(), 0, 384),                 # does not look at what it overwrites
    (lambda x: x.copy_(X), 384, 384),
    (lambda x: torch.add(X, X, out=x), 384, 384),  # the same input twice is read once
    (lambda x: x[:, :1].mul_(2), 128, 128),        # a third of the channels
])
def test_writing_in_place(work, read, written):
    x = X.clone()
    assert counted(lambda: work(x)) == (read, written)


@pytest.mark.parametrize(('work', 'read', 'written'), [
    (lambda: torch.zeros(8), 0, 32),
    (lambda: torch.empty(8), 0, 0),
    (lambda: torch.zeros_like(X), 0, 384),         # the shape is looked at, and not the content
    (lambda: X.bfloat16(), 384, 192),
    (lambda: X.permute(0, 2, 3, 1).contiguous(), 384, 384),
    (lambda: floats(4).expand(2, 3, 4, 4) + X, 16 + 384, 384 + 16),  # 4 elements, shown again
    (lambda: X[:1, :1, :1].expand(2, 3, 4, 4) + X, 384, 384),  # 4 elements of the other input
    (lambda: torch.cat([X[:1], X[1:]]), 384, 384),
    (lambda: torch.cat([X[:, :2], X[:, 1:]]), 384, 512),  # overlapping: read once
    (lambda: X.sum(), 384, 4),
    (lambda: X[0, 0, 0, 0].item(), 4, 0),
])
def test_only_what_a_tensor_shows_is_counted_and_once(work, read, written):
    assert counted(work) == (read, written)


def test_batch_norm_writes_statistics_of_its_own_and_running_ones():
    norm = nn.BatchNorm2d(3)
    norm.num_batches_tracked = None
    # Affine and running statistics: four vectors of 3; saved mean and variance: two more.
    assert counted(lambda: norm(X)) == (384 + 4 * 12, 384 + 2 * 12 + 2 * 12)
    norm.eval()
    assert counted(lambda: norm(X)) == (384 + 4 * 12, 384)


def test_the_backward_pass_is_counted():
    x = X.clone().requires_grad_()
    with Traffic() as traffic:
        x.relu().backward(torch.ones_like(X))
    assert traffic.read['threshold_backward'] == 2 * 384  # output and gradient
    assert traffic.written['threshold_backward'] == 384


def test_counts_repeat_exactly():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.SiLU()).eval()
    assert len({counted(lambda: network(X)) for _ in range(3)}) == 1


def test_an_empty_tensor_covers_nothing():
    assert covered(torch.empty(0, 3)) == 0
    assert covered(torch.empty(1, 3).expand(0, 3)) == 0


def saved(network, x=X):
    return saved_for_backward(lambda: network(x), network)


def test_a_linear_layer_saves_its_input_and_not_its_weight():
    assert saved(nn.Linear(4, 7)) == 384


def test_a_tensor_that_two_operations_keep_counts_once():
    # The output of the first ReLU is kept by it and by the convolution.
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert saved(network) == 384 + 4 * 2 * 4 * 16


def test_batch_norm_and_silu_save_their_inputs():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.SiLU())
    # Input, mean and inverse deviation; what SiLU was given. Running statistics are its own.
    assert saved(network) == 384 + 2 * 12 + 384


def test_a_part_keeps_its_whole_storage():
    assert saved_for_backward(lambda: F.linear(X[:1], torch.ones(2, 4, requires_grad=True)),
                              nn.Identity()) == 384


def test_memory_that_is_freed_on_the_way_is_not_taken_for_memory_that_is_kept():
    class Chain(nn.Module):
        def forward(self, x):
            for _ in range(10):
                x = (x + 0).sin()  # keeps its input; the sum before it is new each time
            return x
    x = X.clone().requires_grad_()
    assert saved(Chain(), x) == 10 * 384


def test_gradients_are_right_after_counting():
    network, x = nn.Sequential(nn.Linear(4, 4), nn.SiLU(), nn.Linear(4, 2)), floats(3, 4)
    expected = torch.autograd.grad(network(x).sum(), list(network.parameters()))
    outputs = []
    saved_for_backward(lambda: outputs.append(network(x).sum()), network)
    for one, other in zip(torch.autograd.grad(outputs[0], list(network.parameters())), expected,
                          strict=True):
        assert torch.equal(one, other)
