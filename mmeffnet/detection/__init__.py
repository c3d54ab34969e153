"""EfficientDet for mmdet: its table without PyTorch, its neck and head where mmdet is there."""
