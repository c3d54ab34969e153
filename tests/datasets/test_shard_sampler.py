"""The order of the samples of shards, in one process and in several."""
from itertools import chain, zip_longest

import pytest
from mmengine.dataset import DefaultSampler

from mmeffnet.datasets.shard_sampler import ShardSampler


class Sized:
    def __init__(self, *sizes):
        self.shard_sizes = sizes

    def __len__(self):
        return sum(self.shard_sizes)


def orders(dataset, monkeypatch, processes, epoch=0, **options):
    found = []
    for rank in range(processes):
        monkeypatch.setattr('mmeffnet.datasets.shard_sampler.get_dist_info',
                            lambda rank=rank: (rank, processes))
        sampler = ShardSampler(dataset, seed=1, **options)
        sampler.set_epoch(epoch)
        found.append([*sampler])
        assert len(found[-1]) == len(sampler)
    return found


@pytest.mark.parametrize('processes', [1, 2, 3, 5])
@pytest.mark.parametrize('window', [1, 2, 9])
def test_an_epoch_has_each_sample_once(monkeypatch, processes, window):
    dataset = Sized(7, 1, 12, 5, 9, 4)
    found = orders(dataset, monkeypatch, processes, window=window, round_up=False)
    assert sorted(sum(found, [])) == [*range(len(dataset))]
    rounded = orders(dataset, monkeypatch, processes, window=window)
    assert len({len(order) for order in rounded}) == 1
    assert {*sum(rounded, [])} == {*range(len(dataset))}
    assert len(sum(rounded, [])) - len(dataset) < processes


def test_a_length_is_told_without_a_list_of_all_samples(monkeypatch):
    """MMEngine asks for it in each iteration."""
    monkeypatch.setattr('mmeffnet.datasets.shard_sampler.get_dist_info', lambda: (0, 1))
    assert len(ShardSampler(Sized(10 ** 15), seed=1)) == 10 ** 15


def test_samples_of_a_window_are_mixed_and_epochs_differ(monkeypatch):
    dataset = Sized(*[10] * 8)
    order, = orders(dataset, monkeypatch, 1, window=2)
    for first in range(0, 80, 20):
        assert len({sample // 10 for sample in order[first:first + 20]}) == 2
        assert len({sample // 10 for sample in order[first:first + 10]}) == 2
    assert order == orders(dataset, monkeypatch, 1, window=2)[0]
    assert order != orders(dataset, monkeypatch, 1, epoch=1, window=2)[0]
    assert orders(dataset, monkeypatch, 1, shuffle=False)[0] == [*range(80)]
    # Each of four processes reads a window, which is a quarter of the shards.
    assert all(len({sample // 10 for sample in part}) == 2
               for part in orders(dataset, monkeypatch, 4, window=2))


@pytest.mark.parametrize('processes', [1, 2, 3, 4, 5, 8, 64])
def test_what_mmengine_cuts_off_of_shuffled_results_is_what_was_repeated(monkeypatch, processes):
    """It takes them in turn, and as many as there are samples."""
    dataset = Sized(7, 1, 12, 5, 9, 4)
    turns = chain.from_iterable(zip(*orders(dataset, monkeypatch, processes), strict=True))
    assert sorted([*turns][:len(dataset)]) == [*range(len(dataset))]


@pytest.mark.parametrize('processes', [1, 2, 3, 5, 8, 64])
@pytest.mark.parametrize('round_up', [True, False])
def test_results_of_several_processes_are_those_of_one(monkeypatch, processes, round_up):
    dataset = Sized(7, 1, 12, 5, 9, 4)
    found = orders(dataset, monkeypatch, processes, shuffle=False, round_up=round_up)
    # As collect_results of MMEngine: one of each process in turn, without what is past the end.
    turns = chain.from_iterable(zip_longest(*found))
    collected = [sample for sample in turns if sample is not None]
    assert collected[:len(dataset)] == [*range(len(dataset))]
    for rank, order in enumerate(found):
        monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (rank, processes))  # noqa: B023
        theirs = DefaultSampler(dataset, shuffle=False, seed=1, round_up=round_up)
        assert order == [*theirs]
