a = dict(_delete_=True, b=1)
