"""Images: sets of them, where they come from, what is done to them before a network sees them."""
