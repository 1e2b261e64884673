from mmengine.config import read_base
from torch.nn import *
with read_base():
    from .base.optim import *
