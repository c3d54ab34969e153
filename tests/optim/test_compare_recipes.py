"""What tools/compare_recipes.py keeps and prints, with trainings that are made up."""
import importlib.util
import json

import pytest

from mmeffnet.errors import one_line_errors
from mmeffnet.plugin import MIM


@pytest.fixture
def tool(monkeypatch):
    """The tool; a training of N epochs gains a per cent in each, from its seed on."""
    spec = importlib.util.spec_from_file_location(
        'compare_recipes', MIM / 'tools/compare_recipes.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.trained = []

    def accuracies(recipe, seed, epochs, work_dir):
        tool.trained.append((recipe, seed, epochs, work_dir.name))
        return [seed + float(epoch) for epoch in range(1, epochs + 1)]
    monkeypatch.setattr(tool, 'accuracies', accuracies)
    return tool


def rows(tool, monkeypatch, capsys, folder, *argv):
    monkeypatch.setattr('sys.argv', ['compare_recipes.py', '--out', str(folder), *argv])
    tool.main()
    return capsys.readouterr().out.splitlines()[-1]


def test_ctrl_c_says_how_this_tool_goes_on(tool, monkeypatch, capsys, tmp_path):
    """Also within a training of ours, which has a way on of its own."""
    whole = tool.accuracies

    def interrupted(*args):
        with one_line_errors(go_on='--resume'):
            raise KeyboardInterrupt
    monkeypatch.setattr(tool, 'accuracies', interrupted)
    run = [tool, monkeypatch, capsys, tmp_path, '--recipes', 'timm', '--seeds', '0']
    with pytest.raises(SystemExit, match='130'):
        rows(*run)
    assert capsys.readouterr().err == (
        'interrupted: the same command goes on after the runs that are in --out\n')
    monkeypatch.setattr(tool, 'accuracies', whole)
    assert rows(*run).startswith('| timm | 12.00 |')


def test_a_trial_of_fewer_epochs_takes_the_place_of_no_training(
        tool, monkeypatch, capsys, tmp_path):
    (tmp_path / 'results.json').write_text(json.dumps({'timm:0': dict(top1=[9.], seconds=1)}))
    run = [tool, monkeypatch, capsys, tmp_path, '--recipes', 'timm', '--seeds', '0', '10']
    assert rows(*run, '--epochs', '1') == '| timm | 1.00, 11.00 | 6.00 | 10.00 | -, -, - |'
    whole = '| timm | 12.00, 22.00 | 17.00 | 10.00 | 8.0, 11.0, 14.0 |'
    assert rows(*run) == whole
    assert rows(*run, '--epochs', '3') == '| timm | 3.00, 13.00 | 8.00 | 10.00 | -, 6.0, 7.0 |'
    assert rows(*run) == whole
    assert [(seed, epochs) for _, seed, epochs, _ in tool.trained] == [
        (0, 1), (10, 1), (0, 12), (10, 12), (0, 3), (10, 3)]
    assert len({name for *_, name in tool.trained}) == 6
