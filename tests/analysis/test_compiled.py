"""The check of compiled networks: it finds a wrong number, a further graph and a break."""
import pytest
import torch
from conftest import run_tool
from peers import TINY
from torch import nn

from mmeffnet import EfficientNet, EfficientNetHead
from mmeffnet.analysis import compiled
from mmeffnet.analysis.contenders import Whole

pytestmark = pytest.mark.slow


class Changed(nn.Module):
    """A network that differs from itself where its graph is run by a compiler."""

    def __init__(self, change, **options):
        super().__init__()
        self.network = Whole(EfficientNet(TINY, **options),
                             EfficientNetHead(num_classes=7, in_channels=TINY['head']))
        self.change = change

    def forward(self, images):
        logits = self.network(images)
        return self.change(logits) if torch.compiler.is_compiling() else logits


def found(monkeypatch, mode, change=lambda logits: logits, batches=(2, 3), backend='eager',
          **options):
    torch.manual_seed(0)
    network = Changed(change, **options)
    monkeypatch.setattr(compiled, 'ours', lambda variant: network)
    monkeypatch.setattr(compiled, 'random_weights', lambda variant: network.state_dict())
    return compiled.agreement('tiny', mode, batches, 64, backend)


# Compiled, SAME padding leaves BatchNorm a part of a tensor, whose sums come in another order; what
# is zero but for rounding differs by itself then, and counts as a part of a small share.
@pytest.mark.parametrize(('options', 'rounding'), [
    (dict(conv_cfg=dict(type='Conv2d')), 1e-12), ({}, 1e-9)], ids=['symmetric', 'same'])
@pytest.mark.parametrize('mode', ['infer', 'train'])
def test_a_network_agrees_with_itself_in_two_graphs(mode, options, rounding, monkeypatch):
    result = found(monkeypatch, mode, batches=(2, 3, 5), backend='aot_eager', **options)
    assert result.holds
    assert (result.variant, result.mode, result.graphs) == ('tiny', mode, 2)
    assert result.seconds > 0
    assert result.outputs < 1e-12
    assert max(result.gradients, result.statistics) < rounding


def test_wrong_logits_are_found(monkeypatch):
    result = found(monkeypatch, 'infer', lambda logits: logits * (1 + 1e-5))
    assert not result.holds
    assert result.outputs == pytest.approx(1e-5, rel=1e-3)


def test_wrong_gradients_are_found(monkeypatch):
    result = found(monkeypatch, 'train',
                   lambda logits: logits + 1e-4 * (logits - logits.detach()))
    assert not result.holds
    assert result.outputs < 1e-12 < 1e-5 < result.gradients


def test_numbers_that_are_none_are_found(monkeypatch):
    assert found(monkeypatch, 'infer', lambda logits: logits / 0).outputs == float('inf')


def test_a_further_graph_is_found(monkeypatch):
    result = found(monkeypatch, 'infer', lambda logits: (
        logits if logits.shape[0] % 2 else 1 * logits), batches=(2, 3, 4))
    assert result.outputs < 1e-12
    assert result.graphs == 3
    assert not result.holds


def test_a_break_in_the_graph_is_an_error(monkeypatch):
    def broken(logits):
        torch._dynamo.graph_break()
        return logits

    with pytest.raises(torch._dynamo.exc.Unsupported):
        found(monkeypatch, 'infer', broken)


def test_the_tool_prints_a_row_for_each(tmp_path):
    arguments = ['check_compiled.py', '--variants', 'lite0', '--mode', 'infer', '--batch', '1', '2',
                 '--size', '32', '--backend', 'eager']
    done = run_tool(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    row = [cell.strip() for cell in done.stdout.splitlines()[-1].split('|')]
    assert row[1:4] == ['lite0', 'infer', '2']
    assert float(row[4]) < 1e-12
