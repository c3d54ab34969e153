"""The bar on a terminal: shown there alone, above it the log, and gone at the end."""
import os
import pty
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from conftest import TINY

from mmeffnet.engine.progress import ProgressHook
from mmeffnet.plugin import MIM


def on_a_terminal(folder, *args):
    """Run a tool on a terminal of its own; gives back the exit code and what was written."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(MIM / 'tools/train.py'), *args], cwd=folder, stdin=its, stdout=its,
        stderr=its, env={**os.environ, 'TERM': 'xterm', 'COLUMNS': '120', 'LINES': '40'})
    os.close(its)
    seen = b''
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    return process.wait(), seen.decode(errors='replace')


CURSOR_HIDDEN, CURSOR_SHOWN, LINE_ERASED = '\x1b[?25l', '\x1b[?25h', '\x1b[2K'


def assert_taken_away(seen):
    assert seen.rindex(CURSOR_SHOWN) > seen.rindex(CURSOR_HIDDEN)
    assert seen.rindex(LINE_ERASED) > seen.rindex('━')


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'tiny_base.py').write_text(TINY)
    (tmp_path / 'tiny.py').write_text("_base_ = './tiny_base.py'\ntrain_cfg = dict(max_epochs=2)\n")
    (tmp_path / 'wrong.py').write_text(
        "_base_ = './tiny.py'\noptim_wrapper = dict(optimizer=dict(lr=1e30))\n")
    return tmp_path


def test_a_terminal_shows_epochs_loss_and_time_left_below_whole_log_lines(folder):
    code, seen = on_a_terminal(folder, 'tiny.py')
    assert code == 0
    plain = re.sub(r'\x1b\[[0-9;?]*[a-zA-Z]', '', seen)
    assert re.search(r'train +━+ +\d+/16 \d:\d\d:\d\d left [-\d:]+ epoch [12]/2, loss \d\.\d{4}',
                     plain)
    assert re.search(r'validate ━+ \d/6 ', plain)
    lines = [line for line in re.split('[\r\n]+', plain) if 'Epoch(train)' in line]
    assert len(lines) == 4
    assert all(re.match(r'\d\d/\d\d \d\d:\d\d:\d\d - mmengine - INFO - Epoch\(train\)', line)
               for line in lines)
    assert f'Curves: tensorboard --logdir {folder}/work_dirs/tiny' in plain  # not broken in two
    assert_taken_away(seen)


def test_a_run_that_fails_takes_its_bar_away(folder):
    code, seen = on_a_terminal(folder, 'wrong.py')
    assert code == 1
    assert 'error: iteration ' in seen
    assert_taken_away(seen)


def test_nothing_is_shown_where_there_is_no_terminal(capsys):
    hook = ProgressHook()
    runner = SimpleNamespace(max_iters=10, iter=0, val_dataloader=[1, 2])
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)
    hook.before_val(runner)
    hook.after_val_iter(runner, 0)
    hook.after_val(runner)
    hook.after_train(runner)
    assert capsys.readouterr().out == ''
