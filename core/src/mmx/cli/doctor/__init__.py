"""Looking through code written for MMEngine, without importing it, for what does not run on mmx."""
