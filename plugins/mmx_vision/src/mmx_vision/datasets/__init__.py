"""The datasets of this plugin; each file registers its own."""
