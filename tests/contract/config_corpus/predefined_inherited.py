_base_ = './predefined.py'
own = '{{ fileBasename }}'
