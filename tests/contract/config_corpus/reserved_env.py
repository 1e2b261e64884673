env_variables = 'x'
