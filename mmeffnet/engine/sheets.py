"""One picture of what a detector or segmenter sees."""
from pathlib import Path
from textwrap import fill

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from PIL import Image, ImageOps

from mmeffnet.engine.plots import blank_figure, save_figure
from mmeffnet.registry import HOOKS

COLUMNS = 4
SIDE = 2.6        # of a picture on the sheet, in inches
SCORE = 0.3       # the least score of a box that is drawn
LABEL = 0.06      # height of a label, as a share of the picture
LINE = 0.15       # height of a line of the headline, in inches
LETTERS = 14      # of it in an inch
GAP = 3           # pixels between picture and masks
# Told apart by colour-blind eyes, and on photographs.
FOUND, TRUE = '#56b4e9', '#f0e442'


@HOOKS.register_module()
class PredictionSheetHook(Hook):
    """Draw the first held-out pictures with what was found into ``predictions.png``.

    After every validation and every test. Boxes found carry class and score and are blue; true
    boxes are yellow and dashed. Segmenters: the picture, the true and the found mask.

    Args:
        pictures (int): How many. Defaults to 12.
        score (float): Least score of a box that is drawn. Defaults to 0.3.
    """
    priority = 'LOW'

    def __init__(self, pictures: int = 12, score: float = SCORE):
        if not isinstance(pictures, int) or pictures < 1:
            raise ValueError(f'pictures={pictures!r} must be a whole number above 0')
        if not 0 <= score <= 1:
            raise ValueError(f'score={score!r} must be from 0 to 1')
        self.pictures, self.score = pictures, score
        self._samples: list = []

    def before_val_epoch(self, runner) -> None:
        self._samples = []

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if is_main_process():
            room = self.pictures - len(self._samples)
            self._samples += [sample.cpu() for sample in list(outputs or ())[:max(0, room)]
                              if 'pred_instances' in sample or 'pred_sem_seg' in sample]

    def after_val_epoch(self, runner, metrics=None) -> None:
        self._draw(runner, runner.val_dataloader.dataset)

    before_test_epoch = before_val_epoch
    after_test_iter = after_val_iter

    def after_test_epoch(self, runner, metrics=None) -> None:
        self._draw(runner, runner.test_dataloader.dataset)

    def _draw(self, runner, dataset) -> None:
        if self._samples:
            path = Path(runner.work_dir) / 'predictions.png'
            draw_sheet(self._samples, getattr(dataset, 'metainfo', {}), path, self.score)
            runner.logger.info(f'Predictions: {path}')


def draw_sheet(samples: list, metainfo: dict, path: Path, score: float = SCORE) -> None:
    """Write a sheet of data samples of mmdet or mmseg, which name their picture by ``img_path``.

    metainfo: of the data set: ``classes``, and ``palette`` for masks.
    """
    segmented = 'pred_sem_seg' in samples[0]
    draw = _draw_masks if segmented else _draw_boxes
    columns = min(COLUMNS if not segmented else COLUMNS // 2, len(samples))
    rows = -(-len(samples) // columns)
    width = SIDE * (3 if segmented else 1)
    headline = fill('picture, true and found masks' if segmented else
                    f'found: blue, with class and score from {score:g}; true: yellow, dashed',
                    int(columns * width * LETTERS))
    figure = blank_figure(columns * width,
                          rows * (SIDE + .25) + LINE * (2 + headline.count('\n')))
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, sample in zip(axes.flat, samples):
        with Image.open(sample.img_path) as image:
            # As pipelines read it: turned upright by its EXIF data.
            picture = ImageOps.exif_transpose(image).convert('RGB')
        draw(axis, np.asarray(picture), sample, metainfo, score)
        axis.set_title(Path(sample.img_path).name, fontsize=8, parse_math=False)
    figure.suptitle(headline, fontsize=9)
    save_figure(figure, path)


def _draw_boxes(axis, picture: np.ndarray, sample, metainfo: dict, score: float) -> None:
    from matplotlib.patches import Rectangle
    axis.imshow(picture)
    if 'gt_instances' in sample and len(sample.gt_instances):
        for x1, y1, x2, y2 in _boxes(sample.gt_instances):
            axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, linestyle='--',
                                     color=TRUE, linewidth=1))
    found = sample.pred_instances
    found = found[found.scores >= score]
    found = found[found.scores.argsort()]  # the surest last, on top of what it covers
    for (x1, y1, x2, y2), label, value in zip(_boxes(found), found.labels.tolist(),
                                              found.scores.tolist()):
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=FOUND, linewidth=1))
        classes = metainfo.get('classes') or ()
        name = classes[label] if label < len(classes) else label
        room = y1 > LABEL * len(picture)  # above the box, else the label goes inside
        axis.text(x1, y1 - 1 if room else y1 + 1, f'{name} {value:.2f}', color='black', fontsize=6,
                  va='bottom' if room else 'top', clip_on=True, parse_math=False,
                  bbox=dict(facecolor=FOUND, edgecolor='none', pad=0.8))


def _boxes(instances) -> list:
    boxes = instances.bboxes
    return getattr(boxes, 'tensor', boxes).tolist()


def _draw_masks(axis, picture: np.ndarray, sample, metainfo: dict, score: float) -> None:
    palette = np.asarray(metainfo['palette'], np.uint8)
    panels = [picture]
    for name in ('gt_sem_seg', 'pred_sem_seg'):
        if name in sample:
            labels = sample.get(name).data[0].numpy()
            known = labels < len(palette)
            panels.append(np.where(known[..., None], palette[np.where(known, labels, 0)], 128))
    gap = np.full((len(picture), GAP, 3), 255)
    row = [part for panel in panels for part in (gap, panel)][1:]
    axis.imshow(np.concatenate(row, axis=1).astype(np.uint8))
