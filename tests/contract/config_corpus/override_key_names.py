a = dict(keys=['img'], items=[1], values=2, get=3, update=dict(pop=1), copy=True, dump=1, filename='f', text='t', type='Collect')
