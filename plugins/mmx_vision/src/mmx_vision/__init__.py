"""mmx_vision: image classification for mmx. Importing it imports neither torch nor its parts."""
