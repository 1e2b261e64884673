_base_ = './bases/nothing.py'
