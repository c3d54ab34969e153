"""Child registries of MMEngine's, under the scope 'mmeffnet'.

MMEngine imports this module by itself when it meets a type with the prefix ``mmeffnet.``,
and then the modules in ``locations``; nothing has to be imported by hand.
"""
from importlib import import_module

from mmengine import registry as root

from mmeffnet.errors import InputError
from mmeffnet.scaling import ModelScaling
from mmeffnet.version import EXTRAS

SCOPE = 'mmeffnet'
_WEIGHTS = 'mmeffnet.weights.sources'  # addresses, and what our own checkpoints hold


# Types beside the backbone's own, most of which need mmdet or mmsegmentation: each module is
# imported when its type is asked for, so that everything else works without them.
DOWNSTREAM: dict[str, str] = {
    'BiFPN': 'mmeffnet.detection.bifpn',
    'EfficientDet': 'mmeffnet.detection.detector',
    'EfficientDetAnchorGenerator': 'mmeffnet.detection.head',
    'EfficientDetHead': 'mmeffnet.detection.head',
    'DigitScenes': 'mmeffnet.datasets.detection',
    'DigitMasks': 'mmeffnet.datasets.segmentation',
    'ScaledResNet': 'mmeffnet.analysis.scaled_resnet',
    'DecodingDataPreprocessor': 'mmeffnet.datasets.encoded',
}


class PluginRegistry(root.Registry):
    """A registry that knows what that of the run's scope and mmpretrain's know, besides its own.

    A config inherited by name (``_base_ = 'mmeffnet::...'``) is built in the scope
    'mmeffnet', and in it the types of mmpretrain, mmdet and mmseg carry no prefix. Some have one
    name in several projects and in mmcv: the config means those of its own ``default_scope``.
    """

    def get(self, key: str):
        name = key.removeprefix(f'{SCOPE}.')
        if name in DOWNSTREAM:
            _import_downstream(name)
        self.import_from_location()
        if '.' in key or key in self.module_dict:
            return super().get(key)
        scope = _surrounding_scope()  # goes before what mmcv has in MMEngine's own registries
        for place in ([f'{scope}.{key}'] if scope else []) + [key, f'mmpretrain.{key}']:
            found = super().get(place)
            if found is not None:
                break
        return found


def _surrounding_scope() -> str | None:
    """The default scope where a part of a config in our scope is built; None for no other."""
    # MMEngine has no way to ask for it: a part with a scope adds one of this name for its time.
    for scope in reversed(root.DefaultScope._instance_dict.values()):
        if scope.scope_name != SCOPE or not scope.instance_name.startswith('overwrite-'):
            return None if scope.scope_name == SCOPE else scope.scope_name
    return None


def _import_downstream(name: str) -> None:
    """Register a type of ``DOWNSTREAM``; InputError says what is not installed and the command."""
    try:
        import_module(DOWNSTREAM[name])
    except ModuleNotFoundError as error:
        # mmcv without compiled operators lacks its module ``mmcv._ext``.
        package = error.name.partition('.')[0]
        if package not in EXTRAS:
            raise
        missing = 'the compiled operators of mmcv' if error.name == 'mmcv._ext' else package
        raise InputError(f'mmeffnet.{name} needs {missing}, which is not installed. '
                         f'Run: {EXTRAS[package]}') from error


def _child(parent, *locations):
    return PluginRegistry(parent.name, parent=parent, scope=SCOPE,
                          locations=list(locations or (_WEIGHTS, )))


MODELS = _child(root.MODELS, 'mmeffnet.models', 'mmeffnet.optim', 'mmeffnet.engine.augments',
                _WEIGHTS)
WEIGHT_INITIALIZERS = _child(root.WEIGHT_INITIALIZERS, 'mmeffnet.models')
OPTIMIZERS = _child(root.OPTIMIZERS, 'mmeffnet.optim')
PARAM_SCHEDULERS = _child(root.PARAM_SCHEDULERS, 'mmeffnet.optim')
OPTIM_WRAPPERS = _child(root.OPTIM_WRAPPERS, 'mmeffnet.engine.amp')
HOOKS = _child(root.HOOKS, *(f'mmeffnet.engine.{name}' for name in (
    'checkpoint', 'accumulation', 'state', 'plain', 'saving', 'samples', 'guards', 'recipe',
    'non_finite', 'pictures', 'sheets', 'progress')))
LOOPS = _child(root.LOOPS, 'mmeffnet.engine.loop')
DATASETS = _child(root.DATASETS, 'mmeffnet.datasets')
DATA_SAMPLERS = _child(root.DATA_SAMPLERS, 'mmeffnet.datasets.shard_sampler')
TRANSFORMS = _child(root.TRANSFORMS, 'mmeffnet.datasets.transforms', 'mmeffnet.datasets.encoded')
VISUALIZERS = _child(root.VISUALIZERS, 'mmeffnet.engine.visualizer')
VISBACKENDS = _child(root.VISBACKENDS, 'mmeffnet.engine.vis_backends')
METRICS = _child(root.METRICS, 'mmeffnet.evaluation')
MODEL_WRAPPERS = _child(root.MODEL_WRAPPERS, 'mmeffnet.engine.parallel')
RUNNERS = _child(root.RUNNERS, 'mmeffnet.engine.sharding')
STRATEGIES = _child(root.STRATEGIES, 'mmeffnet.engine.sharding')
TASK_UTILS = _child(root.TASK_UTILS)

# Nothing of ours yet in these, and mmpretrain's to be found through them.
OTHERS = tuple(_child(parent) for name, parent in vars(root).items()
               if isinstance(parent, root.Registry) and name not in globals())

# Registered here because ``scaling`` itself knows the standard library only.
TASK_UTILS.register_module(module=ModelScaling)
