from mmengine.config import read_base

with read_base():
    from .base.optim import *


def f():
    from torch.nn import Linear
    return dict(type=Linear)


x = f()
