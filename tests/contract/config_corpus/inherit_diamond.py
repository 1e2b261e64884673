_base_ = ['./inherit_string.py', './bases/other.py']
