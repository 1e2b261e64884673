from mmengine.config import read_base

with read_base():
    from ..bases.simple import *

item2.update(z=3)
