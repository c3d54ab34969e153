"""What a run is shown in, besides its log."""
from collections.abc import Sequence
from importlib.util import find_spec

from mmpretrain.visualization import UniversalVisualizer

from mmeffnet.engine import vis_backends as ours
from mmeffnet.errors import InputError
from mmeffnet.registry import VISUALIZERS

# MMEngine's backends and the library that each needs.
LIBRARIES = dict(
    TensorboardVisBackend='tensorboard', WandbVisBackend='wandb', MLflowVisBackend='mlflow',
    ClearMLVisBackend='clearml', NeptuneVisBackend='neptune', DVCLiveVisBackend='dvclive',
    AimVisBackend='aim')
LOCAL, TENSORBOARD = 'LocalVisBackend', 'TensorboardVisBackend'


@VISUALIZERS.register_module()
class RunVisualizer(UniversalVisualizer):
    """mmpretrain's, with local files and, where it is installed, TensorBoard.

    vis_backends: what to use besides: the name of a backend, a dict with its arguments, or a
    list of those.
    tensorboard: whether to write TensorBoard's files; by default where it is installed.
    Raises InputError for a backend whose library is missing, with the command that installs it.
    """

    def __init__(self, name: str = 'visualizer', vis_backends: str | dict | Sequence = (),
                 save_dir: str | None = None, tensorboard: bool | None = None, **kwargs):
        if isinstance(vis_backends, (str, dict)):
            vis_backends = [vis_backends]
        wanted = [dict(type=b) if isinstance(b, str) else dict(b) for b in vis_backends or ()]
        if tensorboard is None:
            tensorboard = find_spec('tensorboard') is not None
        named = {backend.get('type') for backend in wanted}
        # Without a folder there is no run whose curves could be kept.
        added = [dict(type=backend) for backend, use in ((LOCAL, True), (TENSORBOARD, tensorboard))
                 if use and save_dir and backend not in named]
        super().__init__(name=name, vis_backends=[_checked(b) for b in added + wanted],
                         save_dir=save_dir, **kwargs)


def _checked(backend: dict) -> dict:
    """A backend whose library is there, of our own kind where we have one."""
    kind = str(backend.get('type'))
    library = LIBRARIES.get(kind.rpartition('.')[2])
    if library and find_spec(library) is None:
        raise InputError(f'visualizer: {kind} needs {library}, which is not installed. '
                         f'Run: pip install {library}')
    return {**backend, 'type': f'mmeffnet.{kind}'} if hasattr(ours, kind) else backend
