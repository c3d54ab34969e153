"""The bar on a terminal: shown there alone, above it the log, and gone at the end."""
import re
import sys
from types import SimpleNamespace

import pytest
from conftest import run_on_terminal

from mmeffnet.engine.progress import ProgressHook

LOG_LINE = r'\d\d/\d\d \d\d:\d\d:\d\d - mmengine - INFO - '
CONTROLS = re.compile(r'(\r|\n|\x1b\[[0-9;?]*[a-zA-Z])')
# A training that has come to its third step, in a process of its own for each end.
ENDINGS = """
import os, sys
from types import SimpleNamespace
from mmengine.logging import MMLogger
from mmeffnet.engine.progress import ProgressHook
from mmeffnet.errors import RunError, one_line_errors

def train(end):
    runner = SimpleNamespace(max_iters=10, max_epochs=1, iter=0, val_dataloader=[1, 2, 3],
                             message_hub=SimpleNamespace(log_scalars={}))
    hook, logger = ProgressHook(), MMLogger.get_instance('tried')
    with one_line_errors():
        hook.before_train(runner)
        for runner.iter in range(3):
            hook.after_train_iter(runner, runner.iter)
            logger.info(f'step {runner.iter}')
        hook.before_val(runner)
        hook.after_val_iter(runner, 0)
        raise end

for end in (RunError('stopped here'), KeyboardInterrupt(), SystemExit(143), OSError('broken')):
    child = os.fork()
    if not child:
        train(end)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(f'{type(end).__name__} {code}', flush=True)
"""


def screen(seen):
    """The lines that stand on a terminal after it has been sent all this."""
    lines, row, column = [''], 0, 0
    for part in CONTROLS.split(seen):
        if part == '\r':
            column = 0
        elif part == '\n':
            row += 1
            lines += [''] * (row == len(lines))
        elif part == '\x1b[1A':
            row -= 1
        elif part == '\x1b[2K':
            lines[row] = ''
        elif not part.startswith('\x1b'):
            lines[row] = lines[row][:column] + part + lines[row][column + len(part):]
            column += len(part)
    return [line for line in lines if line.strip()]


def test_a_terminal_shows_epochs_loss_and_time_left(shown_run):
    plain = re.sub(r'\x1b\[[0-9;?]*[a-zA-Z]', '', shown_run[1])
    assert re.search(r'train +━+ +\d+/16 \d:\d\d:\d\d left [-\d:]+ epoch [12]/2, loss \d\.\d{4}',
                     plain)
    assert re.search(r'left \d:\d\d:\d\d epoch 2/2', plain)
    assert re.search(r'validate ━+ \d/6 ', plain)


def test_the_log_stands_whole_above_the_bar_which_is_gone_at_the_end(shown_run):
    folder, seen = shown_run
    lines = screen(seen)
    assert not any('━' in line for line in lines)
    file, = folder.glob('*/*.log')
    logged = [line for line in re.sub(r'\d{4}/', '', file.read_text()).splitlines()
              if re.match(LOG_LINE + r'(Epoch|Saving|Curves|Picture)', line)]
    assert sum('Epoch(train)' in line for line in logged) == 4
    assert [line for line in lines if line in logged] == logged  # as in the file, none broken


def test_whatever_ends_a_run_takes_the_bar_away(tmp_path):
    code, seen = run_on_terminal('-c', ENDINGS, cwd=tmp_path)
    assert code == 0, seen
    lines = [re.sub('.*- INFO - ', '', line) for line in screen(seen)]
    ends = [index for index, line in enumerate(lines) if re.fullmatch(r'[A-Z]\w+ -?\d+', line)]
    assert [lines[index] for index in ends] == [
        'RunError 1', 'KeyboardInterrupt 130', 'SystemExit 143', 'OSError 1']
    steps = ['step 0', 'step 1', 'step 2']
    assert lines[:ends[0]] == [*steps, 'error: stopped here']
    assert lines[ends[0] + 1:ends[1]] == [*steps, 'interrupted']
    assert lines[ends[1] + 1:ends[2]] == steps
    assert lines[ends[3] - 1] == 'OSError: broken'
    assert seen.count('━') > 4
    assert not any('━' in line for line in lines)
    # A process that is killed takes nothing away: the cursor is there all the time.
    assert re.findall(r'\x1b\[\?25[lh]', seen)[:2] == ['\x1b[?25l', '\x1b[?25h']


def through_a_run(hook):
    """Call a hook as a training, its validation and a test do; gives whether a bar was open."""
    runner = SimpleNamespace(max_iters=10, iter=0, val_dataloader=[1, 2], test_dataloader=[1])
    opened = []
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)
    opened.append(hook._progress)
    hook.before_val(runner)
    hook.after_val_iter(runner, 0)
    hook.after_val(runner)
    hook.after_train(runner)
    hook.before_test(runner)
    opened.append(hook._progress)
    hook.after_test_iter(runner, 0)
    hook.after_test(runner)
    return any(opened)


def test_without_any_output_nothing_is_shown(monkeypatch, capsys):
    """Python has none where a shell has closed it, as >&- does."""
    monkeypatch.setattr(sys, 'stdout', None)
    assert through_a_run(ProgressHook()) is False
    assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize(('terminal', 'kind', 'enable'), [
    (False, 'xterm', True), (True, 'dumb', True), (True, 'xterm', False)])
def test_nothing_is_shown_elsewhere_or_if_it_is_not_wanted(terminal, kind, enable, capsys,
                                                           monkeypatch):
    monkeypatch.setenv('FORCE_COLOR', '1')  # as for a log file that shall have colours
    monkeypatch.setenv('TERM', kind)
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: terminal)
    assert through_a_run(ProgressHook(enable=enable)) is False
    assert capsys.readouterr().out == ''
