"""Mixup and CutMix by name, wherever a config is built."""
import pytest
from mmengine.registry import MODELS, DefaultScope


@pytest.mark.parametrize('scope', ['mmeffnet', 'mmpretrain'])
@pytest.mark.parametrize('prefix', ['', 'mmpretrain.'])
def test_augmentations_of_batches_are_found_without_a_warning(scope, prefix, said):
    DefaultScope.get_instance('here', scope_name=scope)
    model = MODELS.build(dict(
        type='mmpretrain.ImageClassifier', backbone=dict(type='mmeffnet.EfficientNet', arch='b0'),
        train_cfg=dict(augments=[dict(type=f'{prefix}Mixup', alpha=0.2),
                                 dict(type=f'{prefix}CutMix', alpha=1.0)])))
    augments = model.data_preprocessor.batch_augments.augments
    assert [type(augment).__name__ for augment in augments] == ['Mixup', 'CutMix']
    assert not [line for line in said if 'batch augment"' in line]
