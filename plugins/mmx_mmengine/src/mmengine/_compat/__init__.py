"""What stands behind the name ``mmengine``: the alias, and the few names that mmx lacks."""
