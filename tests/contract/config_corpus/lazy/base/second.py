from mmengine.config import read_base

with read_base():
    from .optim import *

schedule = dict(by_epoch=True)
