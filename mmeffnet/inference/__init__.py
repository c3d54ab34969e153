"""Prediction for people: pictures in; names, probabilities, pictures and maps out.

Nothing is imported here: command lines are parsed and pictures read without PyTorch.
"""

DEFAULT_WEIGHTS = 'lite://lite0'
RESAMPLERS = ('pil', 'cv2')
