"""The digits: real, complete, and split the same way every time."""
import numpy as np
import pytest
from mmengine.registry import DATASETS
from sklearn.datasets import load_digits

from mmeffnet.datasets import Digits


def build(split, **options):
    return DATASETS.build(dict(type='mmeffnet.Digits', split=split, **options))


def test_the_two_splits_share_all_digits_between_them():
    train, test = build('train'), build('test')
    assert (len(train), len(test)) == (1437, 360)
    seen = [data['source_index'] for split in (train, test) for data in split]
    assert sorted(seen) == sorted(set(seen)) == list(range(1797))


def test_pictures_and_labels_are_those_of_scikit_learn():
    source = load_digits()
    for data in (build('test')[0], build('train')[7]):
        index = data['source_index']
        assert data['img'].shape == (8, 8, 3)
        assert data['img'].dtype == np.uint8
        np.testing.assert_allclose(data['img'][..., 1] / 255 * 16, source.images[index], atol=0.04)
        assert data['gt_label'] == source.target[index]


def test_every_digit_has_the_same_share_of_the_test():
    source = load_digits().target
    found = np.bincount([d['gt_label'] for d in build('test')], minlength=10)
    np.testing.assert_allclose(found, np.bincount(source) / 5, atol=1)


def test_the_split_is_fixed_and_indices_choose_from_it():
    first = [d['source_index'] for d in build('test', indices=5)]
    assert first == [d['source_index'] for d in build('test')][:5]
    assert build('test').metainfo['classes'] == tuple('0123456789')


def test_another_split_is_refused():
    with pytest.raises(ValueError, match="split='val' must be 'train' or 'test'"):
        Digits(split='val')
