"""What is trained: frozen stages, norm_eval, and layers beyond the last output."""
import pytest
import torch
from peers import TINY
from torch.nn.modules.batchnorm import _BatchNorm

from mmeffnet import EfficientNet

ALL = tuple(range(7))


def norms_of(module):
    return [m for m in module.modules() if isinstance(m, _BatchNorm)]


def train_step(network):
    """One forward, backward and large step on random images."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    loss = sum(out.square().mean() for out in network(torch.randn(2, 3, 64, 64)))
    loss.backward()
    optimizer.step()


def snapshot(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def changed(module, before):
    return {key for key, value in module.state_dict().items()
            if not torch.equal(value, before[key])}


def frozen_network(frozen=3):
    return EfficientNet(arch=TINY, out_indices=(1, 2, 3, 4, 5, 6), frozen_stages=frozen).train()


def test_frozen_stages_counts_layers_from_the_stem():
    network = frozen_network(frozen=3)
    trained = [any(p.requires_grad for p in layer.parameters()) for layer in network.layers]
    assert trained == [False, False, False, True, True, True, True]


def test_frozen_batch_norm_stays_in_eval_and_the_rest_does_not():
    network = frozen_network(frozen=3)
    modes = [{norm.training for norm in norms_of(layer)} for layer in network.layers]
    assert modes == [{False}] * 3 + [{True}] * 4


def test_frozen_batch_norm_stays_in_eval_after_eval_and_train():
    network = frozen_network(frozen=3)
    network.eval().train()
    modes = [{norm.training for norm in norms_of(layer)} for layer in network.layers]
    assert modes == [{False}] * 3 + [{True}] * 4


def test_step_leaves_frozen_weights_and_statistics_as_they_are():
    network = frozen_network(frozen=3)
    before = snapshot(network.layers[:3])
    train_step(network)
    assert changed(network.layers[:3], before) == set()


def test_step_changes_every_tensor_behind_the_frozen_stages():
    network = frozen_network(frozen=3)
    before = snapshot(network.layers[3:])
    train_step(network)
    assert changed(network.layers[3:], before) == before.keys()


def test_frozen_network_has_no_gradient_before_train_is_called():
    network = EfficientNet(arch=TINY, frozen_stages=1)
    assert not any(p.requires_grad for p in network.layers[0].parameters())


def test_zero_frozen_stages_train_everything():
    assert all(p.requires_grad for p in frozen_network(frozen=0).parameters())


def test_as_many_frozen_stages_as_layers_freeze_everything():
    assert not any(p.requires_grad for p in frozen_network(frozen=7).parameters())


@pytest.mark.parametrize('wrong', [-1, 8, 'all', 1.5])
def test_wrong_frozen_stages_are_refused(wrong):
    with pytest.raises(ValueError, match=f'frozen_stages={wrong!r} must be from 0 .* to 7'):
        EfficientNet(arch=TINY, frozen_stages=wrong)


def test_norm_eval_keeps_all_statistics():
    network = EfficientNet(arch=TINY, norm_eval=True).train()
    before = snapshot(network)
    train_step(network)
    statistics = {key for key in before if 'running' in key or 'num_batches' in key}
    assert changed(network, before) & statistics == set()


def test_norm_eval_still_trains_all_weights():
    network = EfficientNet(arch=TINY, norm_eval=True).train()
    before = snapshot(network)
    train_step(network)
    assert changed(network, before) == {key for key, _ in network.named_parameters()}


def test_norm_eval_leaves_other_layers_in_training():
    network = EfficientNet(arch=TINY, norm_eval=True, drop_path_rate=0.2).train()
    assert {type(m).__name__ for m in network.modules() if not m.training} == {'BatchNorm2d'}


SUBSETS = [(0, ), (1, ), (2, ), (5, ), (6, ), (0, 6), (2, 3), (0, 1, 2), (3, 4, 5), (2, 4, 6),
           (1, 2, 3, 4, 5), ALL]


@pytest.mark.parametrize('subset', SUBSETS, ids=str)
def test_every_trainable_parameter_gets_a_gradient(subset):
    network = EfficientNet(arch=TINY, out_indices=subset).train()
    train_step(network)
    assert [key for key, p in network.named_parameters()
            if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize('subset', SUBSETS, ids=str)
def test_only_layers_beyond_the_last_output_go_untrained(subset):
    network = EfficientNet(arch=TINY, out_indices=subset)
    trained = [all(p.requires_grad for p in layer.parameters()) for layer in network.layers]
    assert trained == [index <= max(subset) for index in ALL]


def test_layers_beyond_the_last_output_are_not_run():
    network, run = EfficientNet(arch=TINY, out_indices=(2, )).eval(), []
    for index, layer in enumerate(network.layers):
        layer.register_forward_hook(lambda *_, index=index: run.append(index))
    network(torch.zeros(1, 3, 64, 64))
    assert run == [0, 1, 2]
