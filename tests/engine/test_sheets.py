"""The sheet of predictions: one picture, with what was found and what is true."""
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.registry import HOOKS
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from PIL import Image

from mmeffnet.engine import sheets

GRAY = 90
BLUE, YELLOW = (86, 180, 233), (240, 228, 66)  # of what is found, of what is true


def detection(path, score=0.9):
    boxes = torch.tensor([[8., 8., 40., 40.]])
    return BaseDataElement(metainfo=dict(img_path=str(path)), gt_instances=InstanceData(
        bboxes=boxes + 15, labels=torch.tensor([1])), pred_instances=InstanceData(
        bboxes=boxes, labels=torch.tensor([1]), scores=torch.tensor([score])))


@pytest.fixture
def photograph(tmp_path):
    Image.new('RGB', (64, 64), (GRAY, ) * 3).save(tmp_path / 'gray.png')
    return tmp_path / 'gray.png'


def runner(folder, **metainfo):
    loader = SimpleNamespace(dataset=SimpleNamespace(metainfo=metainfo))
    return SimpleNamespace(work_dir=str(folder), val_dataloader=loader, test_dataloader=loader,
                           logger=logging.getLogger('sheets'))


def run(hook, place, *batches):
    hook.before_val_epoch(place)
    for index, batch in enumerate(batches):
        hook.after_val_iter(place, index, outputs=batch)
    hook.after_val_epoch(place)


def pixels(folder):
    return np.asarray(Image.open(folder / 'predictions.png').convert('RGB')).astype(int)


def has(picture, color):
    return bool((np.abs(picture - color).max(-1) < 12).any())


def test_found_and_true_boxes_are_drawn_in_their_colours(photograph, tmp_path):
    hook = HOOKS.build(dict(type='mmeffnet.PredictionSheetHook'))
    run(hook, runner(tmp_path, classes=('a', 'b')), [detection(photograph)])
    assert has(pixels(tmp_path), BLUE)
    assert has(pixels(tmp_path), YELLOW)


def test_a_photograph_of_a_phone_is_turned_as_the_pipeline_turns_it(tmp_path):
    image, exif = Image.new('RGB', (60, 40), (GRAY, ) * 3), Image.Exif()
    exif[0x0112] = 6  # lies on its side: upright it is 40 x 60
    image.save(tmp_path / 'phone.jpg', exif=exif)
    truth = torch.zeros(1, 60, 40, dtype=torch.long)
    sample = BaseDataElement(metainfo=dict(img_path=str(tmp_path / 'phone.jpg')),
                             gt_sem_seg=PixelData(data=truth),
                             pred_sem_seg=PixelData(data=truth + 1))
    sheets.draw_sheet([sample], dict(classes=('a', 'b'), palette=[BLUE, YELLOW]),
                      tmp_path / 'predictions.png')
    assert has(pixels(tmp_path), YELLOW)


def test_a_picture_that_opencv_does_not_read_is_drawn(tmp_path):
    Image.new('RGB', (64, 64), (GRAY, ) * 3).save(tmp_path / 'a.tga')
    sheets.draw_sheet([detection(tmp_path / 'a.tga')], dict(classes=('a', 'b')),
                      tmp_path / 'predictions.png')
    assert has(pixels(tmp_path), BLUE)


def test_boxes_of_low_score_are_not_drawn(photograph, tmp_path):
    hook = HOOKS.build(dict(type='mmeffnet.PredictionSheetHook', score=0.5))
    run(hook, runner(tmp_path, classes=('a', 'b')), [detection(photograph, score=0.4)])
    assert not has(pixels(tmp_path), BLUE)


def test_names_with_dollars_are_drawn_as_they_are(photograph, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(sheets, 'save_figure', lambda figure, path: figures.append(figure))
    path = photograph.rename(tmp_path / 'US$_$b.png')
    sheets.draw_sheet([detection(path)], dict(classes=('a', '$5_$10')), tmp_path / 'sheet.png')
    figures[0].draw_without_rendering()
    axes = figures[0].axes[0]
    names = [axes.title, *axes.texts]
    assert [text.get_text() for text in names] == ['US$_$b.png', '$5_$10 0.90']
    assert not any(text.get_parse_math() for text in names)


@pytest.mark.parametrize('pictures', [1, 2, 5])
def test_the_headline_fits_on_the_sheet(pictures, photograph, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(sheets, 'save_figure', lambda figure, path: figures.append(figure))
    sheets.draw_sheet([detection(photograph)] * pictures, {}, tmp_path / 'sheet.png')
    figure, = figures
    figure.draw_without_rendering()
    line, sheet = figure._suptitle.get_window_extent(), figure.bbox
    assert 0 < line.x0 < line.x1 < sheet.x1
    assert max(axis.title.get_window_extent().y1 for axis in figure.axes) < line.y0 < line.y1 < (
        sheet.y1)


def test_only_the_first_pictures_are_kept(photograph, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(sheets, 'draw_sheet', lambda samples, *args: drawn.append(len(samples)))
    hook = HOOKS.build(dict(type='mmeffnet.PredictionSheetHook', pictures=3))
    run(hook, runner(tmp_path), [detection(photograph)] * 2, [detection(photograph)] * 2)
    run(hook, runner(tmp_path), [detection(photograph)])
    assert drawn == [3, 1]


def test_masks_are_painted_with_the_palette(photograph, tmp_path):
    truth, found = torch.zeros(1, 64, 64, dtype=torch.long), torch.ones(1, 64, 64, dtype=torch.long)
    truth[0, 0, 0] = 255  # what is to be ignored has no colour of its own
    sample = BaseDataElement(metainfo=dict(img_path=str(photograph)),
                             gt_sem_seg=PixelData(data=truth), pred_sem_seg=PixelData(data=found))
    hook = HOOKS.build(dict(type='mmeffnet.PredictionSheetHook'))
    run(hook, runner(tmp_path, palette=[[10, 200, 10], [200, 10, 200]]), [sample])
    picture = pixels(tmp_path)
    assert has(picture, (10, 200, 10))
    assert has(picture, (200, 10, 200))


def test_a_classifier_gets_no_sheet(tmp_path):
    hook = HOOKS.build(dict(type='mmeffnet.PredictionSheetHook'))
    run(hook, runner(tmp_path), [BaseDataElement(pred_label=torch.tensor(1))])
    assert not (tmp_path / 'predictions.png').exists()


@pytest.mark.parametrize(('name', 'value'), [('pictures', 0), ('score', 1.5)])
def test_a_wrong_argument_is_named(name, value):
    with pytest.raises(ValueError, match=f'{name}={value} must be'):
        HOOKS.build(dict(type='mmeffnet.PredictionSheetHook', **{name: value}))
