"""Demo scenes with labels, and the small CLIP and SAM trained on them."""
