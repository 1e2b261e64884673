item1 = [1, 2]
item2 = {'a': 0}
item3 = True
item4 = 'test'
item_cfg = {'b': 1}
item5 = dict(x=dict(y=1, z=[dict(p=1), dict(p=2)]), w=(1, 2))
