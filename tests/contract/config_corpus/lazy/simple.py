from mmengine.config import read_base

with read_base():
    from .base.optim import *
    from .base.model import *

optimizer.update(lr=0.3)
model.update(dict(norm=dict(type='BN')))
