_base_ = './bases/simple.py'
fresh = dict(_delete_=True, b=1)
item5 = dict(new=dict(_delete_=True, c=dict(_delete_=True, d=1)))
lst = [dict(_delete_=True, a=1)]
