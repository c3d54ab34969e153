"""Names of timm: older ones are those of today, with their set."""
import pytest

from mmeffnet.weights import load_weights
from mmeffnet.weights.sources import published

timm = pytest.importorskip('timm', reason='timm is not installed')


def test_every_older_name_is_the_set_that_timm_loads_for_it():
    names = {old: new for old, new in timm.models.get_deprecated_models().items()
             if new and 'efficientnet_' in new}
    assert {'tf_efficientnet_b0_ns', 'tf_efficientnet_l2_ns_475', 'efficientnet_b3a'} <= set(names)
    for old, new in names.items():
        cfg = timm.models.get_pretrained_cfg(new)
        assert published(f'timm://{old}').source == f'timm://{cfg.architecture}.{cfg.tag}', old


@pytest.mark.parametrize(('name', 'expected'), [
    ('tf_efficientnet_b0_ap', ('efficientnet-b0_timm-tf-ap_in1k', 127.5, 'same', 1e-3)),
    ('efficientnet_b2a', ('efficientnet-b2_timm-ra_in1k', 123.675, 'symmetric', 1e-5)),
    ('efficientnet_b2a.ra_in1k', ('efficientnet-b2_timm-ra_in1k', 123.675, 'symmetric', 1e-5)),
    ('efficientnet_es_pruned', ('efficientnet-es_timm-pruned_in1k', 123.675, 'symmetric', 1e-5))])
def test_weights_under_any_name_have_the_settings_of_their_set(name, expected, monkeypatch):
    create_model = timm.create_model
    monkeypatch.setattr(timm, 'create_model', lambda name, pretrained: create_model(name))
    weights = load_weights(f'timm://{name}')
    assert (weights.entry.name, weights.norm.mean[0], weights.padding, weights.eps) == expected
