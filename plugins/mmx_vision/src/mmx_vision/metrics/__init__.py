"""The metrics of this plugin; each file registers its own."""
