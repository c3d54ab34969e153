"""The arithmetic of the table in docs/scaling-out.md, and that the table is what it prints."""
import re
from pathlib import Path

import pytest
import torch
from conftest import run_tool
from peers import TINY
from test_configs import metafile_models
from torch import nn

import mmeffnet
from mmeffnet.analysis.memory import Activations, activations, saved_bytes, without_memory
from mmeffnet.analysis.scaling_out import JPEG_BYTES, Cost, cost, images_per_second, traffic
from mmeffnet.plugin import MIM

ROOT = Path(__file__).parents[2]
DOC = (ROOT / 'docs/scaling-out.md').read_text()
ROWS = {line.split('|')[1].strip(): line for line in DOC.splitlines()
        if re.match(r'\| (b\d|l2|e[sml]|lite\d) \| \d', line)}


@pytest.fixture(scope='module')
def b0():
    return cost('b0')


def test_bytes_are_those_that_the_layers_are_known_to_keep():
    # A convolution keeps its input, BatchNorm its own and two numbers per channel, ReLU its
    # output, the classifier its input, cross entropy its logarithms, labels and a weight sum.
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(),
                          nn.Linear(5 * 16, 7))
    images, labels = torch.zeros(2, 3, 4, 4), torch.zeros(2, dtype=torch.long)
    kept, recomputed = saved_bytes(model, images, labels)
    relu = convolution = 2 * 5 * 16
    assert kept == 4 * (images.numel() + convolution + 2 * 5 + relu + 2 * 7 + 1) + 8 * 2
    assert recomputed == kept  # there are no blocks


@pytest.mark.parametrize('precision', [torch.float32, torch.bfloat16])
def test_counting_without_memory_agrees_with_a_real_step(precision):
    class Last(nn.Module):
        def forward(self, outputs):
            return outputs[-1].mean((2, 3))

    def count(images):
        torch.manual_seed(0)
        backbone = mmeffnet.EfficientNet(arch=TINY, drop_path_rate=0.2)
        model = nn.Sequential(backbone, Last(), nn.Linear(32, 7)).train()
        return saved_bytes(model, torch.zeros(images, 3, 32, 32),
                           torch.zeros(images, dtype=torch.long), precision)

    # For each image; what is kept once is BatchNorm's means, of another type without memory.
    def per_image():
        return [many - few for few, many in zip(count(2), count(3), strict=True)]

    real = per_image()
    with without_memory():
        assert per_image() == real
    assert 0 < real[1] < real[0]  # recomputing saves


def test_b0_keeps_half_in_bfloat16_and_grows_with_the_area(b0):
    assert b0.half.all == pytest.approx(b0.single.all / 2, rel=0.01)
    assert activations('b0', 448).all == pytest.approx(4 * b0.single.all, rel=0.01)


def test_parameters_and_multiply_adds_are_those_of_the_model_index(b0):
    entry = next(m for m in metafile_models() if m['Name'] == 'efficientnet-b0_8xb32_in1k')
    assert b0.parameters == entry['Metadata']['Parameters']
    assert b0.multiply_adds == entry['Metadata']['FLOPs']
    assert b0.state == 20 * b0.parameters  # five copies of four bytes
    assert b0.pixels == 150_528


def test_traffic_of_a_step():
    half = Activations(all=1, recomputed=1)
    ten = Cost(name='x', resolution=1, multiply_adds=1, parameters=10, single=half, half=half)
    assert [traffic(ten, n) for n in (1, 2, 4)] == [0, 40, 60]
    assert traffic(ten, 2, sharded=True) == 60
    with pytest.raises(ValueError, match='devices=0 must be at least 1'):
        traffic(ten, 0)


def test_computed_rates_agree_with_the_published_rate_of_b4(b0):
    assert images_per_second(b0, b0) == 2489
    assert images_per_second(cost('b4'), b0) == pytest.approx(331, rel=0.02)
    assert pytest.approx(107.7e3, abs=50) == JPEG_BYTES


def test_the_table_of_the_docs_is_what_the_tool_prints(tmp_path):
    assert list(ROWS) == list(mmeffnet.VARIANTS)
    some = ['b0', 'lite0']  # all would take most of a minute
    result = run_tool('scaling_table.py', *some, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    # The forks' mmcv prints lines of its own.
    printed = [line for line in result.stdout.splitlines() if line.startswith('|')]
    assert printed[2:] == [ROWS[name] for name in some]
    for line in printed[:2]:
        assert line in DOC


def test_what_the_docs_name_is_there():
    for path in re.findall(r'(?:configs|tools|tests)/[\w/.-]*\w', DOC):
        # Configs and tools come with an installed package; only tests lie beside the docs.
        assert ((ROOT if path.startswith('tests/') else MIM) / path).exists(), path


@pytest.mark.parametrize(('arguments', 'message'), [
    (['b99'], "error: arch 'b99' is none of b0, b1"),
    (['b0', '--devices', '0'], 'error: --devices 0 must be at least 1')])
def test_bad_arguments_are_said_in_one_line(arguments, message, tmp_path):
    result = run_tool('scaling_table.py', *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
