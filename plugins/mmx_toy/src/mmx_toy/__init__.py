"""mmx_toy: the smallest complete mmx plugin. Importing it imports neither torch nor its parts."""
