"""Many runs from one command: planned, launched, resumed and summarized."""
