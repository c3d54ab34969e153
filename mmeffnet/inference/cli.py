"""The command lines of tools/predict.py and tools/explain.py."""
import argparse

from mmeffnet.inference import DEFAULT_WEIGHTS, RESAMPLERS

WEIGHTS_HELP = ("a checkpoint file of any library, an address ('lite://lite0', "
                "'timm://NAME') or a name of the catalog")


def predict_parser() -> argparse.ArgumentParser:
    """Arguments of tools/predict.py."""
    parser = argparse.ArgumentParser(
        description='Say what is on pictures.',
        epilog='Exit code: 0 when every picture was read, 1 when some could not be, 2 when an '
        'argument is wrong.')
    parser.add_argument('inputs', nargs='+', metavar='IMAGE|FOLDER',
                        help='pictures, and folders that are searched for pictures. Below a '
                        'folder, pictures that this tool has annotated are left alone, unless '
                        "their folder 'annotated' is named itself")
    parser.add_argument('--weights', default=DEFAULT_WEIGHTS, metavar='NAME_OR_FILE',
                        help=f'{WEIGHTS_HELP}; {DEFAULT_WEIGHTS} by default')
    parser.add_argument('--topk', type=int, default=5, metavar='N',
                        help='classes to show for each picture; 5 by default')
    parser.add_argument('--out', default='work_dirs/predict', metavar='DIR',
                        help='where the annotated pictures and the tables go; work_dirs/predict '
                        'by default. Of what is there, only what a run with the same inputs has '
                        'written is replaced: beside other files come predictions-2.csv and so on')
    parser.add_argument('--no-pictures', action='store_true', help='write the tables only')
    parser.add_argument('--batch-size', type=int, default=16, metavar='N',
                        help='pictures that are run together; 16 by default')
    parser.add_argument('--resampler', choices=RESAMPLERS,
                        help="how pictures are resized: 'pil' as timm does it, 'cv2' as "
                        "mmpretrain's configs do; by default as in the test pipeline of a "
                        "training's checkpoint, and 'pil' for other weights")
    _common(parser)
    return parser


def explain_parser() -> argparse.ArgumentParser:
    """Arguments of tools/explain.py."""
    parser = argparse.ArgumentParser(
        description='Show where networks look: class-activation maps side by side.')
    parser.add_argument('image', metavar='IMAGE', help='a picture')
    parser.add_argument('--weights', nargs='+', default=[DEFAULT_WEIGHTS],
                        metavar='NAME_OR_FILE',
                        help=f'one map for each: {WEIGHTS_HELP}; {DEFAULT_WEIGHTS} by default')
    parser.add_argument('--method', default='gradcam',
                        help="'gradcam' by default; an unknown one lists those there are")
    parser.add_argument('--class', dest='wanted', metavar='NAME_OR_INDEX',
                        help="the class to look for, by its name, or by its index where none "
                        "is called so; each network's best by default")
    parser.add_argument('--out', default='work_dirs/explain', metavar='DIR',
                        help='where the figure goes; work_dirs/explain by default')
    _common(parser)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--device', help="such as 'cpu' or 'cuda:1'; CUDA where there is one")
    parser.add_argument('--classes', metavar='FILE',
                        help='names of the classes, one a line, for a classifier that is not '
                        "ImageNet's; a training's checkpoint has its own")
