"""What the tests of detectors and segmenters share: what they need, runs, and what they wrote."""
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from conftest import run_tool
from two_processes import ENVIRONMENT

from mmeffnet.version import EXTRAS


def need(*modules: str) -> None:
    """Skip the rest of a test module where one of these is not installed."""
    for module in modules:
        if find_spec(module) is None:
            pytest.skip(f'needs {module}: {EXTRAS[module.partition(".")[0]]}',
                        allow_module_level=True)


def run(tool, *args, cwd, code=0):
    """Run one of our tools in a fresh process: what it printed."""
    result = run_tool(tool, *args, cwd=cwd, env=ENVIRONMENT)
    assert result.returncode == code, result.stderr[-3000:]
    return result.stdout


def run_theirs(package, tool, *args, cwd):
    """Run one of the tools that another package has installed: what it printed."""
    path = Path(find_spec(package).origin).parent / '.mim' / 'tools' / tool
    result = subprocess.run([sys.executable, path, *args], cwd=cwd, capture_output=True, text=True,
                            timeout=600)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def validated(work_dir, metric):
    """The metric of each validation of a run."""
    (path, *_) = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line[metric] for line in lines if metric in line]


def weights(path):
    """The weights of a checkpoint."""
    return torch.load(path, weights_only=True)['state_dict']


def assert_equal_weights(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
