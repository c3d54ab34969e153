"""tools/build_operators.py up to the compiler itself, which .ci/run lets compile."""
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import pytest

from mmeffnet.engine import cxx, operators

TAG = f'cp{sys.version_info.major}{sys.version_info.minor}'


@pytest.fixture
def stack(monkeypatch):
    """Make it look as if these distributions alone were installed."""
    def installed(**versions):
        def look(name):
            try:
                return versions[name.replace('-', '_')]
            except KeyError:
                raise PackageNotFoundError(name) from None
        monkeypatch.setattr(operators, 'version', look)
        monkeypatch.setattr(operators, 'works', lambda: False)
    return installed


WHOLE = dict(torch='2.14.1', onedl_mmcv='2.3.6', setuptools='81', wheel='1', ninja='1')


def line(capsys, *argv, code=2):
    with pytest.raises(SystemExit) as exit_:
        operators.main([str(a) for a in argv])
    assert exit_.value.code == code
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_operators_that_work_are_left_alone(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(operators, 'works', lambda: True)
    operators.main(['--wheels', str(tmp_path / 'wheels')])
    assert 'there already' in capsys.readouterr().out
    assert not (tmp_path / 'wheels').exists()


@pytest.mark.parametrize('there', [True, False])
def test_operators_that_load_and_do_not_run_are_no_operators(there, monkeypatch, tmp_path):
    """Such as those compiled without CUDA, once there is a GPU."""
    (tmp_path / 'mmcv').mkdir()
    (tmp_path / 'mmcv/__init__.py').touch()
    (tmp_path / 'mmcv/ops.py').write_text(
        'def nms(boxes, scores, least):\n    assert len(boxes) == len(scores)\n'
        + '    raise RuntimeError("not found")\n' * (not there))
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    assert operators.works() is there


@pytest.mark.parametrize('lacking', ['onedl_mmcv', 'torch', 'ninja'])
def test_a_package_that_is_missing_is_named_with_the_command(stack, capsys, tmp_path, lacking):
    stack(**{name: number for name, number in WHOLE.items() if name != lacking})
    said = line(capsys, '--wheels', tmp_path)
    assert lacking.replace('_', '-') in said
    assert 'pip install "mmeffnet[detection]"' in said


def test_a_compiler_that_is_missing_is_named(stack, capsys, tmp_path, monkeypatch):
    stack(**WHOLE)
    monkeypatch.setattr(operators.shutil, 'which', lambda name: None)
    assert 'needs a C++ compiler' in line(capsys, '--wheels', tmp_path)


def test_jobs_below_one_are_refused(capsys):
    assert line(capsys, '--jobs', 0) == 'error: --jobs 0 must be at least 1'


def test_a_failed_compilation_names_the_first_error_and_the_log(stack, capsys, tmp_path,
                                                                monkeypatch):
    stack(**WHOLE)

    def fail(command, environment, log):
        log.write_text('[1/9] c++ nms.cpp\nnms.cpp:3:1: error: no such thing\nerror: later\n')
        return 1
    monkeypatch.setattr(operators, '_run', fail)
    said = line(capsys, '--wheels', tmp_path, code=1)
    assert 'nms.cpp:3:1: error: no such thing;' in said
    assert str(tmp_path / 'torch-2.14.1' / 'build.log') in said


def test_a_wheel_of_this_mmcv_python_and_pytorch_is_taken(stack, tmp_path, monkeypatch):
    stack(**WHOLE)
    folder = tmp_path / 'torch-2.14.1'
    folder.mkdir()
    for name in (f'onedl_mmcv-2.3.5-{TAG}-x.whl', 'onedl_mmcv-2.3.6-cp27-x.whl',
                 f'onedl_mmcv-2.3.6-{TAG}-x.whl'):
        (folder / name).touch()
    taken = []
    monkeypatch.setattr(operators, 'install', taken.append)
    operators.main(['--wheels', str(tmp_path)])
    assert taken == [folder / f'onedl_mmcv-2.3.6-{TAG}-x.whl']


def test_the_compiler_is_told_the_newer_standard_last(tmp_path):
    wrapped = operators._wrapped(tmp_path / 'cxx', '/bin/echo')
    said = subprocess.run([wrapped, '-std=c++17', 'a b.cpp'], capture_output=True, text=True)
    assert said.stdout == '-std=c++17 a b.cpp -std=c++20 -g0\n'


@pytest.fixture
def gcc(tmp_path):
    """A folder with sources of an extension, and the wrapped compiler; gives its exit code."""
    compiler = shutil.which('g++')
    if compiler is None:
        pytest.skip('g++ is not installed')
    (tmp_path / 'torch').mkdir()
    for name in ('first', 'second'):
        (tmp_path / f'{name}.cpp').write_text(
            f'#include <{cxx.HEADER}>\nint {name}() {{ return ANSWER; }}\n')
    (tmp_path / 'headers').mkdir()
    wrapped = operators._wrapped(tmp_path / 'headers' / 'cxx', compiler)

    def compiled(name, *flags):
        return subprocess.run([wrapped, '-MMD', '-MF', f'{name}.d', '-I.', '-std=c++17', *flags,
                               '-c', f'{name}.cpp', '-o', f'{name}.o'], cwd=tmp_path).returncode
    return compiled


def test_headers_are_compiled_once(gcc, tmp_path):
    (tmp_path / cxx.HEADER).write_text('#pragma once\nconstexpr int ANSWER = 42;\n')
    assert gcc('first') == 0
    assert (tmp_path / 'first.o').exists()
    (tmp_path / cxx.HEADER).unlink()
    (tmp_path / 'second.cpp').write_text('int second() { return ANSWER; }\n')
    assert gcc('second') == 0


def test_a_source_with_other_flags_has_its_own_headers(gcc, tmp_path):
    (tmp_path / cxx.HEADER).write_text('#pragma once\nconstexpr int ANSWER = NUMBER;\n')
    with (tmp_path / 'second.cpp').open('a') as file:
        file.write('static_assert(ANSWER == 2);\n')
    assert gcc('first', '-DNUMBER=1') == 0
    assert list((tmp_path / 'headers').glob('*.gch'))
    assert gcc('second', '-DNUMBER=2') == 0
    assert gcc('second', '-DNUMBER=1') != 0


def test_what_has_been_preprocessed_is_left_alone(gcc, tmp_path):
    (tmp_path / cxx.HEADER).write_text('constexpr int ANSWER = 42;\n')  # not to be read twice
    assert gcc('first', '-x', 'c++') == 0
    assert not list((tmp_path / 'headers').glob('*.gch'))


def test_headers_that_fail_are_left_to_the_sources(gcc, tmp_path):
    (tmp_path / cxx.HEADER).write_text('#error not without a source\n')
    assert gcc('first') != 0
    (tmp_path / cxx.HEADER).write_text('#pragma once\nconstexpr int ANSWER = 42;\n')
    assert gcc('first') == 0
    assert not list((tmp_path / 'headers').glob('*.gch'))


def test_what_pip_says_is_kept_and_its_exit_code_too(tmp_path):
    code = 'print("[3/7] c++ nms.o"); print("done"); raise SystemExit(3)'
    assert operators._run([sys.executable, '-c', code], {}, tmp_path / 'log') == 3
    assert (tmp_path / 'log').read_text() == '[3/7] c++ nms.o\ndone\n'


def test_the_official_mmcv_has_no_sources_here(stack):
    stack(torch='2.14.1', mmcv_lite='2.2.0')
    with pytest.raises(operators.InputError, match='without mmcv or mmcv-lite'):
        operators.source()


def test_a_wheel_that_does_not_run_is_an_error(monkeypatch, tmp_path):
    done = []

    def run(command, **_):
        done.append(command)
        failed = command[1] == '-c'
        return subprocess.CompletedProcess(command, int(failed), '', 'x\nImportError: symbol')
    monkeypatch.setattr(operators.subprocess, 'run', run)
    with pytest.raises(operators.RunError, match='does not run: ImportError: symbol'):
        operators.install(tmp_path / 'a.whl')
    assert '--no-deps' in done[0]


def test_the_version_of_an_installed_package_is_told():
    assert operators.installed('torch') == version('torch')


def test_a_torn_wheel_is_named_with_the_way_out(tmp_path):
    torn = tmp_path / f'onedl_mmcv-2.3.6-{TAG}-{TAG}-any.whl'
    torn.write_bytes(b'PK torn')
    with pytest.raises(operators.RunError, match='cannot be installed: .* with --force') as info:
        operators.install(torn)
    assert str(torn) in str(info.value)


def test_a_folder_that_cannot_be_written_is_named(stack, capsys, tmp_path):
    stack(**WHOLE)
    (tmp_path / 'file').touch()
    said = line(capsys, '--wheels', tmp_path / 'file')
    assert said.startswith(f"error: --wheels {str(tmp_path / 'file')!r}: nothing can be written")
