_base_ = ['./inherit_list.py']
model = dict(neck=dict(kind='avg'))
item5 = dict(x=dict(y=2))
