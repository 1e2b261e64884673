from mmengine.config import read_base

with read_base():
    from .base.optim import *
from torch.nn import Linear
layer = Linear(3, 4)
