"""The parts of the reference training recipe: optimizer, schedule, averaged weights."""
from mmeffnet.optim.averaging import RampedAverage
from mmeffnet.optim.rmsprop import RMSpropTF
from mmeffnet.optim.schedule import StaircaseLR, StaircaseParamScheduler

__all__ = ['RMSpropTF', 'RampedAverage', 'StaircaseLR', 'StaircaseParamScheduler']
