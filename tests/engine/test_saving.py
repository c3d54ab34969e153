"""Checkpoints on the disk: whole, found again, and one run for each folder."""
import errno

import pytest
import torch
from filelock import FileLock
from line_runs import start
from mmengine.hooks import Hook, checkpoint_hook
from small_files import small_files

from mmeffnet.engine import cli, saving
from mmeffnet.errors import InputError, RunError
from mmeffnet.files import whole


def checkpoint(folder, iteration, name=None, begun='20260102_030405', **more):
    path = folder / (name or f'iter_{iteration}.pth')
    torch.save(dict(state_dict=dict(w=torch.rand(1000)),
                    meta=dict(iter=iteration, experiment_name=f'config_{begun}'),
                    optimizer={}, **more), path)
    return path


def test_the_newest_has_the_most_iterations_whatever_its_name(tmp_path):
    checkpoint(tmp_path, 90, 'epoch_9.pth')
    newest = checkpoint(tmp_path, 100, 'interrupted.pth')
    checkpoint(tmp_path, 20, 'iter_20.pth')
    torch.save(dict(state_dict={}, meta=dict(iter=200)), tmp_path / 'best.pth')
    assert saving.newest_checkpoint(tmp_path) == newest


def test_a_run_that_began_anew_is_not_taken_for_the_one_before(tmp_path):
    newest = checkpoint(tmp_path, 12, 'interrupted.pth', '20260102_040000')
    checkpoint(tmp_path, 8, 'epoch_1.pth', '20260102_040000')
    checkpoint(tmp_path, 24, 'epoch_3.pth')  # copied, perhaps, after the other
    assert saving.newest_checkpoint(tmp_path) == newest


def test_nothing_is_found_where_nothing_is(tmp_path):
    assert saving.newest_checkpoint(tmp_path) is None
    assert saving.newest_checkpoint(tmp_path / 'none') is None


@pytest.mark.parametrize('damage', [
    lambda content: b'', lambda content: content[:-200], lambda content: content[:100],
    lambda content: content.replace(content[2000:2004], b'oops')])
def test_damaged_files_are_passed_over_and_named(damage, tmp_path, said):
    good = checkpoint(tmp_path, 1)
    torn = checkpoint(tmp_path, 2)
    torn.write_bytes(damage(torn.read_bytes()))
    assert saving.newest_checkpoint(tmp_path) == good
    assert [line for line in said if line.startswith(f'{torn} cannot be resumed: ')]


@pytest.mark.parametrize('meta', [{}, dict(meta=None), dict(meta=dict(epoch=3)), dict(meta='a')])
def test_checkpoints_of_other_trainers_are_passed_over_and_named(meta, tmp_path, said):
    good, theirs = checkpoint(tmp_path, 1), tmp_path / 'theirs.pth'
    torch.save(dict(model={}, optimizer={}, epoch=3, **meta), theirs)
    assert saving.newest_checkpoint(tmp_path) == good
    assert said == [f'{theirs} cannot be resumed: it has no meta.iter, as the checkpoints of '
                    'MMEngine have']


class Code:
    def __reduce__(self):
        return print, ('executed', )


def test_a_pickle_with_code_is_passed_over_and_not_executed(tmp_path, said, capsys):
    checkpoint(tmp_path, 2, code=Code())
    assert saving.newest_checkpoint(tmp_path) is None
    assert 'cannot be resumed' in said[-1]
    assert 'executed' not in capsys.readouterr().out


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_the_way_out(tmp_path):
    old = checkpoint(tmp_path, 1)
    content = old.read_bytes()
    for path in (old, tmp_path / 'iter_2.pth'):
        with small_files(), pytest.raises(
                RunError, match=r"'.*' \(0.1 MiB\) could not be written: File too large. "
                                "'.*/iter_1.pth' is whole: make room, then go on with --resume"):
            saving.WholeFilesBackend().put(bytes(100_000), path)
    assert old.read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ['iter_1.pth']


class Full:
    """A file that is emptied, and then there is no room for a letter."""

    def __init__(self, path, mode):
        with open(path, mode):
            pass

    def __enter__(self):
        raise OSError(errno.ENOSPC, 'No space left on device')

    def __exit__(self, *_):
        pass


@pytest.mark.parametrize('before', [['epoch_1.pth'], []], ids=['one more', 'the first'])
def test_the_name_of_the_last_checkpoint_stays_where_a_new_one_finds_no_room(
        before, tmp_path, monkeypatch):
    if before:
        start(tmp_path, train_cfg=dict(type='mmeffnet.EpochBasedTrainLoop', max_epochs=1))
    monkeypatch.setattr(checkpoint_hook, 'open', Full, raising=False)
    new = tmp_path / f'epoch_{len(before) + 1}.pth'
    with pytest.raises(RunError, match=f"last_checkpoint' could not be written: No space left on "
                                       f"device. '{new}' is whole: make room"):
        start(tmp_path, load_from=str(tmp_path / before[0]) if before else None)
    assert [path.read_text() for path in tmp_path.glob('last_checkpoint')] == [
        str(tmp_path / name) for name in before]


def test_what_a_hook_cannot_open_is_not_the_last_checkpoint(tmp_path):
    class Opening(Hook):
        def before_save_checkpoint(self, runner, checkpoint):
            (tmp_path / 'not there').read_text()
    with pytest.raises(FileNotFoundError, match='not there'):
        start(tmp_path, accident=Opening())


def test_an_error_while_a_file_is_written_leaves_the_old_one(tmp_path):
    path = tmp_path / 'file'
    with whole(path) as part:
        part.write_text('old')
    with pytest.raises(UnicodeEncodeError), whole(path) as part:
        part.write_text('new' * 10000 + 'ü', encoding='ascii')
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_checkpoint_is_there_until_the_new_one_is(tiny_config, tmp_path, monkeypatch):
    seen, put = [], saving.WholeFilesBackend.put

    def spy(backend, content, path):
        # last_checkpoint is a line of text.
        if path.endswith('.pth'):
            seen.append(sorted(p.name for p in tmp_path.glob('out/*.pth')))
        put(backend, content, path)

    monkeypatch.setattr(saving.WholeFilesBackend, 'put', spy)
    monkeypatch.chdir(tmp_path)
    from mmeffnet.engine import run
    run.train(cli.parse(cli.train_parser(), [tiny_config(
        'train_cfg = dict(max_epochs=3)', 'train_dataloader = dict(dataset=dict(indices=64))',
        'val_dataloader = dict(dataset=dict(indices=64))',
        'default_hooks = dict(checkpoint=dict(max_keep_ckpts=1, save_best=None))'),
        '--work-dir', 'out']))
    # Each once more after its validation.
    assert seen == [[], ['epoch_1.pth'], ['epoch_1.pth'], ['epoch_2.pth'], ['epoch_2.pth'],
                    ['epoch_3.pth']]
    assert [p.name for p in tmp_path.glob('out/*.pth')] == ['epoch_3.pth']


def test_a_second_training_in_a_work_dir_is_refused(tiny_config, tmp_path, fails, monkeypatch):
    monkeypatch.setattr(saving, 'LOCK_PATIENCE', 0)
    (tmp_path / 'out').mkdir()
    with FileLock(tmp_path / 'out' / saving.LOCK):
        assert fails(cli.train_parser, tiny_config(), '--work-dir', 'out') == (
            "error: work dir 'out' is in use by another training: wait for its end, or choose "
            'another with --work-dir')
    assert [p.name for p in (tmp_path / 'out').iterdir()] == [saving.LOCK]


@pytest.mark.parametrize(('place', 'why'), [
    ('file', 'File exists'), ('file/deeper', 'Not a directory')])
def test_a_work_dir_that_cannot_be_made_is_refused(place, why, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match=(
            f"^work dir '{tmp_path / place}' cannot be written to \\({why}\\): choose another with "
            '--work-dir$')), saving.claim(tmp_path / place):
        pass


def test_other_processes_of_a_run_do_not_ask_for_the_work_dir(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, 'LOCK_PATIENCE', 0)
    monkeypatch.setenv('RANK', '1')
    part = tmp_path / '.iter_1.pth.1.part'
    part.touch()
    with FileLock(tmp_path / saving.LOCK), saving.claim(tmp_path):
        assert part.exists()  # which the first process may be writing
