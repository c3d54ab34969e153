"""Accuracy for any number of classes."""
import torch
from mmpretrain.evaluation import Accuracy as MMPretrainAccuracy

from mmeffnet.models.head import clip_topk
from mmeffnet.registry import METRICS


@METRICS.register_module()
class Accuracy(MMPretrainAccuracy):
    """mmpretrain's top-k accuracy, in percent, less the k that the classes cannot have.

    With three classes ``topk=(1, 5)`` gives top-1 and says once that top-5 is dropped,
    where mmpretrain's metric ends the run after the first epoch.
    """

    def compute_metrics(self, results: list) -> dict[str, float]:
        if results and isinstance(results[0].get('pred_score'), torch.Tensor):
            self.topk = clip_topk(self.topk, results[0]['pred_score'].numel())
        return super().compute_metrics(results)

    def score_names(self) -> list[str]:
        """The names of all scores that it will give, as far as they are known beforehand.

        None where the data set has no names of classes, and of a class that inherits this one,
        which may give more.
        """
        names = (self.dataset_meta or {}).get('classes')
        classes = 0 if names is None else len(names)
        if not classes or type(self) is not Accuracy:
            return []
        topk = [k for k in self.topk if k <= classes] or [classes]
        limits = [''] if len(self.thrs) == 1 else [
            '_no-thr' if limit is None else f'_thr-{limit:.2f}' for limit in self.thrs]
        return [f'{self.prefix}/top{k}{limit}' for k in topk for limit in limits]
