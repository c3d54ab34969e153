"""Which checkpoints a run removes: old ones of its own, and nothing else."""
import shutil

import pytest
import torch
from line_runs import Accident, kill, start

from mmeffnet.engine.saving import newest_checkpoint


def files(folder):
    return sorted(path.name for path in folder.glob('*.pth'))


def info(path):
    return torch.load(path, weights_only=True)['message_hub']['runtime_info']


def test_a_checkpoint_that_has_the_name_of_the_old_one_is_kept(tmp_path):
    hook = dict(filename_tmpl='latest.pth', max_keep_ckpts=1, save_best=None)
    # No validation has it written once more.
    start(tmp_path, hook=hook, val_dataloader=None, val_cfg=None, val_evaluator=None)
    assert files(tmp_path) == ['latest.pth']
    assert torch.load(tmp_path / 'latest.pth', weights_only=True)['meta']['iter'] == 16


def test_fewer_checkpoints_of_one_name_are_still_one(tmp_path):
    hook = dict(filename_tmpl='latest.pth', max_keep_ckpts=3, save_best=None)
    start(tmp_path, accident=Accident(13, kill, 'before_train_iter'), hook=hook)
    began = []
    start(tmp_path, accident=Accident(12, lambda: began.extend(files(tmp_path)),
                                      'before_train_iter'),
          load_from=str(tmp_path / 'latest.pth'), hook={**hook, 'max_keep_ckpts': 1})
    assert began == files(tmp_path) == ['latest.pth']


def test_a_best_checkpoint_of_an_epoch_that_never_ends_is_kept(tmp_path):
    """A loop by iterations has no epochs but the first."""
    start(tmp_path, 'iterations', hook=dict(by_epoch=True))
    assert files(tmp_path) == ['best_score_epoch_0.pth', 'epoch_1.pth']


SCORES = dict(one=dict(), several=dict(save_best=['score', 'again'], rule='greater'))


@pytest.mark.parametrize('hook', SCORES.values(), ids=SCORES)
def test_a_run_that_goes_on_elsewhere_leaves_the_best_of_the_first_one(hook, tmp_path):
    first, other = tmp_path / 'first', tmp_path / 'other'
    # The best of all is after the second epoch.
    start(first, accident=Accident(5, kill, 'before_train_iter'), hook=hook)
    before = files(first)
    best = [name for name in before if name.startswith('best')]
    assert len(best) == 1 + (hook != {})
    start(other, load_from=str(first / 'epoch_1.pth'), hook=hook)
    assert files(first) == before
    assert f'{best[0].removesuffix("1.pth")}2.pth' in files(other)
    assert {path for key, path in info(newest_checkpoint(other)).items()
            if key.startswith('best_ckpt')} == {
        str(path) for path in other.glob('best_*')}


@pytest.mark.parametrize('several', SCORES.values(), ids=SCORES)
def test_a_best_checkpoint_that_is_elsewhere_is_not_published(several, tmp_path):
    """Nothing after the second epoch is better."""
    hook = dict(several, published_keys=['meta', 'state_dict'])
    start(tmp_path / 'first', accident=Accident(9, kill, 'before_train_iter'), hook=hook)
    before = files(tmp_path / 'first')
    start(tmp_path / 'other', load_from=str(tmp_path / 'first/epoch_2.pth'), hook=hook)
    assert files(tmp_path / 'first') == before
    published, = (tmp_path / 'other').glob('*-????????.pth')
    assert files(tmp_path / 'other') == ['epoch_3.pth', published.name, 'epoch_4.pth']
    content = torch.load(published, weights_only=True)
    assert content.keys() == {'meta', 'state_dict'}
    assert content['meta']['iter'] == 16


def test_what_is_the_best_elsewhere_is_none_of_this_run(tmp_path):
    """Nothing after the second epoch is better."""
    start(tmp_path / 'first', accident=Accident(9, kill, 'before_train_iter'))
    start(tmp_path / 'other', load_from=str(tmp_path / 'first/epoch_2.pth'))
    assert info(tmp_path / 'other/epoch_4.pth')['best_ckpt'] is None
    assert (tmp_path / 'first/best_score_epoch_2.pth').exists()


def test_a_copied_folder_has_its_own_best_checkpoint(tmp_path):
    first, copy = tmp_path / 'first', tmp_path / 'copy'
    start(first, accident=Accident(5, kill, 'before_train_iter'))
    shutil.copytree(first, copy)
    start(copy, load_from=str(copy / 'epoch_1.pth'))
    assert (first / 'best_score_epoch_1.pth').exists()
    assert [name for name in files(copy) if name.startswith('best')] == ['best_score_epoch_2.pth']
