from mmengine.config import read_base

with read_base():
    from .base.optim import optimizer
    from .base.model import model as base_model

base_model['in_features'] = 8
derived = dict(base=base_model, opt=optimizer)
