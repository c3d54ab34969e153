"""Files of weights: which kind they are, and what is refused."""
import argparse
import errno
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmeffnet.errors import InputError
from mmeffnet.weights.files import kind_of_file, need, read_checkpoint, read_safetensors
from mmeffnet.weights.trained import trained


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match='gone.pth. does not exist'):
        read_checkpoint(tmp_path / 'gone.pth')


@pytest.mark.parametrize(('files', 'line'), [
    (['config.json', 'model.safetensors'], r'give the file of weights in it \(model.safetensors\)'),
    (['saved_model.pb', 'variables/variables.index'], r'in it \(variables/variables.index\)'),
    ([f'epoch_{i}.pth' for i in range(5)], r'epoch_0.pth, epoch_1.pth, epoch_2.pth or 2 more'),
    (['notes.txt'], r'give a file of weights; there is none in it \(.pth, ')])
def test_a_folder_is_told_from_a_missing_file(files, line, tmp_path):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'x')
    with pytest.raises(InputError, match=f"is a folder: .*{line}"):
        read_checkpoint(tmp_path)


def test_archives_of_others_are_not_called_damaged(tmp_path, recwarn):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / 'script.pt')
    recwarn.clear()
    with pytest.raises(InputError, match='script.pt. is a TorchScript program: save its state'):
        read_checkpoint(tmp_path / 'script.pt')
    assert not recwarn.list  # which PyTorch would do over several lines
    with zipfile.ZipFile(tmp_path / 'net.keras', 'w') as archive:
        archive.writestr('model.weights.h5', b'x')
    with pytest.raises(InputError, match='net.keras. is an archive of Keras: unpack model.weights'):
        read_checkpoint(tmp_path / 'net.keras')
    torch.save({'a': torch.ones(1000)}, tmp_path / 'torn.pth')
    (tmp_path / 'torn.pth').write_bytes((tmp_path / 'torn.pth').read_bytes()[:-300])
    with pytest.raises(InputError, match='torn.pth. .* is truncated or damaged: remove it, and'):
        read_checkpoint(tmp_path / 'torn.pth')


def test_exported_programs_are_not_called_damaged(tmp_path):
    program = torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2), ))
    torch.export.save(program, tmp_path / 'net.pt2')
    (tmp_path / 'net.onnx').write_bytes(b'\x08\x0a\x12\x07pytorch')
    (tmp_path / 'net.xml').write_text('<?xml version="1.0"?>')
    for name, kind in (('pt2', 'torch.export'), ('onnx', 'ONNX'), ('xml', 'OpenVINO')):
        with pytest.raises(InputError, match=(
                f"net.{name}' is a program of {kind}: give the checkpoint it was exported from; of "
                'the tools, test.py alone runs such files$')):
            read_checkpoint(tmp_path / f'net.{name}')


def test_a_file_of_another_user_is_not_called_damaged(tmp_path, monkeypatch):
    (tmp_path / 'theirs.pth').touch()

    def refused(*_):
        raise PermissionError(errno.EACCES, 'Permission denied')
    monkeypatch.setattr(Path, 'open', refused)
    with pytest.raises(InputError, match="theirs.pth' cannot be read: Permission denied$"):
        kind_of_file(tmp_path / 'theirs.pth')


def test_the_kind_is_told_by_content_and_not_by_name(tmp_path):
    torch.save({'a': torch.ones(1)}, tmp_path / 'weights.h5')
    assert kind_of_file(tmp_path / 'weights.h5') == 'torch'
    (tmp_path / 'weights.pth').write_bytes(b'\x89HDF\r\n\x1a\n' + bytes(90))
    assert kind_of_file(tmp_path / 'weights.pth') == 'keras'
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (tmp_path / 'model.bin').write_bytes(len(header).to_bytes(8, 'little') + header + bytes(4))
    assert kind_of_file(tmp_path / 'model.bin') == 'safetensors'
    (tmp_path / 'torn.safetensors').write_bytes(header[:5])  # whose reader says what is wrong
    assert kind_of_file(tmp_path / 'torn.safetensors') == 'safetensors'


@pytest.mark.parametrize('name', ['model.ckpt', 'model.ckpt.index', '.',
                                  'model.ckpt.data-00000-of-00001'])
def test_a_tensorflow_checkpoint_is_known_by_any_of_its_names(name, tmp_path):
    for suffix in ('index', 'data-00000-of-00001'):
        (tmp_path / f'model.ckpt.{suffix}').write_bytes(b'x')
    assert kind_of_file(tmp_path / name) == 'tensorflow'


def test_a_truncated_safetensors_file_is_named(tmp_path):
    safetensors = pytest.importorskip('safetensors.torch', reason='safetensors is not installed')
    path = tmp_path / 'model.safetensors'
    safetensors.save_file({'a': torch.ones(100)}, path)
    tensors, stated = read_safetensors(path)
    assert torch.equal(tensors['a'], torch.ones(100))
    assert stated == {}
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r'model.safetensors.*200 bytes.* no whole safetensors'):
        read_safetensors(path)


def test_a_missing_library_gives_the_command_that_installs_it():
    with pytest.raises(InputError, match=r'pip install "mmeffnet\[keras\]"'):
        need('no_such_library_anywhere', 'keras')


def test_a_pickled_function_is_refused_and_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / 'exploded', )

    (tmp_path / 'bad.pth').write_bytes(pickle.dumps({'state_dict': Bomb()}))
    with pytest.raises(InputError, match='bad.pth'):
        read_checkpoint(tmp_path / 'bad.pth')
    assert not (tmp_path / 'exploded').exists()


@pytest.mark.parametrize('reached', [(HistoryBuffer, '__dict__'), (HistoryBuffer, 'statistics'),
                                     (np.ndarray, 'min'), (argparse.Namespace, '__init__')])
def test_nothing_but_the_statistics_of_a_history_is_reached_by_name(reached, tmp_path):
    class Reaching:
        def __reduce__(self):
            return getattr, reached

    torch.save(dict(state_dict=dict(a=torch.ones(1)), meta=Reaching()), tmp_path / 'reach.pth')
    with pytest.raises(InputError, match='reach.pth. holds pickled objects besides weights'):
        read_checkpoint(tmp_path / 'reach.pth')


def test_a_pickle_that_pytorch_did_not_write_is_told(tmp_path):
    (tmp_path / 'plain.pkl').write_bytes(pickle.dumps({'a': np.ones(2)}, protocol=4))
    with pytest.raises(InputError, match=r'plain.pkl. holds pickled objects besides weights '
                                         r'\(a pickle that torch.save did not write\), and '):
        read_checkpoint(tmp_path / 'plain.pkl')


@pytest.mark.parametrize('array', [['cat', 'dog'], [True, False], [1.5], [b'a']], ids=str)
def test_arrays_of_numpy_are_read_beside_the_weights(array, tmp_path):
    kept = dict(state_dict=dict(a=torch.ones(1)), meta=dict(dataset_meta=dict(
        classes=np.array(array))))
    torch.save(kept, tmp_path / 'arrays.pth')
    found = read_checkpoint(tmp_path / 'arrays.pth')['meta']
    assert found['dataset_meta']['classes'].tolist() == array
    named = trained(found)['names']
    assert named == tuple(map(str, array))


def test_the_options_of_a_trainer_are_read_beside_the_weights(tmp_path):
    options = argparse.Namespace(model='efficientnet_b0', lr=0.1, mean=[0.5] * 3, crop=None)
    torch.save(dict(model=dict(a=torch.ones(1)), args=options), tmp_path / 'trainer.pth')
    assert read_checkpoint(tmp_path / 'trainer.pth')['args'] == options


@pytest.mark.parametrize('held', [Path(), print], ids=['an object', 'a function'])
def test_options_that_hold_something_else_are_refused(held, tmp_path):
    options = argparse.Namespace(lr=0.1, held=held)
    torch.save(dict(model=dict(a=torch.ones(1)), args=options), tmp_path / 'trainer.pth')
    with pytest.raises(InputError, match='trainer.pth. holds pickled objects besides weights'):
        read_checkpoint(tmp_path / 'trainer.pth')


@pytest.mark.parametrize('as_archive', [True, False])
def test_arrays_of_objects_are_refused_by_their_type(as_archive, tmp_path):
    torch.save(dict(a=np.array(['a', 'b'], object)), tmp_path / 'objects.pth',
               _use_new_zipfile_serialization=as_archive)
    with pytest.raises(InputError, match='objects.pth. holds pickled objects besides weights '
                                         r'\(an array of Python objects\)'):
        read_checkpoint(tmp_path / 'objects.pth')
