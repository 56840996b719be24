"""What a trained network does, as figures and pictures."""
