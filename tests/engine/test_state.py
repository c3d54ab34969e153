"""Random state and plain checkpoints."""
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.logging import HistoryBuffer
from mmengine.optim import OptimWrapper
from torch.utils.data import BatchSampler, DataLoader
from two_processes import free_port

from mmeffnet.datasets.shard_sampler import ShardSampler
from mmeffnet.engine.parallel import joint_gradient
from mmeffnet.engine.state import (
    ExactResumeHook,
    PlainCheckpointHook,
    plain,
    random_state,
    set_random_state,
)


def runner(resume=False):
    return SimpleNamespace(_resume=resume, train_loop=None, optim_wrapper=None, hooks=[],
                           train_dataloader=SimpleNamespace(sampler=None, batch_sampler=None))


def draws():
    return random.random(), np.random.rand(), np.random.randn(), torch.rand(1).item()


def test_every_generator_goes_on_from_a_state_that_was_saved(tmp_path):
    np.random.randn()  # leaves a second normal number behind, which is part of the state
    torch.save(random_state(), tmp_path / 'state.pth')
    first = draws()
    assert draws() != first
    set_random_state(torch.load(tmp_path / 'state.pth', weights_only=True))
    assert draws() == first


def test_validation_leaves_the_random_state_alone():
    hook = ExactResumeHook()
    state = random_state()
    hook.before_val(None)
    draws()
    checkpoint = {}
    hook.before_save_checkpoint(runner(), checkpoint)  # a best checkpoint, in validation
    hook.after_val(None)
    expected = draws()
    set_random_state(state)
    assert draws() == expected
    set_random_state(checkpoint['random_state'])
    assert draws() == expected


@pytest.mark.parametrize(('resume', 'continues'), [(True, True), (False, False)])
def test_only_a_resumed_run_continues_the_state(resume, continues):
    hook = ExactResumeHook()
    checkpoint = dict(random_state=random_state())
    expected = draws()
    hook.after_load_checkpoint(runner(resume), checkpoint)
    hook.before_train(runner(resume))
    assert (draws() == expected) is continues


class Sized:
    shard_sizes = 3, 4, 5

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return index


def of_shards(seed):
    return DataLoader(Sized(), sampler=ShardSampler(Sized(), seed=seed))


def by_shape(seed):
    """As mmdet's loaders are: the order is that of a batch sampler."""
    order = DefaultSampler(Sized(), seed=seed)
    return DataLoader(Sized(), batch_sampler=BatchSampler(order, 2, drop_last=False))


@pytest.mark.parametrize('loader', [of_shards, by_shape])
def test_a_run_that_had_no_seed_of_its_config_goes_on_in_the_order_it_had(loader):
    """Else pictures of the epoch come twice, and others not at all."""
    before, resumed = loader(7), runner(resume=True)
    resumed.train_dataloader = loader(8)
    assert [*map(str, before)] != [*map(str, resumed.train_dataloader)]
    hook = ExactResumeHook()
    hook.after_load_checkpoint(resumed, dict(meta=dict(seed=7)))
    hook.before_train(resumed)
    assert [*map(str, before)] == [*map(str, resumed.train_dataloader)]


def test_histories_are_plain_in_a_file_and_whole_after_loading(tmp_path):
    hook, weights = PlainCheckpointHook(), {'w': torch.zeros(2)}
    history = HistoryBuffer(log_history=[1.5, 0.5], count_history=[1, 3], max_length=10)
    checkpoint = dict(state_dict=weights, message_hub=dict(
        log_scalars={'loss': history}, runtime_info={'epoch': np.int64(3)}))
    hook.before_save_checkpoint(None, checkpoint)
    assert checkpoint['state_dict'] is weights
    assert type(checkpoint['message_hub']['runtime_info']['epoch']) is int
    hook.after_load_checkpoint(None, checkpoint)
    loaded = checkpoint['message_hub']['log_scalars']['loss']
    assert isinstance(loaded, HistoryBuffer)
    assert loaded.mean() == history.mean()
    assert loaded.max_length == 10


def test_what_has_no_plain_form_is_named():
    with pytest.raises(TypeError, match='Generator cannot be kept in a checkpoint'):
        plain({'a': [np.random.default_rng()]})


def test_containers_and_numbers_keep_their_kinds():
    value = {'a': (1, 2.5, None, True), 'b': ['x', {1, 2}], 'c': np.arange(3)}
    made = plain(value)
    assert made['a'] == (1, 2.5, None, True)
    assert made['b'] == ['x', {1, 2}]
    assert made['c'].tolist() == [0, 1, 2]


def share_gradients(rank, port, folder):
    """In each of two processes: half of a step of two batches, saved for both."""
    torch.distributed.init_process_group(
        'gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    gradient = torch.tensor([1., 10.]) * (rank + 1)
    joint = joint_gradient(gradient)
    assert torch.equal(gradient, torch.tensor([1., 10.]) * (rank + 1))  # a copy was made
    torch.save(joint, f'{folder}/{rank}.pth')
    torch.distributed.destroy_process_group()


def test_gradients_of_an_open_step_are_kept_for_all_processes(tmp_path):
    torch.multiprocessing.spawn(share_gradients, args=(free_port(), tmp_path), nprocs=2)
    for rank in (0, 1):
        saved = torch.load(tmp_path / f'{rank}.pth', weights_only=True)
        assert torch.equal(saved, torch.tensor([1.5, 15.]))


def test_an_open_step_is_saved_and_goes_on_with_its_gradients(said):
    def made(batches):
        model = torch.nn.Linear(2, 1)
        torch.nn.init.ones_(model.weight)
        wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=2)
        wrapper.initialize_count_status(model, batches, 4)
        run = runner(resume=True)
        run.model, run.optim_wrapper = model, wrapper
        return run

    whole, part, checkpoint = made(0), made(1), dict(meta=dict(epoch=0))
    whole.optim_wrapper.update_params(whole.model(torch.ones(1, 2)).sum())
    hook = ExactResumeHook()
    hook.before_save_checkpoint(whole, checkpoint)
    part.model.load_state_dict(whole.model.state_dict())
    hook.after_load_checkpoint(part, checkpoint)
    hook.before_train(part)
    assert "MMEngine's warning of lost ones does not apply" in said[-1]
    for run in (whole, part):
        run.optim_wrapper.update_params(run.model(torch.full((1, 2), 3.)).sum())
    assert torch.equal(whole.model.weight, part.model.weight)
    # Half of 1 and half of 3, times the rate.
    assert whole.model.weight.tolist() == [pytest.approx([0.8, 0.8])]
    checkpoint = dict(meta=dict(epoch=0))
    hook.before_save_checkpoint(whole, checkpoint)
    assert 'gradients' not in checkpoint
