from mmeffnet.datasets.digits import Digits

__all__ = ['Digits']
