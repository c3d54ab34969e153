"""Checkpoints that must not be loaded end a tool in one line, and are never unpickled."""
import pickle

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer

from mmeffnet.engine import cli
from mmeffnet.models import EfficientNet
from mmeffnet.weights.files import read_checkpoint

WEIGHTS = 'backbone.layers.0.conv.weight'


@pytest.fixture
def checkpoint(tiny_config, tmp_path):
    """The tiny model's random weights, as a file."""
    cfg = Config.fromfile(tiny_config(name='source.py'))
    backbone = EfficientNet(arch=cfg.model.backbone.arch.to_dict())
    weights = {f'backbone.{k}': v for k, v in backbone.state_dict().items()}
    weights |= {'head.fc.weight': torch.zeros(10, 32), 'head.fc.bias': torch.zeros(10)}
    path = tmp_path / 'weights.pth'
    torch.save(dict(state_dict=weights), path)
    return path


def test_a_checkpoint_of_another_variant_is_named(fails, configs, tmp_path):
    weights = {f'backbone.{k}': v for k, v in EfficientNet(arch='b1').state_dict().items()}
    torch.save(dict(state_dict=weights, optimizer={}), tmp_path / 'b1.pth')
    config = configs / 'quickstart/efficientnet-b0_digits.py'
    for argv in ([cli.test_parser, config, 'b1.pth'],
                 [cli.train_parser, config, '--cfg-options', 'load_from=b1.pth'],
                 [cli.train_parser, config, '--resume', 'b1.pth']):
        message = fails(*argv)
        assert "'b1.pth' is of variant 'b1', and the config builds 'b0'" in message


def test_weights_alone_are_not_resumed(fails, tiny_config, checkpoint):
    """Of the best checkpoint the counters would go on, and the schedule would begin anew."""
    message = fails(cli.train_parser, tiny_config(), '--resume', checkpoint)
    assert f'checkpoint {str(checkpoint)!r} has no optimizer' in message
    assert 'give load_from in place of --resume' in message


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
    assert 'does not fit the model: head.fc.weight is 7x32 and has to be 10x32' in message


@pytest.mark.parametrize('kept', [0, 10, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named(kept, fails, tiny_config, checkpoint):
    data = checkpoint.read_bytes()
    checkpoint.write_bytes(data[:int(len(data) * kept) if isinstance(kept, float) else kept])
    message = fails(cli.test_parser, tiny_config(), checkpoint)
    assert f'checkpoint {str(checkpoint)!r}' in message
    assert 'truncated or damaged' in message or 'no PyTorch checkpoint' in message


@pytest.mark.parametrize('text', ['<!DOCTYPE html>', 'version https://git-lfs.github.com/spec/v1',
                                  '# a title'])
def test_what_came_in_place_of_a_checkpoint_is_told(text, fails, tiny_config, tmp_path):
    path = tmp_path / 'page.pth'
    path.write_text(text)
    message = fails(cli.test_parser, tiny_config(), path)
    start = text[:8].encode()
    assert f"page.pth' is no PyTorch checkpoint: its first bytes are {start!r}" in message
    assert 'download it again' in message


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
    history = HistoryBuffer(log_history=[1.5, 2.5], count_history=[1, 1])
    torch.save(dict(message_hub=dict(log_scalars={'loss': history}), lr=np.float64(0.1)),
               tmp_path / 'theirs.pth')
    with torch.serialization.safe_globals([HistoryBuffer]):
        pass  # as the fork of MMEngine does, which leaves it unsafe
    loaded = read_checkpoint(tmp_path / 'theirs.pth')
    assert loaded['message_hub']['log_scalars']['loss'].mean() == 2.0
    assert loaded['lr'] == 0.1


def test_a_folder_to_resume_from_names_the_file_in_it(fails, tiny_config, checkpoint, tmp_path):
    def message():
        return fails(cli.train_parser, tiny_config(), '--resume', tmp_path)
    assert message().endswith(f'{str(tmp_path)!r} is a folder: no checkpoint in it can be resumed')
    for epoch in (1, 2):
        torch.save(dict(state_dict={}, optimizer={}, meta=dict(iter=epoch, epoch=epoch)),
                   tmp_path / f'epoch_{epoch}.pth')
    assert f"is a folder: give '{tmp_path / 'epoch_2.pth'}', the newest in it" in message()
