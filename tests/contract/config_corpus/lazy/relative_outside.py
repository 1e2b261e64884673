from mmengine.config import read_base
from .base.model import model
with read_base():
    from .base.optim import *
