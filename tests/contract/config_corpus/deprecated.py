_deprecation_ = dict(expected='new.py', reference='https://example.com')
a = 1
