"""Archives of packed pictures and of shards: what is read is what was in the folder."""
import copy
import errno
import json
import multiprocessing
import os
import pickle
import re
from pathlib import Path

import mmcv
import numpy as np
import pytest
from conftest import run_tool
from downstream import assert_equal_weights
from mmengine import fileio
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmpretrain.datasets import CustomDataset
from PIL import Image
from skimage import data
from torch.nn import Module
from torch.utils.data import DataLoader

from mmeffnet.datasets import archive, packed, shards
from mmeffnet.datasets.shard_sampler import ShardSampler
from mmeffnet.engine import archive_cli
from mmeffnet.engine.data_checks import check_dataset
from mmeffnet.errors import InputError, RunError

TOOLS = {'pack': (archive_cli.pack, 'PackedImages', 'bin'),
         'shard': (archive_cli.shard, 'ShardedImages', 'tar')}
COUNT = 11  # pictures, in parts of four


@pytest.fixture
def config(tmp_path):
    """Two classes of small pictures of many sizes, and a config that names them."""
    random = np.random.default_rng(0)
    for i in range(COUNT):
        folder = tmp_path / 'pictures' / ('cat' if i % 2 else 'dog') / 'below'
        folder.mkdir(parents=True, exist_ok=True)
        height, width = random.integers(20, 90, 2)
        image = Image.fromarray(data.chelsea()[i:i + height, 3 * i:3 * i + width])
        image.save(folder / f'{i}.{"png" if i == 4 else "jpeg"}')
    path = tmp_path / 'config.py'
    path.write_text('train_dataloader = dict(dataset=dict(type="mmpretrain.CustomDataset", '
                    f'data_root={str(tmp_path / "pictures")!r}))')
    return str(path)


def written(config, name, *flags):
    """The folder of an archive that the tool has written."""
    out = Path(config).parent / name
    assert TOOLS[name][0]([config, '--out', str(out), '--images-per-part', '4', *flags]) == 0
    return out


def opened(name, folder, **options):
    return DATASETS.build(dict(type=f'mmeffnet.{TOOLS[name][1]}', data_root=str(folder), **options))


def refused(name, *argv):
    with pytest.raises(SystemExit) as ended:
        TOOLS[name][0]([*map(str, argv)])
    assert ended.value.code == 2


def at_manifest(changed):
    return lambda folder: changed(folder / 'archive.json')


def folder_of(config):
    return CustomDataset(data_root=str(Path(config).parent / 'pictures'))


def test_shards_are_the_files_of_the_folder(config):
    theirs, ours = folder_of(config), opened('shard', written(config, 'shard'))
    assert len(ours) == len(theirs) == COUNT
    assert ours.metainfo['classes'] == theirs.metainfo['classes']
    assert ours.shard_sizes == [4, 4, 3]
    for a, b in zip(theirs, ours, strict=True):
        assert fileio.get(b['img_path']) == Path(a['img_path']).read_bytes()
        assert (a['gt_label'], a['sample_idx']) == (b['gt_label'], b['sample_idx'])
        assert b['img_path'].endswith('#' + a['img_path'].split('pictures/')[1])


@pytest.mark.parametrize(('wrapped', 'count'), [
    ('dict(type="ConcatDataset", datasets=[{0}, {0}])', 2 * COUNT),
    ('dict(type="RepeatDataset", times=2, dataset={0})', 2 * COUNT),
    ('dict(type="KFoldDataset", num_splits=11, dataset={0})', COUNT - 1),
    ('dict(type="RepeatDataset", times=2, dataset=dict(type="ConcatDataset", datasets=[{0}]))',
     2 * COUNT)])
def test_data_sets_in_others_are_written(config, wrapped, count):
    inner = ('dict(type="CustomDataset", pipeline=[dict(type="nothing")], '
             f'data_root={str(Path(config).parent / "pictures")!r})')
    Path(config).write_text(f'train_dataloader = dict(dataset={wrapped.format(inner)})')
    ours = opened('shard', written(config, 'shard'))
    assert len(ours) == count
    assert ours.metainfo['classes'] == ('cat', 'dog')


def test_webdataset_reads_the_shards(config):
    webdataset = pytest.importorskip('webdataset')
    folder = written(config, 'shard')
    theirs = [*webdataset.WebDataset(sorted(map(str, folder.glob('*.tar'))), shardshuffle=False)]
    ours = [*opened('shard', folder)]
    assert [int(sample['cls']) for sample in theirs] == [sample['gt_label'] for sample in ours]
    assert [sample.get('jpg') or sample['png'] for sample in theirs] == [
        fileio.get(sample['img_path']) for sample in ours]


def test_equal_pictures_give_equal_shards(config):
    sums = []
    for _ in range(2):
        folder = written(config, 'shard')
        sums.append(json.loads((folder / 'archive.json').read_text()))
        for path in folder.iterdir():
            path.unlink()
    assert sums[0] == sums[1]
    assert str(Path(config).parent) not in json.dumps(sums)


def means(outputs, inputs):
    """The share of each input in each output, when pixels are areas."""
    edges = np.linspace(0, inputs, outputs + 1)
    pixels = np.arange(inputs)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.clip(overlap, 0, None) / (inputs / outputs)


def test_packed_pictures_are_the_folders_made_smaller(config, monkeypatch):
    monkeypatch.setattr(packed, 'AT_ONCE', 3)  # of the four in a part
    ours = opened('pack', written(config, 'pack', '--short-side', '32', '--workers', '2'))
    smaller = 0
    for a, b in zip(folder_of(config), ours, strict=True):
        whole = mmcv.imread(a['img_path'])
        assert b['gt_label'] == a['gt_label']
        assert b['img_shape'] == b['img'].shape[:2]
        if min(whole.shape[:2]) <= 32:
            assert np.array_equal(b['img'], whole)
            continue
        smaller += 1
        assert min(b['img_shape']) == 32
        rows, columns = (means(*sizes) for sizes in zip(b['img_shape'], whole.shape))
        assert np.abs(np.einsum('rh,hwc,vw->rvc', rows, whole, columns) - b['img']).max() < 1
    assert 0 < smaller < COUNT


@pytest.mark.parametrize('name', TOOLS)
def test_a_writer_that_was_interrupted_goes_on(config, monkeypatch, name, capsys):
    whole = written(config, name)
    expected = {path.name: path.read_bytes() for path in whole.iterdir()}
    (whole / 'archive.json').unlink()
    (whole / f'part-00001.{TOOLS[name][2]}').unlink()  # killed between index and payload
    for process in ('17', '17-0a1b2c3d'):  # as earlier versions called it, too
        (whole / f'.part-00002.{TOOLS[name][2]}.{process}.part').write_bytes(b'half')
    payload = whole / f'part-00002.{TOOLS[name][2]}'
    payload.write_bytes(payload.read_bytes()[:-1])  # a disk that was full
    kept = (whole / f'part-00000.{TOOLS[name][2]}').stat().st_mtime_ns
    capsys.readouterr()
    written(config, name)
    assert '1 of them there before' in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in whole.iterdir()} == expected
    assert (whole / f'part-00000.{TOOLS[name][2]}').stat().st_mtime_ns == kept


@pytest.mark.parametrize('name', TOOLS)
def test_nothing_is_written_over_what_is_there(config, name, capsys):
    folder = written(config, name)
    refused(name, config, '--out', folder, '--images-per-part', 5)
    assert 'holds another archive (it differs in per_part)' in capsys.readouterr().err
    (folder / 'archive.json').unlink()
    refused(name, config, '--out', folder, '--images-per-part', 3)
    assert "part-00003.json', which is no part" not in capsys.readouterr().err
    (folder / 'notes.txt').write_text('mine')
    refused(name, config, '--out', folder, '--images-per-part', 4)
    assert "holds 'notes.txt', which is no part of this archive" in capsys.readouterr().err
    assert (folder / 'part-00000.json').is_file()


@pytest.mark.parametrize('name', TOOLS)
@pytest.mark.parametrize(('file', 'content', 'words'), [
    ('part-00002.{}', 'mine', "part-00002.{}' has no index 'part-00002.json', so it may be any"),
    ('part-00002.json', '{{"a": 1}}', 'belongs to an archive of other pictures or options'),
    ('part-00002.json', 'mine', "part-00002.json' cannot be read: Expecting value"),
    ('part-00002.json', '[1]', 'it holds no JSON object; choose another --out, or remove part-0'),
    ('archive.json', '[1]', "archive.json' cannot be read: it holds no JSON object"),
    ('.mine.part', 'mine', "holds '.mine.part', which is no part of this archive")])
def test_files_of_others_are_kept(config, name, file, content, words, capsys):
    file, content, words = (text.format(TOOLS[name][2]) for text in (file, content, words))
    folder = Path(config).parent / name
    folder.mkdir()
    (folder / file).write_text(content)
    refused(name, config, '--out', folder, '--images-per-part', 4)
    assert words in capsys.readouterr().err
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [(file, content)]


def killed(config, name, file):
    """Write an archive until ``file`` would take its name."""
    replace = Path.replace

    def kill(path, target):
        if target.name == file.format(TOOLS[name][2]):
            raise KeyboardInterrupt
        return replace(path, target)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, 'replace', kill)
        with pytest.raises(SystemExit, match='130'):
            written(config, name)


@pytest.mark.parametrize('name', TOOLS)
@pytest.mark.parametrize('file', ['part-00001.json', 'part-00001.{}', 'archive.json'])
def test_a_writer_that_is_killed_at_any_file_goes_on(config, name, file):
    killed(config, name, file)
    assert len(opened(name, written(config, name))) == COUNT


@pytest.mark.parametrize('name', TOOLS)
def test_a_picture_that_was_repaired_is_written_anew(config, name, capsys):
    folder = written(config, name)
    before = [sample.get('img') for sample in opened(name, folder)]
    source = Path(folder_of(config)[5]['img_path'])
    Image.fromarray(data.chelsea()[:90, :90]).save(source)
    killed(config, name, 'part-00001.{}')
    with pytest.raises(InputError, match='its writing was begun and not ended'):
        opened(name, folder)
    capsys.readouterr()
    written(config, name)
    assert '2 of them there before' in capsys.readouterr().out
    ours = opened(name, folder)
    if name == 'shard':
        assert fileio.get(ours[5]['img_path']) == source.read_bytes()
    else:
        assert ours[5]['img_shape'] == (90, 90) != before[5].shape[:2]
    assert TOOLS[name][0](['--check', str(folder)]) == 0


def test_two_processes_do_not_write_one_archive(config, capsys):
    """One would remove what the other has begun."""
    folder = written(config, 'pack')
    parts = {path: path.read_bytes() for path in folder.iterdir()}
    with archive._alone(folder):
        half = folder / '.part-00001.bin.17-0a1b2c3d.part'
        half.touch()
        refused('pack', config, '--out', folder, '--images-per-part', 4)
        assert half.exists()
    (folder / archive.LOCK).touch()  # as a writer that was killed leaves it
    assert 'is being written by another process: wait until that' in capsys.readouterr().err
    written(config, 'pack')  # the lock has ended
    assert {path: path.read_bytes() for path in folder.iterdir()} == parts


def test_labels_may_be_whole_numbers_of_numpy(config):
    dataset = folder_of(config)
    samples = archive.samples_of(dataset)
    rows = [dict(dataset[i], gt_label=np.int64(dataset[i]['gt_label'])) for i in range(COUNT)]
    found = archive.samples_of(Rows(rows))
    assert found == samples
    assert {type(sample.label) for sample in found} == {int}
    with pytest.raises(InputError, match='^Rows has no files with one class each'):
        archive.samples_of(Rows())


class Rows(list):
    """A data set of these samples."""
    get_data_info = list.__getitem__


def test_other_options_are_another_archive(config, capsys):
    folder = written(config, 'pack')
    (folder / 'archive.json').unlink()
    refused('pack', config, '--out', folder, '--images-per-part', 4, '--short-side', 30)
    assert 'belongs to an archive of other pictures or options' in capsys.readouterr().err


@pytest.mark.parametrize('name', TOOLS)
def test_sums_are_checked_when_asked(config, name, capsys):
    folder = written(config, name)
    assert TOOLS[name][0](['--check', str(folder)]) == 0
    assert '3 of 3 parts are as written' in capsys.readouterr().out
    path = folder / f'part-00001.{TOOLS[name][2]}'
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    assert TOOLS[name][0](['--check', str(folder)]) == 1
    assert f'{path} is not what was written' in capsys.readouterr().out


def change(key, value):
    def changed(path):
        index = json.loads(path.read_text())
        path.write_text(json.dumps(dict(index, **{key: value(index[key])})))
    return changed


@pytest.mark.parametrize('name', TOOLS)
@pytest.mark.parametrize('spoil', [
    change('labels', lambda labels: [1 - label for label in labels]),
    change('names', lambda names: names[::-1]), change('names', lambda names: names[1:]),
    change('places', lambda places: places[::-1]), change('sha256', lambda _: 'another')])
def test_a_changed_index_is_named_when_asked_and_written_anew(config, name, spoil, capsys):
    path = written(config, name) / 'part-00001.json'
    expected = path.read_bytes()
    spoil(path)
    assert TOOLS[name][0](['--check', str(path.parent)]) == 1
    told = capsys.readouterr().out
    assert f'{path} is not what was written: remove part-00001.* there, and give' in told
    assert '2 of 3 parts are as written' in told
    with pytest.raises(InputError, match="part-00001.json' is not what was written: remove part-"
                       r'00001.\* there and run the tool'):  # and trained on by no means
        opened(name, path.parent)
    written(config, name)
    assert path.read_bytes() == expected


@pytest.mark.parametrize('name', TOOLS)
@pytest.mark.parametrize('spoil', [Path.unlink, lambda path: path.write_text('{')])
def test_a_lost_index_is_named_when_asked(config, name, spoil, capsys):
    path = written(config, name) / 'part-00001.json'
    expected = path.read_bytes()
    spoil(path)
    assert TOOLS[name][0](['--check', str(path.parent)]) == 1
    assert f'{path} is not what was written: remove part-00001.*' in capsys.readouterr().out
    refused(name, config, '--out', path.parent, '--images-per-part', 4)
    for file in [*path.parent.glob('part-00001.*')]:  # as it says
        file.unlink()
    written(config, name)
    assert path.read_bytes() == expected


@pytest.mark.parametrize('name', TOOLS)
def test_archives_of_earlier_versions_are_read_and_kept(config, name, capsys):
    folder = written(config, name)
    for path in folder.glob('part-*.json'):
        index = json.loads(path.read_text())
        del index['places_digest'], index['source_bytes']
        path.write_text(json.dumps(index))
    assert len(opened(name, folder)) == COUNT
    assert TOOLS[name][0](['--check', str(folder)]) == 0
    capsys.readouterr()
    written(config, name)
    assert '3 of them there before' in capsys.readouterr().out
    change('labels', lambda labels: [1 - label for label in labels])(folder / 'part-00000.json')
    assert TOOLS[name][0](['--check', str(folder)]) == 1


@pytest.mark.parametrize('name', TOOLS)
def test_a_torn_and_a_missing_part_are_named_before_a_run(config, name):
    folder = written(config, name)
    path = folder / f'part-00002.{TOOLS[name][2]}'
    content = path.read_bytes()
    for changed in (content[:-5], content + b'more'):
        path.write_bytes(changed)
        with pytest.raises(InputError, match=rf"part-00002.{TOOLS[name][2]}' has [\d,]+ bytes and "
                           r'was written with [\d,]+: it is torn; remove it and run'):
            opened(name, folder)
    path.unlink()
    with pytest.raises(InputError, match=f"part-00002.{TOOLS[name][2]}', a part of an archive, "
                       'cannot be read: No such file'):
        opened(name, folder)


@pytest.mark.parametrize(('spoil', 'words'), [
    (lambda folder: (folder / 'archive.json').unlink(), 'its writing was begun and not ended'),
    (lambda folder: (folder / 'archive.json').write_text('{"kind": "boxes", "version": 1}'),
     "is of kind 'boxes', version 1; 'shards', 1 is wanted"),
    (lambda folder: (folder / 'archive.json').write_text('{"kind": "shards", "version": 2}'),
     "is of kind 'shards', version 2; 'shards', 1 is wanted"),
    (lambda folder: (folder / 'archive.json').write_text('{'), "archive.json' cannot be read"),
    (lambda folder: (folder / 'archive.json').write_text('{"kind": "shards", "version": 1}'),
     r"archive.json' is not what was written \(KeyError: classes\): remove it and run"),
    (at_manifest(change('parts', lambda parts: [dict(file=part['file']) for part in parts])),
     r"archive.json' is not what was written \(KeyError: bytes\): remove it and run"),
    (at_manifest(change('parts', lambda parts: [dict(part, samples=5) for part in parts])),
     "part-00000.json' is not what was written: remove"),
    (lambda folder: (folder / 'part-00001.json').unlink(), "part-00001.json' cannot be read")])
def test_what_is_no_archive_is_said(config, spoil, words):
    folder = written(config, 'shard')
    spoil(folder)
    with pytest.raises(InputError, match=words):
        opened('shard', folder)
    with pytest.raises(InputError, match="missing' is no archive: it has no archive.json$"):
        opened('shard', folder / 'missing')


@pytest.mark.parametrize(('argv', 'words'), [
    (['--out', 'x'], 'CONFIG and --out FOLDER are needed, or --check FOLDER'),
    (['{config}'], 'CONFIG and --out FOLDER are needed, or --check FOLDER'),
    (['{config}', '--out', 'x', '--workers', '0'], '--workers 0 must be at least 1'),
    (['{config}', '--out', 'x', '--images-per-part', '0'], '--images-per-part 0 must be at least'),
    (['{config}', '--out', 'x', '--short-side', '0'], '--short-side 0 must be at least 1'),
    (['{config}', '--out', 'x', '--split', 'val'], 'has no val_dataloader'),
    (['{digits}', '--out', 'x'], 'Digits has no files with one class each')])
def test_wrong_arguments_are_one_line(config, tiny_config, argv, words, capsys, monkeypatch):
    monkeypatch.chdir(Path(config).parent)
    refused('pack', *[word.format(config=config, digits=tiny_config()) for word in argv])
    assert words in capsys.readouterr().err
    assert not Path('x').exists()


@pytest.mark.parametrize('name', TOOLS)
def test_a_file_in_the_place_of_a_folder_is_named(config, name, tmp_path, capsys):
    (tmp_path / 'taken').write_text('')
    refused(name, config, '--out', tmp_path / 'taken')
    assert capsys.readouterr().err.endswith("taken' cannot be written: File exists\n")


@pytest.mark.parametrize('name', TOOLS)
def test_a_full_disk_ends_the_writing_and_says_how_to_go_on(config, name, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(archive, 'described', full)
    with pytest.raises(SystemExit) as ended:
        written(config, name)
    assert ended.value.code == 1
    assert re.search(r'No space left on device; [\d.]+ GiB are free there. The parts that are '
                     'there are kept: the same command goes on', capsys.readouterr().err)


@pytest.mark.parametrize(('content', 'why'), [
    (b'nothing', 'reads no picture'), (b'', 'it is empty')])
def test_a_picture_that_cannot_be_packed_is_named(content, why, config, capsys):
    (Path(config).parent / 'pictures/cat/below/1.jpeg').write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        written(config, 'pack')
    assert ended.value.code == 1
    line = capsys.readouterr().err
    assert "below/1.jpeg' cannot be packed: " in line
    assert why in line
    left = sorted(path.name for path in (Path(config).parent / 'pack').iterdir())
    assert left in ([], ['part-00000.bin', 'part-00000.json'])  # no half of a part


@pytest.mark.parametrize('context', ['fork', 'spawn', pytest.param('forkserver', marks=[
    pytest.mark.slow])])
@pytest.mark.parametrize('name', TOOLS)
def test_workers_read_the_same(config, name, context):
    step = dict(type='mmeffnet.LoadRandomCrop', scale=16)
    dataset = opened(name, written(config, name), pipeline=[step])
    dataset.prepare_data(0)  # files are open in this process
    there = DataLoader(dataset, None, num_workers=2 if context == 'fork' else 1,
                       multiprocessing_context=context)
    assert [(row['gt_label'], *row['ori_shape']) for row in there] == [
        (row['gt_label'], *row['ori_shape']) for row in dataset]


@pytest.mark.parametrize('name', TOOLS)
def test_a_data_set_is_copied_and_cut(config, name):
    dataset = opened(name, written(config, name))
    expected = [sample['gt_label'] for sample in dataset]  # files are mapped then
    for same in (copy.copy(dataset), copy.deepcopy(dataset), pickle.loads(pickle.dumps(dataset))):
        assert [sample['gt_label'] for sample in same] == expected
    assert [sample['gt_label'] for sample in dataset.get_subset([7, 2])] == [
        expected[i] for i in (7, 2)]


@pytest.mark.parametrize('name', TOOLS)
def test_a_config_may_call_the_classes_otherwise(config, name):
    names = opened(name, written(config, name), metainfo=dict(classes=('Katze', 'Hund'))).metainfo
    assert names['classes'] == ('Katze', 'Hund')


def test_parts_whose_pictures_are_gone_are_kept(config):
    folder, samples = written(config, 'shard'), archive.samples_of(folder_of(config))
    os.unlink(samples[5].path)
    assert archive.write_archive(folder, shards.sharding(), samples, 4, ('cat', 'dog')) == 3


def test_a_spawned_worker_is_not_sent_the_pixels(config):
    dataset = opened('pack', written(config, 'pack'))
    pixels = [sample['img'] for sample in dataset]
    sent = pickle.dumps(dataset)
    assert len(sent) < sum(image.nbytes for image in pixels) / 10
    assert all(np.array_equal(a['img'], b)
               for a, b in zip(pickle.loads(sent), pixels, strict=True))


def test_the_configs_of_the_guide_read_archives(config, tmp_path, monkeypatch):
    guide = Path(__file__).parents[2] / 'docs/data.md'
    blocks = [block for block in re.findall(r'```python\n(_base_.*?)```', guide.read_text(),
                                            flags=re.DOTALL) if 'data_root' in block]
    monkeypatch.chdir(tmp_path)
    folders = [re.findall(r"data_root='(.*?)'", block) for block in blocks]
    for name, (folder, *others) in zip(('shard', 'pack'), folders, strict=True):
        Path(folder).parent.mkdir(parents=True)
        written(config, name).rename(folder)
        for other in others:
            Path(other).symlink_to(Path(folder).resolve())
    for block, named in zip(blocks, folders, strict=True):
        cfg = Config.fromstring(block, '.py')
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader)[
                :None if len(named) > 1 else 1]:
            dataset = DATASETS.build(loader.dataset)
            assert [sample['inputs'].shape for sample in dataset] == [(3, 224, 224)] * COUNT
            check_dataset(dataset, Module(), 'loader')
        assert cfg.train_dataloader.sampler.type in ('mmeffnet.ShardSampler', 'DefaultSampler')


@pytest.mark.parametrize('first', [[], [dict(type='mmpretrain.CenterCrop', crop_size=16)],
                                   [dict(type='RandomFlip', prob=1.)]])
def test_transforms_may_write_into_packed_pictures_and_change_no_file(config, first):
    erase = dict(type='mmpretrain.RandomErasing', erase_prob=1., mode='const', fill_color=(1, 2, 3))
    folder = written(config, 'pack')
    before = [sample['img'].copy() for sample in opened('pack', folder)]
    erased = [sample['img'] for sample in opened('pack', folder, pipeline=[*first, erase])]
    assert all((image == (1, 2, 3)).all(-1).any() for image in erased)
    assert all(map(np.array_equal, before, (sample['img'] for sample in opened('pack', folder))))


def test_packed_pictures_are_copied_where_the_first_transform_does_not_do_so(config):
    folder = written(config, 'pack')
    for name, arguments in (('EfficientNetCenterCrop', dict(crop_size=8)),
                            ('RandomResizedCrop', dict(scale=8)), ('Resize', dict(scale=8)),
                            ('ResizeEdge', dict(scale=8))):
        dataset = opened('pack', folder, pipeline=[dict(type=f'mmpretrain.{name}', **arguments)])
        assert not dataset.get_data_info(0)['img'].flags.writeable
        assert dataset[0]['img'].flags.writeable


def test_packed_pictures_are_not_loaded_again(config):
    dataset = opened('pack', written(config, 'pack'), pipeline=[
        dict(type='LoadImageFromFile'), dict(type='mmpretrain.PackInputs')])
    with pytest.raises(InputError, match='^val_dataloader: PackedImages gives pictures that are '
                       'decoded, and LoadImageFromFile in its pipeline takes files: leave it out$'):
        check_dataset(dataset, Module(), 'val_dataloader')


# Faults of the storage

@pytest.fixture
def shard(config, monkeypatch):
    monkeypatch.setattr(shards, 'WAIT', 0)
    monkeypatch.setattr(shards, '_files', type(shards._files)())
    monkeypatch.setattr(shards, '_faults', None)
    dataset = opened('shard', written(config, 'shard'))
    return dataset, dataset[5]['img_path']


def test_a_read_that_fails_is_tried_again_and_counted(shard, monkeypatch):
    dataset, address = shard
    expected, pread, failures = fileio.get(address), os.pread, [OSError(5, 'I/O error'), b'torn']

    def shaky(*args):
        if not failures:
            return pread(*args)
        failure = failures.pop()
        if isinstance(failure, OSError):
            raise failure
        return failure
    monkeypatch.setattr(os, 'pread', shaky)
    assert fileio.get(address) == expected
    assert dataset.faults.count == 2
    (first, torn), (second, failed) = dataset.faults.lines()
    assert (first, second) == (1, 2)
    assert 'part-00001.tar' in torn
    assert 'within a picture; tried again' in torn
    assert failed.endswith("part-00001.tar': I/O error; tried again")
    assert not [*dataset.faults.lines()]


def count_faults(dataset, address):
    """In a worker: a read that fails, tried again; what it counts."""
    shards.WAIT = 0
    os.truncate(shards.ADDRESS.match(address)[1], 600)
    with pytest.raises(RunError):
        fileio.get(address)
    assert dataset.faults.count == shards.RETRIES


def test_a_data_set_and_its_copies_count_together(shard):
    """Those of this process and of the workers that are started from it."""
    dataset, address = shard
    pickled = pickle.loads(pickle.dumps(dataset))
    worker = multiprocessing.get_context('spawn').Process(
        target=count_faults, args=(copy.deepcopy(dataset), address))
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    shards._told('from here')
    assert pickled.faults.count == dataset.faults.count == shards.RETRIES + 1


def test_a_shard_that_tears_or_goes_in_a_run_is_named(shard):
    dataset, address = shard
    path = shards.ADDRESS.match(address)[1]
    os.truncate(path, 600)
    with pytest.raises(RunError, match=r"part-00001.tar' cannot be read after 4 tries: it ends at "
                       r'byte [\d,]+, within a picture'):
        fileio.get(address)
    os.unlink(path)
    with pytest.raises(RunError, match="part-00001.tar' cannot be read after 4 tries: No such"):
        fileio.get(address)
    assert dataset.faults.count == 2 * shards.RETRIES


def test_a_slow_read_is_told(shard, monkeypatch):
    dataset, address = shard
    monkeypatch.setattr(shards, 'SLOW', -1)
    fileio.get(address)
    (_, line), = dataset.faults.lines()
    assert "part-00001.tar': reading" in line


def test_an_address_without_a_place_is_refused():
    with pytest.raises(InputError, match=r"'shard://a.tar' is no address of a picture"):
        fileio.get('shard://a.tar')


def test_an_address_is_read_whatever_picture_and_folder_are_called(tmp_path):
    part = tmp_path / 'new\nline [a]' / 'part.tar'
    part.parent.mkdir()
    part.write_bytes(b'0123456789')
    for name in ('dog.jpg', 'a.tar?1+2#.jpg', 'x\ny.tar?8+1#'):
        assert fileio.get(f'shard://{part}?2+3#{name}') == b'234'


def test_many_shards_keep_few_files_open(shard, monkeypatch):
    monkeypatch.setattr(shards, 'OPEN_FILES', 1)
    dataset, _ = shard
    close, closed = os.close, []
    monkeypatch.setattr(os, 'close', lambda file: closed.append(file) or close(file))
    opened_files = {}
    for sample in dataset:
        fileio.get(sample['img_path'])
        opened_files |= shards._files
    assert len(shards._files) == 1
    assert {*opened_files.values()} - {*shards._files.values()} <= {*closed}
    assert len(opened_files) == 3


def test_the_sampler_refuses_what_has_no_shards(shard):
    dataset, _ = shard
    assert len(ShardSampler(dataset)) == COUNT
    part = opened('shard', dataset._archive.folder, indices=5)
    for other, words in (([1, 2, 3], 'list with 3'), (part, 'ShardedImages with 5')):
        with pytest.raises(InputError, match='needs mmeffnet.ShardedImages with all its samples, '
                           f'and was given {words}; use DefaultSampler'):
            ShardSampler(other)
    for window in (0, 2.5):
        with pytest.raises(ValueError, match=f'window={window} must be a whole number of at least'):
            ShardSampler(dataset, window=window)


@pytest.mark.slow
def test_a_run_on_shards_is_the_run_on_the_folder(config, tiny_config, tmp_path):
    folder, results = written(config, 'shard'), []
    pipeline = ("[dict(type='LoadImageFromFile'), dict(type='mmpretrain.RandomResizedCrop', "
                "scale=16), dict(type='PackInputs')]")
    for name, dataset in (('folder', f"dict(type='CustomDataset', data_root='{tmp_path}/pictures'"),
                          ('shards', f"dict(type='mmeffnet.ShardedImages', data_root='{folder}'")):
        path = tiny_config(
            f'data = {dataset}, _delete_=True, pipeline={pipeline})', 'train_dataloader = dict('
            'batch_size=4, num_workers=2, persistent_workers=True, dataset=data)',
            'model = dict(head=dict(num_classes=2, topk=1), data_preprocessor=dict(num_classes=2))',
            'val_dataloader = val_cfg = val_evaluator = None', 'custom_hooks = []',
            'train_cfg = dict(max_epochs=2)', name=f'{name}.py')
        result = run_tool('train.py', path, '--work-dir', tmp_path / f'run_{name}', cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-2000:]
        results.append(tmp_path / f'run_{name}/epoch_2.pth')
    assert_equal_weights(*results)
