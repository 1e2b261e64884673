from mmengine.config import read_base

with read_base():
    from .base.optim import *
from torch.nn import Linear


def build(n):
    return [dict(type=Linear, out_features=i * optimizer.lr) for i in range(n)]


layers = build(2)
values = [x * 2 for x in lrs]
for i in range(3):
    lrs.append(i)
if len(lrs) > 3:
    big = True
