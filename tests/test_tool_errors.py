"""Wrong input ends in one line on stderr and exit code 2, before anything is trained."""
import pickle

import pytest
import torch
from conftest import run_tool

from mmeffnet.engine import cli, run
from mmeffnet.engine.checkpoint import read_checkpoint

WEIGHTS = 'backbone.layers.0.conv.weight'


@pytest.fixture
def fails(tmp_path, monkeypatch, capsys):
    """Run a tool in this process and give back the one line it ends with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv('MMEFFNET_TRACEBACK', raising=False)

    def check(parser, *argv):
        command = {cli.train_parser: run.train, cli.test_parser: run.test}[parser]
        with pytest.raises(SystemExit) as exit_:
            command(cli.parse(parser(), [str(a) for a in argv]))
        assert exit_.value.code == 2
        lines = capsys.readouterr().err.strip().splitlines()
        errors = [line for line in lines if line.startswith('error: ')]
        assert len(errors) == 1
        assert lines[-1] == errors[0]
        return errors[0]
    return check


def train(fails, *argv):
    return fails(cli.train_parser, *argv)


def test_a_process_ends_with_one_line_and_code_2(tmp_path):
    result = run_tool('train.py', 'missing.py', cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.count('\n') == 1
    assert "error: config 'missing.py' does not exist" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_config_path_names_the_nearest(fails, tiny_config):
    path = tiny_config()
    assert f'did you mean {path!r}' in train(fails, path.replace('tiny.py', 'tinny.py'))
    assert 'efficientnet-b3_8xb32_in1k.py' in train(fails, 'efficientnet-b3_8xb32_ink.py')


def test_a_config_with_a_syntax_error_is_named(fails, tiny_config):
    path = tiny_config('model = dict(')
    assert f'config {path!r} cannot be read' in train(fails, path)


def test_an_unknown_variant_names_the_nearest(fails, tiny_config):
    path = tiny_config("model = dict(backbone=dict(_delete_=True, type='mmeffnet.EfficientNet', "
                       "arch='b33'))")
    message = train(fails, path)
    assert "arch='b33' is not a variant; did you mean 'b3'?" in message


@pytest.mark.parametrize(('line', 'expected'), [
    ('optim_wraper = dict()', "config key 'optim_wraper' means nothing; did you mean "
                              "'optim_wrapper'?"),
    ('trian_cfg = dict(max_epochs=2)', "did you mean 'train_cfg'?"),
    ('model = dict(backbone=dict(drop_path_rat=0.1))', 'model.backbone.drop_path_rat'),
    ('optim_wrapper = dict(optimizer=dict(learning_rate=0.1))',
     'optim_wrapper.optimizer.learning_rate'),
    ('train_dataloader = dict(batchsize=3)', "unexpected keyword argument 'batchsize'"),
    ('train_cfg = dict(max_epoch=2)', "unexpected keyword argument 'max_epoch'"),
])
def test_a_misspelt_key_is_named(line, expected, fails, tiny_config):
    assert expected in train(fails, tiny_config(line))


def test_shipped_configs_of_other_projects_have_no_misspelt_keys():
    from pathlib import Path

    import mmpretrain
    from mmengine.config import Config

    from mmeffnet.engine.config import check_keys
    root = Path(mmpretrain.__file__).parent / '.mim' / 'configs'
    if not root.is_dir():
        pytest.skip('this distribution of mmpretrain ships no configs')
    paths = sorted(root.glob('[!_]*/*.py'))[::40]
    assert len(paths) > 10
    for path in paths:
        check_keys(Config.fromfile(path))


def test_a_missing_data_folder_tells_the_layout(fails, configs, monkeypatch):
    monkeypatch.setenv('IMAGENET', '/nowhere/imagenet')
    message = train(fails, configs / 'efficientnet/efficientnet-b0_8xb32_in1k.py')
    assert "train_dataloader.dataset.data_root: '/nowhere/imagenet' does not exist" in message
    assert 'train/<class>/*.JPEG and val/<class>/*.JPEG' in message


FOLDERS = """
_dataset = dict(_delete_=True, type='mmpretrain.CustomDataset', data_root='data',
                pipeline=[dict(type='mmpretrain.LoadImageFromFile'),
                          dict(type='mmpretrain.Resize', scale=(16, 16)),
                          dict(type='mmpretrain.PackInputs')])
train_dataloader = dict(dataset=_dataset)
val_dataloader = dict(dataset=_dataset)
"""


@pytest.fixture
def photos(tmp_path):
    """Five class folders with one picture each, under the folder 'data'."""
    import cv2
    import numpy as np
    for name in 'abcde':
        (tmp_path / 'data' / name).mkdir(parents=True)
        cv2.imwrite(str(tmp_path / 'data' / name / '1.png'), np.full((20, 20, 3), 99, np.uint8))
    return tmp_path / 'data'


def test_folders_that_do_not_match_the_class_count_stop_the_run(fails, tiny_config, photos):
    message = train(fails, tiny_config(FOLDERS))
    assert 'the data set has 5 classes and the model has 10' in message
    assert 'model.head.num_classes=5' in message


def test_a_hidden_folder_that_would_become_a_class_is_named(fails, tiny_config, photos):
    (photos / '.ipynb_checkpoints').mkdir()
    message = train(fails, tiny_config(FOLDERS, 'model = dict(head=dict(num_classes=5))'))
    assert ".ipynb_checkpoints' would be counted as a class" in message


def test_a_label_out_of_range_is_named_with_its_file(fails, tiny_config, photos):
    (photos / 'list.txt').write_text('a/1.png 0\nb/1.png 5\n')
    message = train(fails, tiny_config(
        FOLDERS, "_dataset.update(ann_file='list.txt')",
        'model = dict(head=dict(num_classes=5))'))
    assert 'label 5 of' in message
    assert 'b/1.png' in message
    assert 'labels run from 0 to 4' in message


@pytest.fixture
def checkpoint(tiny_config, tmp_path):
    """The tiny model's random weights, as a file."""
    from mmengine.config import Config

    from mmeffnet.models import EfficientNet
    cfg = Config.fromfile(tiny_config(name='source.py'))
    backbone = EfficientNet(arch=cfg.model.backbone.arch.to_dict())
    weights = {f'backbone.{k}': v for k, v in backbone.state_dict().items()}
    weights |= {'head.fc.weight': torch.zeros(10, 32), 'head.fc.bias': torch.zeros(10)}
    path = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=weights), path)
    return path


def test_a_checkpoint_of_another_variant_is_named(fails, configs, tmp_path):
    from mmeffnet.models import EfficientNet
    weights = {f'backbone.{k}': v for k, v in EfficientNet(arch='b1').state_dict().items()}
    torch.save(dict(state_dict=weights), tmp_path / 'b1.pth')
    config = configs / 'quickstart/efficientnet-b0_digits.py'
    for argv in ([cli.test_parser, config, 'b1.pth'],
                 [cli.train_parser, config, '--cfg-options', 'load_from=b1.pth'],
                 [cli.train_parser, config, '--resume', 'b1.pth']):
        message = fails(*argv)
        assert "'b1.pth' is of variant 'b1', and the config builds 'b0'" in message


def test_a_checkpoint_without_the_head_is_no_classifier(fails, tiny_config, checkpoint):
    weights = torch.load(checkpoint, weights_only=True)['state_dict']
    del weights['head.fc.weight']
    torch.save(weights, checkpoint)
    message = fails(cli.test_parser, tiny_config(), checkpoint)
    assert 'lacks 1 tensors of the model: head.fc.weight' in message


def test_a_checkpoint_with_another_class_count_is_refused(fails, tiny_config, checkpoint):
    weights = torch.load(checkpoint, weights_only=True)['state_dict']
    torch.save({**weights, 'head.fc.weight': torch.zeros(7, 32)}, checkpoint)
    message = fails(cli.test_parser, tiny_config(), checkpoint)
    assert 'does not fit the model: size mismatch for head.fc.weight' in message


@pytest.mark.parametrize('kept', [0, 10, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named(kept, fails, tiny_config, checkpoint):
    data = checkpoint.read_bytes()
    checkpoint.write_bytes(data[:int(len(data) * kept) if isinstance(kept, float) else kept])
    message = fails(cli.test_parser, tiny_config(), checkpoint)
    assert f'checkpoint {str(checkpoint)!r}' in message
    assert 'truncated or damaged' in message or 'no PyTorch checkpoint' in message


class Bomb:
    def __reduce__(self):
        return (open, ('exploded.txt', 'w'))


@pytest.mark.parametrize('write', [
    lambda path: torch.save({'state_dict': {WEIGHTS: torch.zeros(1)}, 'meta': Bomb()}, path),
    lambda path: path.write_bytes(pickle.dumps(Bomb())),
    lambda path: torch.save({'meta': torch.Tensor.tolist}, path),
], ids=['zip', 'bare pickle', 'getattr'])
@pytest.mark.parametrize('flags', [[], ['--resume']])
def test_pickled_code_is_refused_and_never_run(write, flags, fails, tiny_config, tmp_path):
    path = tmp_path / 'bad.pth'
    write(path)
    if flags:
        message = fails(cli.train_parser, tiny_config(), '--resume', path)
    else:
        message = fails(cli.test_parser, tiny_config(), path)
    assert 'bad.pth' in message
    assert 'holds pickled objects' in message
    assert not (tmp_path / 'exploded.txt').exists()


def test_mmengines_own_checkpoints_are_read_with_weights_only(tmp_path):
    import numpy as np
    from mmengine.logging import HistoryBuffer
    history = HistoryBuffer(log_history=[1.5, 2.5], count_history=[1, 1])
    torch.save(dict(message_hub=dict(log_scalars={'loss': history}), lr=np.float64(0.1)),
               tmp_path / 'theirs.pth')
    loaded = read_checkpoint(tmp_path / 'theirs.pth')
    assert loaded['message_hub']['log_scalars']['loss'].mean() == 2.0
    assert loaded['lr'] == 0.1


@pytest.mark.parametrize(('argv', 'expected'), [
    (['--out-item', 'metrics'], '--out-item metrics needs --out'),
    (['--out', 'x.json'], "--out 'x.json': predictions are written as .pkl"),
])
def test_an_output_that_cannot_be_written_is_refused_first(argv, expected, fails, tiny_config):
    assert expected in fails(cli.test_parser, tiny_config(), 'weights.pth', *argv)


def test_amp_refuses_a_wrapper_it_does_not_know(fails, tiny_config):
    path = tiny_config("optim_wrapper = dict(type='ApexOptimWrapper')")
    assert "optim_wrapper.type='ApexOptimWrapper': --amp works with" in train(fails, path, '--amp')


def test_slurm_without_cuda_says_what_to_use(fails, tiny_config, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    message = train(fails, tiny_config(), '--launcher', 'slurm')
    assert 'needs CUDA' in message
    assert 'torchrun' in message


def test_a_traceback_can_be_asked_for(tiny_config, monkeypatch):
    monkeypatch.setenv('MMEFFNET_TRACEBACK', '1')
    from mmeffnet.engine.errors import InputError
    args = cli.parse(cli.train_parser(), [tiny_config('optim_wraper = 1')])
    with pytest.raises(InputError, match='optim_wraper'):
        run.train(args)
