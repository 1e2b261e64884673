"""The transforms of this plugin; each file registers its own."""
