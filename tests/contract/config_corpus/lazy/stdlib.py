import math
import os.path as osp
from collections import OrderedDict
from torch.optim import SGD

x = math.floor(2.5)
y = osp.join('a', 'b')
z = OrderedDict(a=dict(type=SGD))
