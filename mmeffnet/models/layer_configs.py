"""Configs of layers, as a backbone, a neck or a head is given them."""
from mmengine.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm

from mmeffnet.weights.settings import BATCH_NORM_EPS

# TensorFlow's momentum 0.99, in PyTorch's convention.
BATCH_NORM = dict(eps=BATCH_NORM_EPS, momentum=0.01)


def check_layer(name: str, cfg) -> None:
    """ValueError for an argument that is no config of a layer."""
    if not (isinstance(cfg, dict) and 'type' in cfg):
        example = dict(norm_cfg='BN', act_cfg='SiLU', conv_cfg='Conv2d')[name]
        raise ValueError(f'{name}={cfg!r} must be a dict with a type, such as '
                         f'dict(type={example!r})')


def complete_norm_cfg(norm_cfg: dict | None) -> dict:
    """Add EfficientNet's eps and momentum to a BatchNorm config that does not set them.

    ValueError for a config without a type, or of one that is not registered.
    """
    norm_cfg = norm_cfg or dict(type='BN')
    check_layer('norm_cfg', norm_cfg)
    layer = norm_cfg['type']
    if isinstance(layer, str):
        with MODELS.switch_scope_and_registry(None) as registry:  # as mmcv finds it
            layer = registry.get(layer)
        if layer is None:
            raise ValueError(f'norm_cfg={norm_cfg!r} must have the type of a registered layer, '
                             "such as 'BN', 'SyncBN' or 'GN'")
    is_batch_norm = isinstance(layer, type) and issubclass(layer, _BatchNorm)
    # mmcv's own synchronised BatchNorm does not derive from PyTorch's.
    if is_batch_norm or norm_cfg['type'] == 'MMSyncBN':
        norm_cfg = {**BATCH_NORM, **norm_cfg}
    return dict(norm_cfg)
