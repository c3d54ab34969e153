"""Imported in a fresh process, lets mmdet run on the pure-Python mmcv.

mmdet's models ask for mmcv's compiled operators by name when they are imported. The one that
a RetinaNet needs on a CPU comes from torchvision, and the others refuse to be called.
"""
import importlib.abc
import importlib.machinery
import sys
from types import ModuleType


class Operators(ModuleType):

    def nms(self, boxes, scores, iou_threshold, offset):
        from torchvision.ops import nms
        return nms(boxes, scores, iou_threshold)

    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)

        def refuse(*args, **kwargs):
            raise RuntimeError(f'{name} is not compiled')
        return refuse


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name == 'mmcv._ext' else None

    def create_module(self, spec):
        return Operators(spec.name)

    def exec_module(self, module):
        pass


sys.meta_path.append(Finder())  # last in line: a compiled mmcv is found before
