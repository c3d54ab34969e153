"""Mixup and CutMix by name in our scope: mmpretrain has a registry of its own for them."""
from mmpretrain.registry import BATCH_AUGMENTS as MMPRETRAINS

from mmeffnet.registry import SCOPE, PluginRegistry

# Without it MMEngine finds them too, but warns at every start that the scope is none.
BATCH_AUGMENTS = PluginRegistry(MMPRETRAINS.name, parent=MMPRETRAINS, scope=SCOPE,
                                locations=[__name__])
