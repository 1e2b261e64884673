import os.path as osp
from math import pi
_private = 3
__very_private = 4
width = int(pi * _private)


def double(x):
    return x * 2 * width


value = double(4)
square = [i * i for i in range(4)]
stages = {f'stage{i}': dict(depth=i, name=osp.join('a', str(i))) for i in range(2)}
base = dict(type='A', lr=1)
derived = dict(base, lr=2)
derived['extra'] = [base, base]
if width > 3:
    big = True
else:
    big = False
for i in range(3):
    pass
t = (1, )
label = f'{width}px'
fn = lambda x: x  # noqa: E731
del base
