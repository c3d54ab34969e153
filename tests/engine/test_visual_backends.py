"""Where the curves of a run go: TensorBoard by itself, others by one line of a config."""
import json
import logging
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger

from mmeffnet.engine import config as configs
from mmeffnet.engine import visualizer
from mmeffnet.engine.vis_backends import WITHOUT_TENSORFLOW, _reopen_logs
from mmeffnet.engine.visualizer import RunVisualizer
from mmeffnet.errors import InputError


@pytest.fixture
def missing(monkeypatch):
    """Let a library look as if it were not installed."""
    def hide(name):
        monkeypatch.setattr(visualizer, 'find_spec', lambda wanted: None if wanted == name
                            else find_spec(wanted))
    return hide


def kinds(shower):
    return [type(backend).__module__.partition('.')[0] + '.' + name
            for name, backend in shower._vis_backends.items()]


def need(library):
    pytest.importorskip(library, reason=f'{library} is not installed')


def curves(folder):
    """What TensorBoard would show of the run in a folder."""
    need('tensorboard')
    # Without TensorFlow, whose import here makes a later one of triton crash the process.
    sys.modules.setdefault(WITHOUT_TENSORFLOW, ModuleType(WITHOUT_TENSORFLOW))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events, = folder.glob('*/vis_data/events.out.tfevents.*')
    return EventAccumulator(str(events)).Reload()


def test_a_plain_run_leaves_loss_rate_and_accuracy_for_tensorboard(shown_run):
    folder, output = shown_run
    found = curves(folder)
    scalars, = folder.glob('*/vis_data/scalars.json')
    written = [json.loads(line) for line in scalars.read_text().splitlines()]
    for name, steps in (('loss', [4, 8, 12, 16]), ('lr', [4, 8, 12, 16]),
                        ('accuracy/top1', [1, 2])):
        assert [e.step for e in found.Scalars(name)] == steps
        assert [e.value for e in found.Scalars(name)] == pytest.approx(
            [line[name] for line in written if name in line])
    assert f'Curves: tensorboard --logdir {folder}' in output


def test_a_config_is_readable_in_tensorboard(shown_run):
    text = curves(shown_run[0]).Tensors('config/text_summary')[0]
    assert "    default_scope = 'mmpretrain'" in text.tensor_proto.string_val[0].decode()


def test_one_line_of_a_config_sends_a_run_to_wandb(shown_run):
    need('wandb')
    log, = shown_run[0].glob('*/vis_data/wandb/offline-run-*/*.wandb')
    for name in (b'accuracy/top1', b'loss', b'lr'):
        assert name in log.read_bytes()


def test_one_line_of_a_config_sends_a_run_to_mlflow(shown_run, monkeypatch):
    need('mlflow')
    monkeypatch.setenv('MLFLOW_DISABLE_TELEMETRY', 'true')
    from mlflow import MlflowClient
    client = MlflowClient(f'sqlite:///{shown_run[0].parent / "runs.db"}')
    run, = client.search_runs(['0'])
    assert {'loss', 'lr', 'accuracy/top1'} <= set(run.data.metrics)
    assert [m.step for m in client.get_metric_history(run.info.run_id, 'accuracy/top1')] == [1, 2]
    assert run.data.params['train_cfg.max_epochs'] == '2'
    assert run.info.run_name.startswith('out/')


def test_the_log_goes_on_beside_the_other_libraries(shown_run):
    log, = shown_run[0].glob('*/*.log')  # importing MLflow closes it
    assert 'Checkpoints and logs' in log.read_text()


def test_a_log_that_a_library_has_closed_goes_on_after_what_it_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(MMLogger, '_instance_dict', MMLogger._instance_dict.copy())
    logger = MMLogger.get_instance('closed', log_file=str(tmp_path / 'closed.log'))
    logger.info('before')
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.stream.close()  # as importing MLflow does
    _reopen_logs()
    logger.info('after')
    assert [line.rpartition(' - ')[2] for line in (tmp_path / 'closed.log').read_text().split('\n')
            if line] == ['before', 'after']


def test_a_test_leaves_no_empty_run_in_tensorboard(tmp_path):
    need('tensorboard')
    shower = RunVisualizer('test', save_dir=str(tmp_path))
    shower.add_config(Config(dict(a=1)))  # as the Runner does; a test has no curves
    shower.close()
    assert kinds(shower)[1:] == ['mmeffnet.TensorboardVisBackend']
    assert list(tmp_path.rglob('config.py'))
    assert not list(tmp_path.rglob('events*'))


def test_a_broken_tensorboard_ends_the_run_at_once_and_says_how_to_do_without(monkeypatch,
                                                                              tmp_path):
    need('tensorboard')
    shower = RunVisualizer('broken', save_dir=str(tmp_path))
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', None)
    with pytest.raises(InputError, match='^visualizer: tensorboard is installed and cannot be '
                       'imported: .* --cfg-options visualizer.tensorboard=False$'):
        shower.add_config(Config(dict(a=1)))


def test_without_tensorboard_a_run_keeps_its_local_files_alone(missing, tmp_path):
    missing('tensorboard')
    shower = RunVisualizer('without', save_dir=str(tmp_path))
    assert kinds(shower) == ['mmengine.LocalVisBackend']


def test_tensorboard_can_be_switched_off(tmp_path):
    shower = RunVisualizer('off', save_dir=str(tmp_path), tensorboard=False)
    assert kinds(shower) == ['mmengine.LocalVisBackend']


@pytest.mark.parametrize('given', [
    'WandbVisBackend', ['WandbVisBackend'], dict(type='WandbVisBackend'),
    [dict(type='WandbVisBackend', init_kwargs=dict(project='digits'))]])
def test_a_backend_is_given_by_name_or_with_arguments(given, monkeypatch, tmp_path):
    monkeypatch.setattr(visualizer, 'find_spec', lambda name: name)  # nothing is imported yet
    shower = RunVisualizer('given', vis_backends=given, save_dir=str(tmp_path))
    assert kinds(shower) == ['mmengine.LocalVisBackend', 'mmeffnet.TensorboardVisBackend',
                             'mmengine.WandbVisBackend']


def test_local_files_are_kept_where_and_as_the_config_says(missing, tmp_path):
    missing('tensorboard')
    own = dict(type='LocalVisBackend', scalar_save_file='curves.json')
    shower = RunVisualizer('own', vis_backends=[own], save_dir=str(tmp_path))
    assert kinds(shower) == ['mmengine.LocalVisBackend']
    assert own == dict(type='LocalVisBackend', scalar_save_file='curves.json')


def test_mlflow_is_ours_since_mmengines_names_a_store_that_mlflow_refuses(monkeypatch, tmp_path):
    monkeypatch.setattr(visualizer, 'find_spec', lambda name: name == 'mlflow' or None)
    shower = RunVisualizer('mlflow', vis_backends='MLflowVisBackend', save_dir=str(tmp_path))
    assert kinds(shower) == ['mmengine.LocalVisBackend', 'mmeffnet.MLflowVisBackend']


@pytest.mark.parametrize(('backend', 'library'), [
    ('WandbVisBackend', 'wandb'), ('MLflowVisBackend', 'mlflow'),
    ('mmengine.TensorboardVisBackend', 'tensorboard')])
def test_a_missing_library_is_named_with_the_command_that_installs_it(backend, library, missing,
                                                                     tmp_path):
    missing(library)
    with pytest.raises(InputError, match=f'visualizer: {backend} needs {library}, which is not '
                       f'installed. Run: pip install {library}$'):
        RunVisualizer('missing', vis_backends=backend, save_dir=str(tmp_path))


def test_a_missing_library_ends_the_run_in_one_line(missing, tiny_config, fails):
    from mmeffnet.engine import cli
    missing('wandb')
    line = fails(cli.train_parser, tiny_config("vis_backends = 'WandbVisBackend'"))
    assert line == ('error: visualizer: WandbVisBackend needs wandb, which is not installed. '
                    'Run: pip install wandb')


@pytest.mark.parametrize('line', [
    "vis_backends = [dict(type='WandbVisBackend')]",
    "visualizer = dict(vis_backends=[dict(type='WandbVisBackend')])"])
def test_either_line_of_a_child_config_reaches_the_visualizer(line, tiny_config):
    cfg = configs.load_config(tiny_config(line))
    assert cfg.visualizer.type == 'mmeffnet.RunVisualizer'
    assert [b.type for b in cfg.visualizer.vis_backends] == ['WandbVisBackend']


def test_a_command_line_reaches_the_visualizer(tiny_config):
    cfg = configs.load_config(tiny_config(), {'visualizer.vis_backends': 'WandbVisBackend'})
    assert cfg.visualizer.vis_backends == 'WandbVisBackend'


def test_other_visualizers_keep_their_backends(tmp_path):
    (tmp_path / 'theirs.py').write_text(
        "vis_backends = [dict(type='A')]\n"
        "visualizer = dict(type='UniversalVisualizer', vis_backends=[dict(type='B')])\n")
    cfg = configs.load_config(str(tmp_path / 'theirs.py'))
    assert [backend.type for backend in cfg.visualizer.vis_backends] == ['B']
