"""Runs that go on: the validation that was owed, and what of another config is not used."""
from types import SimpleNamespace

import pytest
import torch
from line_runs import LOOPS, Accident, kill, same, seen, start, terminate
from mmengine.dataset import BaseDataset
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import DATASETS
from mmengine.runner import Runner, loops
from mmengine.runner.utils import calc_dynamic_intervals

from mmeffnet.engine import loop
from mmeffnet.engine import recipe as recipes
from mmeffnet.engine.accumulation import waiting
from mmeffnet.engine.history import read_run
from mmeffnet.engine.recipe import _comparable, differences, recipe
from mmeffnet.engine.saving import newest_checkpoint
from mmeffnet.engine.state import validation_due


def validations(folder):
    return [step for step, _ in seen(folder)[0]]


@pytest.fixture(scope='module', params=LOOPS)
def whole(request, tmp_path_factory):
    """The kind of a run, its folder, and what it leaves when nothing happens to it."""
    folder = tmp_path_factory.mktemp('whole')
    start(folder, request.param)
    return request.param, folder, seen(folder)


@pytest.mark.parametrize('at', [8, 16])
@pytest.mark.parametrize('happen', [kill, terminate])
def test_a_validation_that_was_cut_off_is_made_before_the_run_goes_on(happen, at, whole, tmp_path):
    kind, _, expected = whole
    assert expected[2] in ('best_score_epoch_2.pth', 'best_score_iter_8.pth')
    start(tmp_path, kind, Accident(at, happen))
    stopped = newest_checkpoint(tmp_path)
    assert torch.load(stopped, weights_only=True)['validation_due']
    start(tmp_path, kind, load_from=str(stopped))
    assert same(seen(tmp_path), expected)
    curve = read_run(tmp_path).curves['score']
    assert curve == {step * 4 if kind == 'epochs' else step: score for step, score in expected[0]}


def test_a_step_that_sigterm_ended_owes_its_validation(whole, tmp_path):
    kind, _, expected = whole
    start(tmp_path, kind, Accident(8, terminate, 'after_train_iter'))
    assert validations(tmp_path) in ([1], [4])
    start(tmp_path, kind, load_from=str(newest_checkpoint(tmp_path)))
    assert same(seen(tmp_path), expected)


def test_an_epoch_goes_on_at_its_place_or_starts_anew_where_it_has_other_batches(tmp_path,
                                                                                 monkeypatch):
    class Places(Hook):
        def after_train_iter(self, runner, batch_idx, **_):
            places.append(batch_idx)

    places, lines = [], []
    start(tmp_path, accident=Accident(6, terminate, 'after_train_iter'))
    stopped = str(newest_checkpoint(tmp_path))
    assert torch.load(stopped, weights_only=True)['within_epoch'] == dict(done=2, of=4)
    start(tmp_path / 'on', accident=Places(), load_from=stopped)
    assert places == [2, 3, *range(4), *range(4)]
    monkeypatch.setattr(loop, 'print_log', lambda line, *_, **__: lines.append(line))
    start(tmp_path / 'anew', load_from=stopped, train_dataloader={**SMALL, 'batch_size': 1})
    assert lines == ['The epoch had 4 batches when it was saved and has 8 now: it starts anew']
    last = torch.load(newest_checkpoint(tmp_path / 'anew'), weights_only=True)
    assert last['meta']['iter'] == 6 + 3 * 8


def test_a_validation_that_was_made_late_is_not_made_again(whole, tmp_path):
    kind, _, _ = whole
    start(tmp_path, kind, Accident(8, kill))
    for at in (9, 16):  # killed in the next step, then not any more
        start(tmp_path, kind, Accident(at, kill, 'before_train_iter'),
              load_from=str(newest_checkpoint(tmp_path)))
    assert validations(tmp_path) == ([1, 2, 3, 4] if kind == 'epochs' else [4, 8, 12, 16])


def test_a_run_that_is_over_validates_nothing_when_it_is_resumed(whole, tmp_path):
    kind, folder, expected = whole
    start(tmp_path, kind, load_from=str(newest_checkpoint(folder)))
    assert not list(tmp_path.glob('*/vis_data/scalars.json'))
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.parametrize('patience', [2, 3])
def test_a_run_is_stopped_where_the_undisturbed_one_is(patience, tmp_path):
    def run(name, epochs, load_from=None):
        hook = EarlyStoppingHook('score', 'greater', 9., patience=patience)
        start(tmp_path / name, 'epochs', hook, load_from, param_scheduler=None,
              train_cfg=dict(type='mmeffnet.EpochBasedTrainLoop', max_epochs=epochs))
        return newest_checkpoint(tmp_path / name)
    run('whole', 6)
    first = run('part', 2)
    last = run('part', 6, str(first))
    assert validations(tmp_path / 'part') == list(range(1, 2 + patience))
    assert same(seen(tmp_path / 'part')[1:], seen(tmp_path / 'whole')[1:])
    assert run('part', 6, str(last)) == last  # nothing more is trained


class Late(EarlyStoppingHook):
    """Judges nothing before the fourth validation."""

    def after_val_epoch(self, runner, metrics):
        if runner.epoch > 3:
            super().after_val_epoch(runner, metrics)


def test_a_hook_that_judges_otherwise_is_left_alone(tmp_path):
    for epochs, load_from in ((3, False), (5, True)):
        last = newest_checkpoint(tmp_path) if load_from else None
        start(tmp_path, 'epochs', Late('score', 'greater', 9., patience=2), load_from=last and
              str(last), param_scheduler=None,
              train_cfg=dict(type='mmeffnet.EpochBasedTrainLoop', max_epochs=epochs))
    assert validations(tmp_path) == [1, 2, 3, 4, 5]


def noisy(data):
    return dict(inputs=torch.tensor(data['inputs']) + torch.rand(()) / 100)


@DATASETS.register_module()
class NoisyPoints(BaseDataset):
    """The points as pictures are with random transforms."""

    def __init__(self):
        super().__init__(pipeline=[noisy])

    def load_data_list(self):
        return [dict(inputs=n / 8) for n in range(8)]


@pytest.mark.parametrize('sampler', ['InfiniteSampler', 'DefaultSampler'])
def test_a_run_by_iterations_goes_on_with_what_it_would_have_drawn(sampler, tmp_path, monkeypatch):
    monkeypatch.setattr(loops.time, 'sleep', lambda _: None)  # MMEngine waits after each pass
    data = dict(batch_size=2, num_workers=0, collate_fn=dict(type='default_collate'),
                sampler=dict(type=sampler), dataset=dict(type='NoisyPoints'))
    for folder, accident in (('whole', None), ('parts', Accident(10, kill, 'before_train_iter'))):
        start(tmp_path / folder, 'iterations', accident, train_dataloader=data)
    stopped = newest_checkpoint(tmp_path / 'parts')
    assert stopped.name == 'iter_8.pth'
    start(tmp_path / 'parts', 'iterations', load_from=str(stopped), train_dataloader=data)
    assert same(seen(tmp_path / 'parts'), seen(tmp_path / 'whole'))


@pytest.mark.parametrize(('old', 'changes'), [
    (False, dict(val_dataloader=None, val_cfg=None, val_evaluator=None)), (True, {})])
def test_without_validation_or_record_none_is_made(old, changes, whole, tmp_path):
    kind, _, _ = whole
    start(tmp_path, kind, Accident(16, kill))
    path = newest_checkpoint(tmp_path)
    if old:
        content = torch.load(path, weights_only=True)
        del content['validation_due']
        torch.save(content, path)
    start(tmp_path / 'on', kind, load_from=str(path), **changes)
    assert not list(tmp_path.glob('on/*/vis_data/scalars.json'))


@pytest.mark.parametrize(('loop', 'due'), [
    (dict(), [1, 2, 3, 4, 5]), (dict(val_begin=3), [3, 4, 5]), (dict(val_interval=2), [2, 4, 5]),
    (dict(val_interval=3, dynamic_intervals=[(4, 1)]), [3, 4, 5]),
    (dict(val_interval=3, dynamic_intervals=[(3, 1)]), [2, 3, 4, 5]), (dict(val_cfg=None), [])])
def test_what_is_due_is_what_the_loop_does(loop, due):
    runner = SimpleNamespace(val_loop=loop.pop('val_cfg', 'one'))
    loop = dict(val_begin=1, val_interval=1, dynamic_intervals=None) | loop
    milestones, intervals = calc_dynamic_intervals(loop['val_interval'], loop['dynamic_intervals'])
    runner.train_loop = SimpleNamespace(val_begin=loop['val_begin'], dynamic_milestones=milestones,
                                        dynamic_intervals=intervals)
    assert [done for done in range(1, 6) if validation_due(runner, done, 5)] == due


FIRST = dict(train_cfg=dict(type='mmeffnet.EpochBasedTrainLoop', max_epochs=2))
SGD = dict(type='SGD', lr=0.05, momentum=0.9)
COSINE = dict(type='CosineAnnealingLR', convert_to_iter_based=True)
SMALL = dict(batch_size=4, dataset=[dict(inputs=torch.tensor(n / 8)) for n in range(8)],
             num_workers=0, collate_fn=dict(type='default_collate'),
             sampler=dict(type='DefaultSampler'))
UNUSED = '{} of the config is not used: --resume goes on with {} of the checkpoint; for a training'


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """The last checkpoint of two epochs on a falling cosine, and of two on stairs."""
    folder = tmp_path_factory.mktemp('finished')
    start(folder / 'cosine', **FIRST, param_scheduler=COSINE)
    start(folder / 'stairs', **FIRST)
    return {name: str(newest_checkpoint(folder / name)) for name in ('cosine', 'stairs')}


@pytest.fixture
def warned(monkeypatch):
    """The warnings of settings that are not used."""
    lines = []
    monkeypatch.setattr(recipes, 'print_log', lambda line, *_, **level: lines.append(line))
    return lines


@pytest.mark.parametrize(('changes', 'lines'), [
    (dict(), []),
    (dict(optim_wrapper=dict(optimizer=SGD, clip_grad=dict(max_norm=9.))), []),
    (dict(auto_scale_lr=dict(base_batch_size=8)), []),
    (dict(optim_wrapper=dict(optimizer={**SGD, 'lr': 0.1, 'weight_decay': 1e-4})),
     [UNUSED.format('optim_wrapper.optimizer.lr=0.1', '0.05'),
      UNUSED.format('optim_wrapper.optimizer.weight_decay=0.0001', '0')]),
    (dict(optim_wrapper=dict(optimizer={**SGD, 'weight_decay': 0, 'nesterov': False})), []),
    (dict(param_scheduler={**COSINE, 'eta_min': 0.}), []),
    (dict(param_scheduler={**COSINE, 'eta_min': None}), []),
    (dict(param_scheduler={**COSINE, 'eta_min_ratio': 0.1}),
     [UNUSED.format('param_scheduler.0.eta_min_ratio=0.1', 'no value')]),
    (dict(param_scheduler={**COSINE, 'eta_min': 0.01}),
     [UNUSED.format('param_scheduler.0.eta_min=0.01', '0.0')]),
    (dict(param_scheduler=[COSINE, COSINE]), ['param_scheduler=[{']),
    (dict(train_cfg=LOOPS['epochs']),
     ['param_scheduler.0.end of the config, or of train_cfg where it has none, comes to 16 '
      'iterations: --resume goes on with 8 iterations of the checkpoint, after which']),
    (dict(train_dataloader=SMALL),
     ['4 images make a step (processes x batch_size x accumulated batches); learning rate and '
      'schedule stay those of the checkpoint, for 2 ',
      'param_scheduler.0.end of the config, or of train_cfg where it has none, comes to 4 ']),
    (dict(auto_scale_lr=dict(enable=True, base_batch_size=8)), [UNUSED.format(
        "auto_scale_lr={'base_batch_size': 8, 'enable': True}", 'no value')]),
])
def test_each_setting_that_a_resumed_run_does_not_use_is_said(changes, lines, finished, tmp_path,
                                                              warned):
    changes = FIRST | dict(param_scheduler=COSINE) | changes
    start(tmp_path, load_from=finished['cosine'], **changes)
    assert len(warned) == len(lines)
    for text, line in zip(lines, warned, strict=True):
        assert line.startswith(text)
        assert f'--cfg-options load_from={finished["cosine"]} in place of --resume' in line


def test_what_was_overruled_once_is_not_taken_for_what_the_run_has(finished, tmp_path, warned):
    changes = dict(param_scheduler=COSINE, train_cfg={**FIRST['train_cfg'], 'max_epochs': 3})
    faster = dict(optim_wrapper=dict(optimizer={**SGD, 'lr': 0.1}))
    start(tmp_path, load_from=finished['cosine'], **changes, **faster)
    newest = str(newest_checkpoint(tmp_path))
    warned.clear()
    start(tmp_path, load_from=newest, **changes)  # the first rate again, which is the one in use
    assert ['optimizer.lr' in line for line in warned] == [False]  # of the end alone
    warned.clear()
    start(tmp_path, load_from=newest, **changes, **faster)
    assert ['optimizer.lr=0.1' in line for line in warned] == [True, False]


def test_a_checkpoint_without_the_recipe_has_its_config_compared(finished, tmp_path, warned):
    content = torch.load(finished['cosine'], weights_only=True)
    del content['recipe']
    for text, count in ((content['meta']['cfg'], 1), ('model = <object at 0x7f>', 0)):
        warned.clear()
        content['recipe'] = 'of another program'
        content['meta']['cfg'] = text
        torch.save(content, tmp_path / 'old.pth')
        start(tmp_path / 'on', load_from=str(tmp_path / 'old.pth'), **FIRST, param_scheduler=COSINE,
              optim_wrapper=dict(optimizer={**SGD, 'momentum': 0.5}))
        assert len(warned) == count


def test_stairs_go_on_falling_for_more_epochs(finished, tmp_path, warned):
    start(tmp_path, load_from=finished['stairs'])
    assert not warned
    rates = torch.load(newest_checkpoint(tmp_path), weights_only=True)['param_schedulers']
    assert rates[0]['end'] == 16
    assert rates[0]['_last_value'] == [pytest.approx(0.05 * 0.9 ** 3)]  # 0.9 by the old end


def test_nothing_of_a_config_is_executed(tmp_path):
    call = f"open({str(tmp_path / 'x')!r}, 'w')"
    found = recipe(f"param_scheduler = dict(type='A', gamma={call}, end=-1)\n"
                   "optim_wrapper = {'optimizer': {'lr': 1e-3, 'betas': (0.9, 0.99)}}\n")
    assert found['param_scheduler'] == [dict(type='A', gamma=call, end=-1)]
    assert found['optim_wrapper']['optimizer'] == dict(lr=0.001, betas=(0.9, 0.99))
    assert not list(tmp_path.iterdir())


def test_differences_name_the_place():
    assert not [*differences(dict(betas=(0.9, 0.99)), dict(betas=[0.9, 0.99]))]
    assert list(differences(dict(a=[dict(b=1, c=2)], d=[1, 2]), dict(a=[dict(b=1)], d=[1]))) == [
        ('a.0.c', 2, None), ('d', [1, 2], [1])]


SCALED = dict(auto_scale_lr=dict(enable=True, base_batch_size=2))


@pytest.mark.parametrize(('processes', 'batch', 'accumulated', 'images'), [
    (4, 2, 1, 8), (1, 1, 6, 6), (2, 1, 1, None)])
def test_another_number_of_images_in_a_step_is_said_however_it_comes_about(
        processes, batch, accumulated, images, tmp_path, warned, monkeypatch):
    start(tmp_path / 'one', **FIRST, **SCALED)
    assert torch.load(newest_checkpoint(tmp_path / 'one'), weights_only=True)['recipe'][
        'train_dataloader'] == dict(batch_size=2, images_per_step=2)
    monkeypatch.setattr(Runner, 'world_size', processes)
    start(tmp_path / 'on', load_from=str(newest_checkpoint(tmp_path / 'one')), **SCALED,
          train_cfg={**FIRST['train_cfg'], 'max_epochs': 3}, train_dataloader={
              **SMALL, 'batch_size': batch},
          optim_wrapper=dict(optimizer=SGD, accumulative_counts=accumulated))
    said = [line for line in warned if 'images make a step' in line]
    assert len(said) == bool(images)
    assert all(line.startswith(
        f'{images} images make a step (processes x batch_size x accumulated batches); learning '
        'rate and schedule stay those of the checkpoint, for 2 and') for line in said)
    assert all('auto_scale_lr scales nothing here' in line for line in said)
    assert not [line for line in warned if 'batch_size=' in line]
    # And so they do: MMEngine has logged a rate of 0.2 for 8 images.
    optimizer = torch.load(newest_checkpoint(tmp_path / 'on'), weights_only=True)['optimizer']
    assert optimizer['param_groups'][0]['initial_lr'] == 0.05


def test_a_checkpoint_of_before_says_the_batch_size_alone():
    text = "optim_wrapper = dict(optimizer=dict(lr=0.1))\ntrain_dataloader = dict(batch_size={})"
    kept = recipe(text.format(2))
    assert list(_comparable(kept, recipe(text.format(2), 4))) == []
    assert list(_comparable(kept, recipe(text.format(4), 4))) == [
        ('train_dataloader.batch_size', 2, 4)]
    # Of several optimizers each may wait for a number of batches of its own.
    several = recipe('optim_wrapper = dict(a=dict(optimizer=dict()))\n'
                     'train_dataloader = dict(batch_size=2)', 4)
    assert several['train_dataloader'] == dict(batch_size=2)


def test_schedules_that_a_config_adds_are_said_once(finished, tmp_path, warned):
    more = dict(FIRST, param_scheduler=[COSINE, dict(type='LinearLR', end=2)],
                train_cfg={**FIRST['train_cfg'], 'max_epochs': 3})
    start(tmp_path, load_from=finished['cosine'], **more)
    assert sum(line.startswith('param_scheduler=') for line in warned) == 1
    warned.clear()
    start(tmp_path, load_from=str(newest_checkpoint(tmp_path)), **more)
    assert not [line for line in warned if line.startswith('param_scheduler=')]


def test_settings_of_several_optimizers_and_odd_texts_are_compared():
    text = 'optim_wrapper = dict(constructor="C", a=dict(type="W", optimizer=dict(lr={})))\n'
    kept, wanted = (recipe(text.format(lr)) for lr in (0.1, 0.5))
    assert list(differences(kept, wanted)) == [('optim_wrapper.a.optimizer.lr', 0.1, 0.5)]
    assert recipe(text.format('-inf'))['optim_wrapper']['a']['optimizer'] == dict(lr='-inf')
    # One schedule is the same alone and in a list.
    schedules = [recipe(f'param_scheduler = {value}') for value in (
        'dict(type="A", end=1)', '[dict(type="A", end=1)]', 'dict(a=[dict(type="A", end=1)])')]
    assert schedules[0] == schedules[1] != schedules[2]


def test_a_config_that_cannot_be_read_is_not_compared(finished, tmp_path, warned, monkeypatch):
    monkeypatch.setattr(recipes, 'read_config', lambda *_, **__: None)
    start(tmp_path, load_from=finished['cosine'], **FIRST, param_scheduler=COSINE)
    assert not warned


def test_a_checkpoint_of_sigterm_takes_no_other_ones_place(tmp_path):
    six = dict(train_cfg={**FIRST['train_cfg'], 'max_epochs': 6},
               hook=dict(interval=2, max_keep_ckpts=2, save_best=None))
    start(tmp_path, accident=Accident(20, terminate, 'after_train_iter'), **six)
    assert newest_checkpoint(tmp_path).name == 'interrupted.pth'
    start(tmp_path, load_from=str(newest_checkpoint(tmp_path)), **six)
    assert {path.name for path in tmp_path.glob('epoch_*.pth')} == {'epoch_4.pth', 'epoch_6.pth'}


def test_sigterm_in_a_validation_that_was_owed_ends_at_once(tmp_path):
    batches = []
    start(tmp_path, accident=Accident(8, kill))
    count = Accident(8, lambda: batches.append(1) or terminate())
    start(tmp_path, accident=count, load_from=str(newest_checkpoint(tmp_path)))
    assert len(batches) == 1


def test_a_run_with_one_cycle_is_saved_and_goes_on(tmp_path):
    """Its state has a function in it."""
    changes = dict(param_scheduler=dict(type='OneCycleLR', eta_max=0.1, total_steps=16,
                                        by_epoch=False))
    start(tmp_path / 'whole', **changes)
    start(tmp_path / 'parts', accident=Accident(8, kill), **changes)
    start(tmp_path / 'parts', load_from=str(newest_checkpoint(tmp_path / 'parts')), **changes)
    assert same(seen(tmp_path / 'parts'), seen(tmp_path / 'whole'))


def test_several_optimizers_wait_while_one_of_them_does():
    wrappers = [OptimWrapper(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.1),
                             accumulative_counts=count) for count in (1, 2)]
    both = OptimWrapperDict(a=wrappers[0], b=wrappers[1])
    assert not waiting(both)
    for wrapper in wrappers:
        wrapper._inner_count = 1
    assert waiting(both)
