from mmengine.config import read_base

with read_base():
    from .base.model import *

model.merge(dict(norm=dict(type='GN'), in_features=2))
model.norm.merge(dict(_delete_=True, q=1))
model.layers[0].k = 7
