"""What the tests of several processes share: one config in float64, and ways to run it."""
import json
import os
import socket
from pathlib import Path

import torch
from conftest import TINY, run_tool

TESTS = str(Path(__file__).parent)

# The tiny network without any draw but the shuffling, which is the same for every number of
# processes: with a seed the batches of 2 x 16 hold the images of one batch of 32.
FLOAT64 = """
_base_ = './tiny_base.py'
custom_imports = dict(imports=['float64_runs'], allow_failed_imports=False)
data_preprocessor = dict(type='Float64Preprocessor')
model = dict(backbone=dict(drop_path_rate=0., norm_cfg=dict(type='SyncBN')),
             head=dict(dropout=0.))
train_dataloader = dict(batch_size=16, dataset=dict(indices=128, pipeline={{_base_.test_pipeline}}))
val_dataloader = dict(batch_size=8, dataset=dict(indices=37))
test_dataloader = val_dataloader
custom_hooks = [dict(type='EMAHook', momentum=0.3), dict(type='JointLossHook')]
"""
STEPS = 12  # 3 epochs of 128 images in joint batches of 32

# Sums in another order differ by 1e-15 or so. AdamW divides by the root of squared gradients,
# which makes that 1e-11 in a few running means; a rule that is wrong shows as 1e-2.
SAME = dict(rtol=0, atol=1e-9)

ENVIRONMENT = dict(PYTHONPATH=os.pathsep.join(filter(None, [TESTS, os.environ.get('PYTHONPATH')])),
                   OMP_NUM_THREADS='1')


def write_configs(folder: Path, **others: str) -> None:
    """``float64.py`` with its base, and others by name."""
    (folder / 'tiny_base.py').write_text(TINY)
    (folder / 'float64.py').write_text(FLOAT64)
    for name, text in others.items():
        (folder / f'{name}.py').write_text(text)


def run_one(tool, *args, cwd, batch_size=32):
    """Run a tool in one process; the batch is the joint one."""
    result = run_tool(tool, *args, '--cfg-options', f'train_dataloader.batch_size={batch_size}',
                      cwd=cwd, env=ENVIRONMENT)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def run_two(tool, *args, cwd):
    """Run a tool in two processes, started by torchrun, that talk through gloo."""
    launcher = ['-m', 'torch.distributed.run', '--nproc_per_node=2',
                f'--master_port={free_port()}']
    result = run_tool(tool, args[0], *args[1:], '--launcher', 'pytorch', launcher=launcher,
                      cwd=cwd, env=ENVIRONMENT)
    # torchrun's own report is long and comes last.
    assert result.returncode == 0, result.stderr.partition('ChildFailedError')[0][-6000:]
    return result.stdout


def free_port() -> int:
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return found.getsockname()[1]


def losses(folder: Path) -> torch.Tensor:
    return torch.tensor(json.loads((folder / 'losses.json').read_text()), dtype=torch.float64)


def load(path: Path) -> dict:
    return torch.load(path, map_location='cpu', weights_only=True)


def assert_same_weights(first: Path, second: Path, **tolerance) -> None:
    """Weights and averaged weights of two checkpoints, and how far their training went."""
    one, other = load(first), load(second)
    for part in ('state_dict', 'ema_state_dict'):
        assert one[part].keys() == other[part].keys()
        for key, value in one[part].items():
            torch.testing.assert_close(other[part][key], value, **tolerance,
                                       msg=lambda text, key=key: f'{key}: {text}')
    for key in ('epoch', 'iter'):
        assert one['meta'][key] == other['meta'][key]
