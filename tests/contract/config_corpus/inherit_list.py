_base_ = ['./bases/simple.py', './bases/other.py', './bases/model.yaml', './bases/sched.json']
model = dict(depth=101, neck=dict(type='GAP'))
optimizer = dict(lr=0.2)
