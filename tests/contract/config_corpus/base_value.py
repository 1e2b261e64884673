_base_ = ['./bases/simple.py', './bases/other.py']
a = {{_base_.item1}}
b = {{ _base_.item2.a }}
c = dict(d={{ _base_.item5.x }}, e=[{{_base_.item3}}, {{ _base_.item4 }}])
f = {{_base_.other}}
