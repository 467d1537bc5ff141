"""How a study is run: flags, Ray, the order of things."""
