"""A photograph with a panel of names, bars and percentages. Drawn with Pillow: no display."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from mmeffnet.inference.predictor import Prediction

# Sides of the photograph, and the shape of a picture above which the panel goes below it.
LONG_SIDE, SHORT_SIDE, TALLEST = 960, 540, 640
MOST_ENLARGED = 1.7  # to fill the height of the panel
SMALLEST = 200  # one pixel is shown as a square of this side
WIDE = 1.9
MOST_STRETCHED = 6  # a strip is cut to six times its short side for showing

PANEL, HEADING, ROW, GAP, BAR = 500, 74, 60, 28, 12
MOST_ROWS = 10  # the tables have the others
# Blue and grey differ in brightness too, for every kind of colour vision and in print.
BLUE, GREY, TRACK = '#0072B2', '#8A9BA8', '#E9EDF0'
INK, FAINT, PAPER = '#1B2733', '#66727D', 'white'


def annotated(image: Image.Image, predictions: Sequence[Prediction], title: str,
              subtitle: str = '') -> Image.Image:
    """The photograph beside its predictions, or above them where it is wide.

    image: RGB, of any size. title: of the network. subtitle: such as the file's name.
    """
    predictions = predictions[:MOST_ROWS]
    panel_height = GAP + HEADING + ROW * len(predictions) + GAP // 2
    photograph = _shown(image, panel_height)
    width, height = photograph.size
    below = width / height > WIDE
    panel_width = max(PANEL, width) if below else PANEL
    size = ((panel_width, height + panel_height) if below else
            (width + PANEL, max(height, panel_height)))
    canvas = Image.new('RGB', size, PAPER)
    if below:
        canvas.paste(TRACK, (0, 0, panel_width, height))
        canvas.paste(photograph, ((panel_width - width) // 2, 0))
        corner = (0, height)
    else:
        canvas.paste(TRACK, (0, 0, width, canvas.height))
        canvas.paste(photograph, (0, (canvas.height - height) // 2))
        corner = (width, (canvas.height - panel_height) // 2)
    _panel(canvas, corner, panel_width, predictions, title, subtitle)
    return canvas


def _panel(canvas, corner, width: int, predictions, title: str, subtitle: str) -> None:
    draw = ImageDraw.Draw(canvas)
    left, top = corner[0] + GAP, corner[1] + GAP
    right = corner[0] + width - GAP
    draw.text((left, top), fitted(title, font(24, bold=True).getlength, right - left),
              fill=INK, font=font(24, bold=True))
    draw.text((left, top + 35), fitted(subtitle, font(15).getlength, right - left), fill=FAINT,
              font=font(15))
    top += HEADING
    for rank, one in enumerate(predictions):
        first = rank == 0
        face = font(19, bold=first)
        share = percent(one.probability)
        share_left = right - face.getlength(share)
        draw.text((share_left, top), share, fill=INK, font=face)
        draw.text((left, top), short_name(one.name, face.getlength, share_left - left - 16),
                  fill=INK, font=face)
        canvas.paste(_bar(right - left, one.probability, BLUE if first else GREY),
                     (left, top + 30))
        top += ROW


def _bar(width: int, share: float, colour: str) -> Image.Image:
    """A bar with round ends, drawn large and averaged down: Pillow draws hard edges."""
    fine = 4
    bar = Image.new('RGB', (width * fine, BAR * fine), PAPER)
    draw, radius = ImageDraw.Draw(bar), BAR * fine // 2
    draw.rounded_rectangle((0, 0, bar.width - 1, bar.height - 1), radius, fill=TRACK)
    filled = round(bar.width * share)
    if filled:
        # What is filled has the ends of the whole bar, however short it is.
        part = Image.new('L', bar.size)
        ImageDraw.Draw(part).rounded_rectangle((0, 0, bar.width - 1, bar.height - 1), radius,
                                               fill=255)
        part.paste(0, (filled, 0, *bar.size))
        bar.paste(colour, mask=part)
    return bar.reduce(fine)


def _shown(image: Image.Image, panel_height: int) -> Image.Image:
    """The photograph at the size it is drawn: within the sides, and enlarged a little only."""
    width, height = image.size
    longest = MOST_STRETCHED * min(width, height)
    if max(width, height) > longest:
        left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
        image = image.crop((left, top, left + min(width, longest), top + min(height, longest)))
        width, height = image.size
    ratio = min(LONG_SIDE / max(width, height), SHORT_SIDE / min(width, height),
                max(panel_height, TALLEST) / height)
    if ratio > 1:
        to_panel = min(MOST_ENLARGED, panel_height / height)
        ratio = min(ratio, max(1, to_panel, SMALLEST / min(width, height)))
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    # Few pixels stay visible as squares.
    return image.resize(size, Image.Resampling.NEAREST if ratio > 4 else
                        Image.Resampling.LANCZOS)


def percent(share: float) -> str:
    """'97.3 %', and '< 0.1 %' in place of a zero."""
    return f'{100 * share:.1f} %' if share >= 0.0005 else '< 0.1 %'


def short_name(name: str, measure: Callable[[str], float], room: float) -> str:
    """As many synonyms as fit into ``room``, in one line; at least the first, cut if it must be.

    Synonyms are parted as those of ImageNet, by comma and blank: '1,5 mm' is one name.
    """
    parts = ' '.join(name.split()).split(', ')
    for count in range(len(parts), 0, -1):
        text = ', '.join(parts[:count])
        if measure(text) <= room:
            return text
    return fitted(parts[0], measure, room)


def fitted(text: str, measure: Callable[[str], float], room: float) -> str:
    """The text, or as much of its ends as fits into ``room``, around an ellipsis.

    measure: gives the length of a text in the unit of ``room``.
    """
    if measure(text) <= room:
        return text
    kept = len(text)
    while kept > 1:
        kept -= 1
        # Both ends are kept: file names often differ at their end.
        head, tail = (kept + 1) // 2, kept // 2
        cut = f'{text[:head].rstrip()}…{text[len(text) - tail:].lstrip()}'
        if measure(cut) <= room:
            return cut
    return '…'


@lru_cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib carries: no font of the system is needed."""
    name = 'DejaVuSans-Bold.ttf' if bold else 'DejaVuSans.ttf'
    return ImageFont.truetype(Path(matplotlib.get_data_path(), 'fonts', 'ttf', name), size)
