_base_ = ['./bases/simple.py', './inherit_string.py']
