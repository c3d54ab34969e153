"""What a config says of its data sets: which there are, their transforms, their colours."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

LOADERS = ('val_dataloader', 'test_dataloader')
PACKAGES = ('mmeffnet', 'mmpretrain', 'mmcls', 'mmcv', 'mmengine')
# Pictures are read as BGR, but by tifffile. Arguments of transforms that turn the order round, and
# data sets whose images are RGB.
TURNS = {'NumpyToPIL': 'to_rgb', 'ToPIL': 'to_rgb', 'PILToNumpy': 'to_bgr', 'ToNumpy': 'to_bgr'}
RGB_DATASETS = 'CIFAR10', 'CIFAR100'


def bare(name):
    """The name of a class of ``PACKAGES`` without them, which may be given or not; that of another
    package, which may do something else, as it is."""
    if isinstance(name, str) and name.partition('.')[0] in PACKAGES:
        return name.rpartition('.')[2]
    return name


def step_name(part) -> str | None:
    """The name of a transform or data set, for which a config may have the class itself."""
    kind = part.get('type') if isinstance(part, Mapping) else part
    return kind.__name__ if isinstance(kind, type) else bare(kind)


def dataset_configs(cfg: Mapping, loader: str) -> Iterator[tuple[str, dict]]:
    """Data set configs of a dataloader with their dotted names, through such as RepeatDataset."""
    yield from _inner_configs((cfg.get(loader) or {}).get('dataset'), f'{loader}.dataset')


def _inner_configs(dataset, field: str) -> Iterator[tuple[str, dict]]:
    if not isinstance(dataset, dict):
        return
    inner = [('dataset', dataset.get('dataset'))] if 'dataset' in dataset else [
        (f'datasets.{i}', d) for i, d in enumerate(dataset.get('datasets') or ())]
    if not inner:
        yield field, dataset
    for name, child in inner:
        yield from _inner_configs(child, f'{field}.{name}')


def pipelines_of(cfg, loader: str) -> list[list]:
    """The pipelines of a dataloader's data sets, without empty ones."""
    return [dataset['pipeline'] for _, dataset in dataset_configs(cfg, loader)
            if dataset.get('pipeline')]


def steps_of(pipeline) -> Iterator[Mapping]:
    """The transforms of a pipeline, and those inside of others."""
    if isinstance(pipeline, Mapping):
        yield pipeline
        yield from steps_of(pipeline.get('transforms'))
    elif isinstance(pipeline, Sequence) and not isinstance(pipeline, str):
        for step in pipeline:
            yield from steps_of(step)


def gives_rgb(dataset: Mapping) -> bool:
    """Whether the images of a data set are RGB where its pipeline ends, and not BGR."""
    rgb = step_name(dataset) in RGB_DATASETS
    for step in steps_of(dataset.get('pipeline')):
        name = step_name(step)
        if name == 'LoadImageFromFile':
            rgb = step.get('imdecode_backend') == 'tifffile'
        elif name in TURNS and step.get(TURNS[name]):
            rgb = not rgb
    return rgb


def data_are_rgb(cfg: Mapping) -> bool:
    """The same of a config's test, or of its validation where there is no test; of data sets with
    different orders that of the first."""
    return next((gives_rgb(dataset) for loader in reversed(LOADERS)
                 for _, dataset in dataset_configs(cfg, loader)), False)
