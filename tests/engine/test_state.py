"""Random state and plain checkpoints."""
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch.utils.data import BatchSampler, DataLoader
from two_processes import free_port

from mmeffnet.datasets.shard_sampler import ShardSampler
from mmeffnet.engine.parallel import HostDataParallel
from mmeffnet.engine.plain import PlainCheckpointHook, plain
from mmeffnet.engine.state import ExactResumeHook, random_state, set_random_state
from mmeffnet.weights.files import read_checkpoint


def runner(resume=False):
    return SimpleNamespace(_resume=resume, train_loop=None, optim_wrapper=None, hooks=[],
                           save_checkpoint=lambda: None,
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
@pytest.mark.parametrize('kept', [True, False])
def test_a_resumed_run_goes_on_in_the_order_it_had(loader, kept):
    """Else pictures of the epoch come twice, and others not at all."""
    before, resumed, hook = loader(7), runner(resume=True), ExactResumeHook()
    checkpoint = dict(meta=dict(seed=7))
    if kept:  # a seed of the config's sampler, or of processes whose seeds differ
        saving = runner()
        saving.train_dataloader, checkpoint = before, dict(meta=dict(seed=9))
        hook.before_save_checkpoint(saving, checkpoint)
    resumed.train_dataloader = loader(8)
    assert [*map(str, before)] != [*map(str, resumed.train_dataloader)]
    hook.after_load_checkpoint(resumed, checkpoint)
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
    assert type(plain(np.float64(0.5))) is float  # one of numpy's is a float, too
    assert type(plain(np.str_('a'))) is str
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


class Sum(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, inputs, mode='loss'):
        return dict(loss=(self.weight * inputs).sum())


def train_in_steps_of_two(rank, port, folder):
    """In each of two processes: numbers 0, 2, 4, 6 or 1, 3, 5, 7, a checkpoint after each."""
    torch.distributed.init_process_group(
        'gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    model = HostDataParallel(Sum())
    Runner(model, folder, log_level='ERROR', train_dataloader=dict(
        dataset=[dict(inputs=torch.tensor(float(n))) for n in range(8)], batch_size=1,
        num_workers=0, collate_fn=dict(type='default_collate'),
        sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1.), accumulative_counts=2),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, by_epoch=False)),
        custom_hooks=[ExactResumeHook()]).train()
    # Each step's gradient is the mean of four numbers.
    assert model.module.weight.item() == -(1.5 + 5.5)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_gradients_of_an_open_step_are_kept_for_all_processes(tmp_path):
    """MMEngine calls the hooks of a checkpoint in the first process alone."""
    torch.multiprocessing.spawn(train_in_steps_of_two, args=(free_port(), tmp_path), nprocs=2)
    saved = [read_checkpoint(tmp_path / f'iter_{n}.pth') for n in (1, 2, 3, 4)]
    # Half of the mean of two numbers, in the midst of a step.
    assert [checkpoint.get('gradients') for checkpoint in saved] == [
        dict(weight=torch.tensor(0.25)), None, dict(weight=torch.tensor(2.25)), None]


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
    whole.save_checkpoint = lambda: hook.before_save_checkpoint(whole, checkpoint)
    hook.before_train(whole)
    whole.save_checkpoint()
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
    whole.save_checkpoint()
    assert 'gradients' not in checkpoint


def test_an_older_checkpoint_has_the_state_of_all_devices(monkeypatch):
    """Of which the first is that of the process which saved; each has its own now."""
    given = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_rng_state', lambda: torch.tensor(3))
    monkeypatch.setattr(torch.cuda, 'set_rng_state', given.append)
    state = random_state()
    for kept in (state['cuda'], [torch.tensor(5), torch.tensor(7)]):
        set_random_state({**state, 'cuda': kept})
    assert given == [3, 5]
