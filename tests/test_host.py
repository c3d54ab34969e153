"""What the tools ask of the C libraries: tried in fresh processes."""
import os
import platform
import subprocess
import sys

import pytest

from mmeffnet.plugin import MIM

glibc = pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='asks glibc alone')

# Pages that a block takes from the system after many like it. 64 MiB are 16,384 pages.
FAULTS = """
import resource, torch
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2 ** 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print([faults() for _ in range(20)][-1])
"""


def page_faults(code, **env):
    result = subprocess.run([sys.executable, '-W', 'ignore', '-c', code + FAULTS], text=True,
                            capture_output=True, env={**os.environ, **env}, timeout=300)
    assert result.returncode == 0, result.stderr
    return int(result.stdout.split()[-1])


ASK = 'from mmeffnet import host\nassert host.keep_freed_memory() is {}\n'


@glibc
def test_freed_memory_is_kept_for_the_next():
    assert page_faults('') > 10_000  # or this test shows nothing
    assert page_faults(ASK.format(True)) < 100


@glibc
@pytest.mark.parametrize('env', [{'MALLOC_TRIM_THRESHOLD_': '131072'},
                                 {'GLIBC_TUNABLES': 'glibc.malloc.perturb=0'}])
def test_what_the_user_has_chosen_stays(env):
    assert page_faults(ASK.format(False), **env) > 10_000


@glibc
def test_processes_that_are_forked_keep_it_too():
    code = ASK.format(True) + 'import os, sys\nif pid := os.fork():\n    os.waitpid(pid, 0)\n' \
        '    sys.exit()\n'
    assert page_faults(code) < 100


def test_other_libraries_are_left_alone(monkeypatch):
    from mmeffnet import host
    monkeypatch.setattr(platform, 'libc_ver', lambda: ('', ''))
    assert host.keep_freed_memory() is False


@glibc
def test_tools_ask_for_it_on_a_cpu(tmp_path, tiny_config):
    """A training in this way, and then large blocks in its process."""
    config = tiny_config('train_cfg = dict(max_epochs=1)',
                         'train_dataloader = dict(dataset=dict(indices=32))')
    script = tmp_path / 'train_and_count.py'
    script.write_text(f'import runpy, sys\nsys.argv = ["train.py", {config!r}]\n'
                      f'runpy.run_path({str(MIM / "tools/train.py")!r}, run_name="__main__")\n'
                      + FAULTS)
    result = subprocess.run([sys.executable, '-W', 'ignore', str(script)], cwd=tmp_path, text=True,
                            capture_output=True, timeout=300,
                            env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''})
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout.split()[-1]) < 100


def test_waiting_is_set_before_pytorch_is_there_and_the_users_choice_stays(tmp_path):
    code = ('import os, sys\nfrom mmeffnet import host\nhost.wait_briefly()\n'
            'print("torch" in sys.modules, os.environ["GOMP_SPINCOUNT"])')
    clean = {name: value for name, value in os.environ.items() if name != 'GOMP_SPINCOUNT'}
    for env, expected in ((clean, 'False 10000'), ({**clean, 'GOMP_SPINCOUNT': '7'}, 'False 7')):
        output = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], env=env, check=True,
                                capture_output=True, text=True, timeout=300).stdout
        assert output.splitlines()[-1] == expected
