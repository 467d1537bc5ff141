"""How a trained network is judged: attacks, verdicts, and whether they can be believed."""
