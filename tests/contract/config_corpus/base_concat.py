_base_ = ['./bases/' + n + '.py' for n in ('simple', 'other')]
