"""Loading single images: reproducible in any worker, named when bad, skipped when asked."""
import logging
import re
from itertools import repeat
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset, ConcatDataset, DefaultSampler, RepeatDataset
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from mmpretrain.datasets import KFoldDataset
from mmpretrain.datasets.samplers import RepeatAugSampler
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader

from mmeffnet.engine import cli, samples
from mmeffnet.engine.samples import SampleError, SamplePipeline, Skips, parts


class Draws(BaseDataset):
    """Ten samples, each of which is what the generators of its worker give."""

    def load_data_list(self):
        return [dict(img_path=f'{i}.png') for i in range(10)]


def draw(data):
    return torch.tensor([np.random.rand(), torch.rand(()).item(), data['sample_idx']])


def batches(epoch, workers, seed=(5, 0)):
    dataset = Draws(pipeline=[draw])
    samples.guard(dataset, seed=list(seed), epoch=torch.tensor(epoch))
    return torch.cat(list(DataLoader(dataset, batch_size=3, num_workers=workers)))


def test_draws_follow_from_seed_epoch_and_sample_alone():
    first = batches(0, workers=0)
    assert torch.equal(first, batches(0, workers=2))
    for other in (batches(1, 0), batches(0, 0, seed=(6, 0)), batches(0, 0, seed=(5, 1))):
        assert not (first[:, :2] == other[:, :2]).any()
    assert len(first[:, 0].unique()) == len(first)


def test_loading_in_the_main_process_does_not_change_what_training_draws():
    dataset = Draws(pipeline=[draw])
    samples.guard(dataset, seed=[5, 0], epoch=torch.tensor(0))
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    dataset[0]
    assert torch.equal(torch.rand(3), expected)


def test_without_epochs_draws_follow_from_the_iteration_where_there_are_no_workers():
    hook, runner = by_iterations(at=4)
    dataset = runner.train_dataloader.dataset
    fourth = dataset[3]
    hook.after_train_iter(runner, 0)
    fifth = dataset[3]
    assert not (fourth == fifth)[:2].any()
    _, later = by_iterations(at=5)  # another run goes on there
    assert torch.equal(fifth, later.train_dataloader.dataset[3])
    _, loaded = by_iterations(at=4, workers=1)
    assert loaded.train_dataloader.dataset.pipeline.seed is None


def by_iterations(at, dataset=None, workers=0, batch=()):
    """A hook and its runner, which goes on after so many iterations with one batch each time."""
    dataset = dataset or Draws(pipeline=[draw])
    loop = IterBasedTrainLoop.__new__(IterBasedTrainLoop)
    loop.dataloader_iterator = (
        torch.stack([dataset[i] for i in indices]) for indices in repeat(batch))
    runner = SimpleNamespace(train_loop=loop, iter=at, seed=5, train_dataloader=SimpleNamespace(
        dataset=dataset, num_workers=workers))
    hook = samples.SamplesHook()
    hook.before_train_epoch(runner)
    return hook, runner


def test_a_sample_that_comes_again_in_a_batch_draws_anew():
    def begin(at):
        two = ConcatDataset([Draws(pipeline=[draw]) for _ in range(2)])
        # 13 is the fourth of the second data set.
        hook, runner = by_iterations(at, two, batch=[3, 13, 3, 4, 3, 13])
        return hook, runner, runner.train_loop

    hook, runner, loop = begin(4)
    fourth = next(loop.dataloader_iterator)
    hook.after_train_iter(runner, 0)
    fifth = next(loop.dataloader_iterator)
    assert len(torch.cat([fourth, fifth])[:, 0].unique()) == 12
    _, _, resumed = begin(5)
    for _ in range(5):  # what is passed over may be loaded
        next(resumed.dataloader_iterator)
    assert torch.equal(fifth, next(resumed.dataloader_iterator))
    # What comes first draws what it draws by epochs, where nothing is counted.
    assert torch.equal(fourth[0], batches(4, workers=0)[3])


def test_samples_by_epoch_draw_the_same_however_often_they_come():
    dataset = Draws(pipeline=[draw])
    samples.guard(dataset, seed=[5, 0], epoch=torch.tensor(0))
    assert torch.equal(dataset[3], dataset[3])


@pytest.mark.parametrize('by_shape', [False, True])
@pytest.mark.parametrize(('sampler', 'once'), [(DefaultSampler, True), (RepeatAugSampler, False)])
def test_a_sampler_that_repeats_samples_has_each_draw_anew(sampler, once, by_shape):
    dataset = Draws(pipeline=[draw])
    sampler = sampler(dataset, seed=0)
    # mmdet's batches of like shapes are made by a sampler of batches.
    loader = DataLoader(dataset, batch_sampler=BatchSampler(sampler, 5, False)) if by_shape else \
        DataLoader(dataset, batch_size=5, sampler=sampler)
    samples.SamplesHook().before_train_epoch(SimpleNamespace(
        train_loop=EpochBasedTrainLoop.__new__(EpochBasedTrainLoop), epoch=0, seed=5,
        train_dataloader=loader))
    drawn = torch.cat([*loader])
    assert (len(drawn[:, 2].unique()) == len(drawn)) == once
    assert len(drawn[:, 0].unique()) == len(drawn)
    assert (dataset.pipeline.seed == [5, 0]) == once


def test_samples_without_an_index_draw_from_the_state_that_there_is():
    pipeline = SamplePipeline(lambda data: torch.rand(2), seed=[5, 0], epoch=torch.tensor(0))
    torch.manual_seed(1)
    expected = torch.rand(2, 2)
    torch.manual_seed(1)
    assert torch.equal(torch.stack([pipeline({}), pipeline({})]), expected)


def test_samples_that_occur_more_than_once_in_an_epoch_are_known():
    plain, other = Draws(pipeline=[draw]), Draws(pipeline=[draw])
    assert list(parts(plain)) == [(plain, True)]
    assert list(parts(ConcatDataset([plain, other]))) == [(plain, True), (other, True)]
    assert list(parts(RepeatDataset(plain, 2))) == [(plain, False)]
    fold = KFoldDataset(dict(type=Draws, pipeline=[draw]), num_splits=5)
    assert list(parts(fold)) == [(fold.dataset, True)]
    fold.dataset = RepeatDataset(plain, 2)
    assert list(parts(fold)) == [(plain, False)]


def bad(data):
    raise OSError('image file is truncated\n')


def test_a_bad_image_is_named_with_both_ways_out():
    with pytest.raises(SampleError, match="^image 'x.png' cannot be loaded: OSError: image file is "
                       'truncated. Look through the data with tools/check_data.py and repair it, '
                       'or leave up to N such images out with '
                       'default_hooks.samples.max_skips=N$'):
        SamplePipeline(bad)(dict(img_path='x.png', sample_idx=3, gt_label=0))
    with pytest.raises(SampleError, match='^sample 3 cannot be loaded'):
        SamplePipeline(bad)(dict(sample_idx=3))


@pytest.mark.parametrize('stage', ['val', 'test'])
def test_a_bad_image_that_is_measured_is_not_to_be_left_out(stage):
    dataset = Draws(pipeline=[bad])
    getattr(samples.SamplesHook(max_skips=3), f'before_{stage}_epoch')(SimpleNamespace(
        **{f'{stage}_dataloader': SimpleNamespace(dataset=dataset)}))
    with pytest.raises(SampleError, match='Repair it: only the training leaves images out$'):
        dataset[3]


@pytest.mark.parametrize(('data', 'way'), [
    (dict(img_path='x.png', gt_label=0), 'Look through the data with tools/check_data.py and '
     'repair it, or leave up to N such images out with default_hooks.samples.max_skips=N'),
    # Detectors' and segmenters' data, and what is decoded already, are nothing for that tool.
    *((data, 'Repair it, or leave up to N such images out with default_hooks.samples.max_skips=N')
      for data in (dict(img_path='x.png'), dict(gt_label=0),
                   dict(img_path='part-00000.bin: cat/0.png', gt_label=0, img=np.zeros(3)))),
    # Leaving its pictures out would hide a shard of other pictures.
    (dict(img_path='shard:///data/shards/part-00000.tar?512+99#cat/0.png', gt_label=0),
     'Compare the archive: tools/make_shards.py --check /data/shards'),
    (dict(img_path='shard:///my data/part-00000.tar?512+99#cat/0.png', gt_label=0),
     "Compare the archive: tools/make_shards.py --check '/my data'")])
def test_a_way_out_is_one_that_the_data_has(data, way):
    with pytest.raises(SampleError) as error:
        SamplePipeline(lambda data: bad(data.clear()))(data)
    assert str(error.value).endswith(f'image file is truncated. {way}')


@pytest.mark.parametrize(('empty', 'words'), [
    ('0.jpg', "0.jpg' with map '{}0.png' cannot be loaded: the file is empty."),
    ('0.png', "cannot be loaded: the map's file is empty.")])
def test_an_empty_file_is_said_to_be_empty(empty, words, tmp_path):
    for name in ('0.jpg', '0.png'):
        (tmp_path / name).write_bytes(b'' if name == empty else b'some')
    with pytest.raises(SampleError, match=re.escape(words.format(f'{tmp_path}/'))):
        SamplePipeline(bad)(dict(img_path=str(tmp_path / '0.jpg'),
                                 seg_map_path=str(tmp_path / '0.png')))


def test_skips_are_bounded_over_all_workers():
    skips = Skips(2)
    pipeline = SamplePipeline(bad, skips=skips)
    assert pipeline(dict(img_path='1.png')) is None
    assert pipeline(dict(img_path='2.png')) is None
    with pytest.raises(SampleError, match=r"'3.png' cannot be loaded: .*; max_skips=2 others were "
                       'left out before'):
        pipeline(dict(img_path='3.png'))
    assert [(number, line.partition(' cannot')[0]) for number, line in skips.lines()] == [
        (i, f"image '{i}.png'") for i in (1, 2, 3)]
    assert skips.count == 3


def test_an_image_that_is_left_out_in_each_epoch_counts_once_and_when_resumed_too():
    hook, loop = samples.SamplesHook(max_skips=2), object.__new__(EpochBasedTrainLoop)
    dataset = Draws(pipeline=[lambda data: bad(data) if data['sample_idx'] in (1, 3) else 1])
    loader = SimpleNamespace(dataset=dataset, batch_sampler=None, sampler=None)
    runner = SimpleNamespace(train_loop=loop, epoch=0, train_dataloader=loader, _resume=True)
    hook.before_train_epoch(runner)
    for _ in range(3):
        assert [dataset.pipeline(dict(sample_idx=i)) for i in range(4)] == [1, None, 1, None]
    checkpoint = {}
    hook.before_save_checkpoint(runner, checkpoint)
    assert checkpoint == dict(samples=dict(skipped=2, left_out=[(10, [1, 3])]))

    resumed, dataset.pipeline = samples.SamplesHook(max_skips=2), bad
    resumed.after_load_checkpoint(runner, checkpoint)
    resumed.before_train_epoch(runner)
    assert dataset.pipeline(dict(sample_idx=3)) is None
    with pytest.raises(SampleError, match='sample 2 .*; max_skips=2 others were left out before'):
        dataset.pipeline(dict(sample_idx=2))

    # Of a data set that has become another the same numbers are other images.
    smaller, loader.dataset = samples.SamplesHook(max_skips=3), Draws(pipeline=[bad], indices=3)
    smaller.after_load_checkpoint(runner, checkpoint)
    smaller.before_train_epoch(runner)
    assert loader.dataset.pipeline(dict(sample_idx=1)) is None
    assert smaller._skips.count == 3


@pytest.mark.parametrize(('rank', 'level', 'line'), [
    (0, logging.WARNING, 'Left out, 1 of'), (3, logging.ERROR, 'Process 3: Left out, 1 of')])
def test_every_process_names_what_it_leaves_out(rank, level, line, monkeypatch):
    """The loggers of MMEngine pass on errors alone elsewhere than in the first."""
    said = []
    monkeypatch.setattr(samples, 'get_rank', lambda: rank)
    monkeypatch.setattr(samples, 'print_log', lambda line, _, level: said.append((line, level)))
    hook = samples.SamplesHook(max_skips=2)
    hook._skips.take('an image')
    loader = SimpleNamespace(dataset=Draws())
    hook.after_train_iter(SimpleNamespace(train_dataloader=loader), 0)
    assert said == [(f'{line} at most 2 so far: an image', level)]


@pytest.fixture
def folder(tmp_path):
    """Two classes of sixteen small pictures, and the lines that train on them."""
    for split, count in (('train', 16), ('val', 4)):
        for name in ('cat', 'dog'):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(np.full((20, 20, 3), 16 * i + (name == 'dog'), np.uint8)).save(
                    tmp_path / split / name / f'{i}.png')
    loader = ("{0}_dataloader = dict(batch_size=8, num_workers={1}, persistent_workers={2}, "
              "dataset=dict(_delete_=True, type='CustomDataset', data_root='{0}', "
              "pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(16, 16)), "
              "dict(type='PackInputs')]))")
    return [loader.format('train', 2, True), loader.format('val', 0, False),
            'model = dict(head=dict(num_classes=2))', 'data_preprocessor = dict(num_classes=2)',
            "val_evaluator = dict(topk=(1, ))", 'test_evaluator = val_evaluator',
            'train_cfg = dict(max_epochs=2)', "custom_imports = dict(imports=['vanish'])",
            "custom_hooks = [dict(type='Vanish')]"]


@pytest.fixture
def vanish(tmp_path, monkeypatch):
    """A hook that removes pictures before the second epoch, as ``vanish(names)``."""
    from mmengine.hooks import Hook
    from mmengine.registry import HOOKS

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / 'vanish.py').write_text('')

    def define(*names):
        class Vanish(Hook):
            def after_train_epoch(self, runner):
                for name in names if runner.epoch == 0 else ():
                    (tmp_path / 'train' / name).unlink()
        HOOKS.register_module(name='Vanish', module=Vanish)

    yield define
    HOOKS._module_dict.pop('Vanish', None)


def test_a_file_that_vanishes_is_named_and_ends_the_run(folder, vanish, tiny_config, fails):
    vanish('cat/3.png')
    line = fails(cli.train_parser, tiny_config(*folder), '--work-dir', 'out', code=1)
    assert line.startswith("error: image 'train/cat/3.png' cannot be loaded: [Errno 2] No such "
                           "file or directory: 'train/cat/3.png'. Look through the data with ")


@pytest.mark.slow
def test_files_that_vanish_are_left_out_when_asked_and_counted(folder, vanish, tiny_config,
                                                               tmp_path, monkeypatch, capsys):
    from mmeffnet.engine import run
    monkeypatch.chdir(tmp_path)
    vanish('cat/3.png', 'dog/7.png')
    run.train(cli.parse(cli.train_parser(), [
        tiny_config(*folder, 'default_hooks = dict(samples=dict(max_skips=5))'),
        '--work-dir', 'out']))
    named = re.findall("Left out, (.) of at most 5 so far: image '(.*?)'", capsys.readouterr().out)
    assert [count for count, _ in named] == ['1', '2']
    assert {name for _, name in named} == {'train/cat/3.png', 'train/dog/7.png'}
    assert (tmp_path / 'out/epoch_2.pth').exists()
