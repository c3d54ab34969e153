"""The command lines of tools/train.py and tools/test.py, with mmpretrain's flags."""
import argparse
import os

from mmengine.config import DictAction

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def train_parser() -> argparse.ArgumentParser:
    """Arguments of tools/train.py."""
    parser = argparse.ArgumentParser(description='Train a model.')
    parser.add_argument('config', help='path of a config')
    _common(parser)
    parser.add_argument(
        '--resume', nargs='?', const='auto', metavar='PATH',
        help='resume from a checkpoint; without a path, from the newest in the work dir')
    parser.add_argument('--amp', action='store_true',
                        help='mixed precision: bfloat16 where the device has it, else float16')
    parser.add_argument('--compile', action='store_true',
                        help='compile the network with torch.compile, and on a CPU the '
                        'steps of mmeffnet.RMSpropTF')
    parser.add_argument('--channels-last', action='store_true',
                        help='keep the channels of a pixel beside each other in memory')
    parser.add_argument('--accumulate', type=positive, metavar='N',
                        help='sum up the gradients of N batches for each step')
    parser.add_argument('--no-validate', action='store_true', help='train without validation')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate to the batch size of this run')
    parser.add_argument('--no-persistent-workers', action='store_true',
                        help='start the workers of the dataloaders anew for each epoch')
    return parser


def test_parser() -> argparse.ArgumentParser:
    """Arguments of tools/test.py."""
    parser = argparse.ArgumentParser(description='Test a model.')
    parser.add_argument('config', help='path of a config')
    parser.add_argument('checkpoint', help='path of a checkpoint, or a file of tools/export.py')
    _common(parser)
    parser.add_argument('--out', metavar='FILE', help='write results to this file')
    parser.add_argument('--out-item', choices=('metrics', 'pred'),
                        help="what to write: 'metrics' as json, yaml or pkl; 'pred', the "
                        'default, the predictions as pkl')
    parser.add_argument('--amp', action='store_true', help='mixed precision')
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--show-dir', metavar='DIR', help='save pictures of predictions here')
    parser.add_argument('--interval', type=positive, default=1, help='show every so many samples')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds a picture is shown')
    parser.add_argument('--tta', action='store_true',
                        help='average over augmented copies of each image')
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    # Of --work-dir=~/x shells such as bash leave the '~' as it is.
    parser.add_argument('--work-dir', metavar='DIR', type=os.path.expanduser,
                        help='where logs and checkpoints go; work_dirs/<config> by default')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={},
                        metavar='KEY=VALUE', help='override keys of the config, such as '
                        'optim_wrapper.optimizer.lr=0.01')
    parser.add_argument('--no-pin-memory', action='store_true',
                        help='do not pin the memory of batches')
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none')
    # torch.distributed.launch passes one spelling or the other, by its version; torchrun
    # sets LOCAL_RANK in the environment.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)


def positive(text: str, least: int = 1) -> int:
    """A number of things on a command line."""
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f'{text!r} must be a whole number, at least {least}')
    return number


def several(text: str) -> int:
    """Rounds of a measurement: quartiles need two."""
    return positive(text, 2)


def parsed(parser: argparse.ArgumentParser, argv=None) -> argparse.Namespace:
    """A command line with --cfg-options, whose action raises what argparse does not expect."""
    try:
        return parser.parse_args(argv)
    except ValueError as error:
        parser.error(f'--cfg-options takes KEY=VALUE pairs without blanks: {error}')


def parse(parser: argparse.ArgumentParser, argv=None) -> argparse.Namespace:
    """Parse the command line and let LOCAL_RANK be known to MMEngine."""
    args = parsed(parser, argv)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args
