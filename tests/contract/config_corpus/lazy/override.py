from mmengine.config import read_base

with read_base():
    from .base.optim import *

optimizer = dict(type='Adam')
