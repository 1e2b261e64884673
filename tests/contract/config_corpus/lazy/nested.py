from mmengine.config import read_base

with read_base():
    from .base.second import *

optimizer.lr = 9
