"""What runs were and what came of them, read from their directories alone."""
