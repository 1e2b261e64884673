"""The models of this plugin; each file registers its own."""
