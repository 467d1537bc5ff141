"""Networks, their fixed first layer, and how they are stored."""
