a = '{{ not_a_variable }}'
b = {'x': {'y': {1, 2}}}
c = '{x}}'
d = f"{{{1 + 1}}}"
