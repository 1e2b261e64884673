from mmengine.config import read_base

with read_base():
    from .base.optim import *
with read_base():
    from .base.model import *

x = optimizer.lr
