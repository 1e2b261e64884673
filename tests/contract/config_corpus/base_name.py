_base_ = ['./bases/simple.py', './bases/other.py']
a = _base_.item1
b = _base_.item2.a + 1
c = dict(d=_base_.item5.x, e=[_base_.item3, _base_.item4 * 2])
f = {**_base_.other, 'depth': 9}
a.append(7)
for i in range(2):
    _base_.item5.x.z[i].p = 10 * i
g = [x + 1 for x in _base_.item1]
_base_.item5.w = 'changed'
