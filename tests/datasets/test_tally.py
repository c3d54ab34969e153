"""A tally that processes share, however they are started."""
import copy
import multiprocessing
import pickle

import pytest

from mmeffnet.datasets.tally import Tally
from mmeffnet.engine.samples import Skips


def count(tally):
    tally.add('from a worker')


@pytest.mark.parametrize('context', ['fork', 'spawn', 'forkserver'])
def test_workers_of_every_kind_count_together(context):
    tally = Skips(3)
    tally.add('from here')
    worker = multiprocessing.get_context(context).Process(target=count, args=(tally,))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert tally.count == 2
    assert [*tally.lines()] == [(1, 'from here'), (2, 'from a worker')]


@pytest.mark.parametrize('copied', [copy.copy, copy.deepcopy])
def test_a_copy_is_the_same_tally(copied):
    tally = Tally()
    copied(tally).add('through a copy')
    assert tally.count == 1


def test_a_pickled_tally_counts_by_itself():
    tally = Skips(3)
    tally.add('before')
    other = pickle.loads(pickle.dumps(tally))
    other.add('there')
    assert (other.most, other.count, tally.count) == (3, 1, 1)
    assert [*other.lines()] == [(1, 'there')]
