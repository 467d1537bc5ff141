"""Networks trained on real or distilled images: the loop, the losses, the penalties."""
