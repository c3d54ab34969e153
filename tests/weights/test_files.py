"""Files of weights: which kind they are, and what is refused."""
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from mmeffnet.errors import InputError
from mmeffnet.weights.files import kind_of_file, need, read_checkpoint, read_safetensors
from mmeffnet.weights.trained import trained


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match='gone.pth. does not exist'):
        read_checkpoint(tmp_path / 'gone.pth')


def test_the_kind_is_told_by_content_and_not_by_name(tmp_path):
    torch.save({'a': torch.ones(1)}, tmp_path / 'weights.h5')
    assert kind_of_file(tmp_path / 'weights.h5') == 'torch'
    (tmp_path / 'weights.pth').write_bytes(b'\x89HDF\r\n\x1a\n' + bytes(90))
    assert kind_of_file(tmp_path / 'weights.pth') == 'keras'
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (tmp_path / 'model.bin').write_bytes(len(header).to_bytes(8, 'little') + header + bytes(4))
    assert kind_of_file(tmp_path / 'model.bin') == 'safetensors'


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


@pytest.mark.parametrize('array', [['cat', 'dog'], [True, False], [1.5], [b'a']], ids=str)
def test_arrays_of_numpy_are_read_beside_the_weights(array, tmp_path):
    kept = dict(state_dict=dict(a=torch.ones(1)), meta=dict(dataset_meta=dict(
        classes=np.array(array))))
    torch.save(kept, tmp_path / 'arrays.pth')
    found = read_checkpoint(tmp_path / 'arrays.pth')['meta']
    assert found['dataset_meta']['classes'].tolist() == array
    named = trained(found)['names']
    assert named == tuple(map(str, array))


def test_arrays_of_objects_are_refused_by_their_type(tmp_path):
    torch.save(dict(a=np.array([Path()])), tmp_path / 'objects.pth')
    with pytest.raises(InputError, match='objects.pth. holds pickled objects besides weights'):
        read_checkpoint(tmp_path / 'objects.pth')
