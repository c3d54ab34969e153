"""What the tests share: the shipped files, a network small enough to train, the tools."""
import gc
import os
import pty
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

from mmeffnet import host

host.wait_briefly()  # as the tools do
host.keep_freed_memory()
if 'PYTEST_XDIST_WORKER' in os.environ:  # one of several processes, each with a core
    os.environ.setdefault('OMP_NUM_THREADS', '1')

import pytest  # noqa: E402
import torch  # noqa: E402
from mmengine.dataset import base_dataset  # noqa: E402
from mmengine.utils import ManagerMixin  # noqa: E402

import mmeffnet  # noqa: E402
from mmeffnet.plugin import MIM  # noqa: E402

# Two stages, 16 px: an epoch takes seconds. Every draw that a run can make is in it: shuffling,
# cropping, dropout and drop path.
TINY = """
_base_ = 'mmeffnet::quickstart/efficientnet-b0_digits.py'
model = dict(
    backbone=dict(drop_path_rate=0.2, norm_cfg=dict(momentum=0.3), arch=dict(
        _delete_=True, stem=8, head=32, stages=dict(
        first=dict(block='mbconv', kernel=3, stride=1, expand=1, channels=8, repeats=2,
                   se_ratio=0.25),
        second=dict(block='mbconv', kernel=5, stride=2, expand=4, channels=16, repeats=2)))),
    head=dict(in_channels=32))
train_pipeline = [dict(type='Resize', scale=(16, 16)), dict(type='RandomCrop', crop_size=16,
                  padding=2), dict(type='PackInputs')]
test_pipeline = [dict(type='Resize', scale=(16, 16)), dict(type='PackInputs')]
auto_scale_lr = dict(base_batch_size=64)
train_dataloader = dict(batch_size=32, dataset=dict(pipeline=train_pipeline, indices=256))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
custom_hooks = [dict(type='EMAHook', momentum=0.3)]
optim_wrapper = dict(optimizer=dict(lr=0.01))
default_hooks = dict(logger=dict(interval=4))
train_cfg = dict(max_epochs=3)
param_scheduler = [dict(type='CosineAnnealingLR', end=3, convert_to_iter_based=True)]
"""


@pytest.fixture
def tiny_config(tmp_path):
    """Write a config that inherits ``TINY``: ``tiny_config('train_cfg = ...')`` -> path."""
    (tmp_path / 'tiny_base.py').write_text(TINY)

    def write(*lines, name='tiny.py'):
        path = tmp_path / name
        path.write_text('\n'.join(["_base_ = './tiny_base.py'", *lines]))
        return str(path)
    return write


def run_tool(name, *args, cwd, launcher=(), env=None):
    """Run one of the shipped tools in a fresh process, away from the sources.

    With the warnings that a user sees: a shell that mutes them would let a test pass here alone.
    """
    shell = {name: value for name, value in os.environ.items() if name != 'PYTHONWARNINGS'}
    command = [sys.executable, *launcher, str(MIM / 'tools' / name), *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600,
                          env={**shell, 'PYTHON': sys.executable, **(env or {})})


def run_on_terminal(*command, cwd, env=None):
    """Run a command on a terminal of its own: its exit code and all that it wrote there."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, *map(str, command)], cwd=cwd, stdin=its, stdout=its, stderr=its,
        env={**os.environ, 'TERM': 'xterm', 'COLUMNS': '120', 'LINES': '40', **(env or {})})
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


# Libraries that a run may be shown in beside TensorBoard; nothing of the tests leaves the machine.
TRACKERS = [backend for backend, library in (('WandbVisBackend', 'wandb'),
                                             ('MLflowVisBackend', 'mlflow')) if find_spec(library)]
OFFLINE = dict(WANDB_MODE='offline', WANDB_SILENT='true', MLFLOW_DISABLE_TELEMETRY='true',
               MLFLOW_TRACKING_URI='sqlite:///runs.db', DO_NOT_TRACK='true')


@pytest.fixture(scope='session')
def shown_run(tmp_path_factory):
    """A run of two epochs on a terminal, shown in all that is installed.

    Gives its work dir and what the terminal was sent.
    """
    folder = tmp_path_factory.mktemp('shown')
    (folder / 'tiny_base.py').write_text(TINY)
    (folder / 'tiny.py').write_text(
        f"_base_ = './tiny_base.py'\ntrain_cfg = dict(max_epochs=2)\nvis_backends = {TRACKERS}\n")
    code, seen = run_on_terminal(MIM / 'tools/train.py', 'tiny.py', '--work-dir', 'out',
                                 cwd=folder, env=OFFLINE)
    assert code == 0, seen[-2000:]
    return folder / 'out', seen


@pytest.fixture(scope='session')
def joint_batch_run(tmp_path_factory):
    """A folder with ``float64.py`` (see two_processes) and its run of one process, ``one``."""
    from two_processes import run_one, write_configs
    folder = tmp_path_factory.mktemp('joint')
    write_configs(folder)
    run_one('train.py', 'float64.py', '--work-dir', 'one', cwd=folder)
    return folder


def pytest_collection_finish():
    """Collect garbage seldom, and not among what the imported libraries hold: it took an eighth of
    the time of all tests, half of it since each data set of MMEngine asks for it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    base_dataset.gc = SimpleNamespace(collect=lambda: 0)


@pytest.fixture(scope='session')
def configs() -> Path:
    """The folder of the shipped configs."""
    return MIM / 'configs'


@pytest.fixture(autouse=True)
def own_instances():
    """Leave the default scope, logs, drawings and messages of runs as they were.

    The scope decides what a name means. The others are named by the second in which a run begins,
    and a test takes less: the next would write to the terminal and the folder of the one before.
    """
    before = {kind: kind._instance_dict.copy() for kind in kinds(ManagerMixin)}
    yield
    for kind in kinds(ManagerMixin):  # those imported by the test too
        kept = before.get(kind, {})
        for name in kind._instance_dict.keys() - kept.keys():
            for handler in getattr(kind._instance_dict[name], 'handlers', ()):
                handler.close()
        kind._instance_dict = type(kind._instance_dict)(kept)


def kinds(of):
    """A class and all that are derived from it, the nearest first."""
    found = [of]
    for kind in found:
        found += kind.__subclasses__()
    return found


@pytest.fixture(autouse=True)
def own_compilations():
    """No test finds what another compiled: at a second size, a compiler leaves sizes open."""
    yield
    if 'torch._dynamo' in sys.modules:
        torch.compiler.reset()


@pytest.fixture
def fails(tmp_path, monkeypatch, capsys):
    """Run a tool in this process and give back the one line it ends with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('MMEFFNET_TRACEBACK', raising=False)

    from mmeffnet.engine import cli, run

    def check(parser, *argv, code=2):
        command = {cli.train_parser: run.train, cli.test_parser: run.test}[parser]
        with pytest.raises(SystemExit) as exit_:
            command(cli.parse(parser(), [str(a) for a in argv]))
        assert exit_.value.code == code
        lines = capsys.readouterr().err.strip().splitlines()
        errors = [line for line in lines if line.startswith('error: ')]
        assert len(errors) == 1
        assert lines[-1] == errors[0]
        return errors[0]
    return check


@pytest.fixture
def said():
    """The lines that are printed to MMEngine's log, of level INFO and above."""
    import logging

    from mmengine.logging import MMLogger
    lines = []

    class Handler(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    logger, handler = MMLogger.get_current_instance(), Handler(logging.INFO)
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def pytest_configure(config):
    # Tests that are named are run, all of them; so is what -m chooses.
    if config.args_source is config.ArgsSource.TESTPATHS and not config.option.markexpr:
        config.option.markexpr = 'not slow'


def pytest_report_header():
    from importlib.metadata import packages_distributions
    stack = packages_distributions()
    names = ', '.join(sorted({d for m in ('mmengine', 'mmcv', 'mmpretrain')
                              for d in stack.get(m, ())}))
    return f'mmeffnet {mmeffnet.__version__} from {Path(mmeffnet.__file__).parent} on {names}'
