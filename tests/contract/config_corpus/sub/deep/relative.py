_base_ = '../../bases/simple.py'
here = '{{ fileBasename }}'
item5 = dict(x=dict(y='{{ fileDirname }}'[-4:]))
