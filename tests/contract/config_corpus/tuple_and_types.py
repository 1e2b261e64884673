a = (1, (2, [3, dict(b=(4, ))]))
b = {1: 'x', 'y z': 2, (1, 2): 3}
c = {1, 2}
d = b'bytes'
e = 1 + 2j
f = ''
g = float('inf')
h = range(3)
i = [[]]
j = dict()
k = 'multi\nline "quotes" and \'more\''
