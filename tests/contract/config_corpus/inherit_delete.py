_base_ = './bases/simple.py'
item2 = dict(_delete_=True, b=0)
item5 = dict(x=dict(_delete_=True, q=1))
