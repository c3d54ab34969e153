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
