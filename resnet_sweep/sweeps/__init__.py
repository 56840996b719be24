"""Many runs from one command: planned, carried out, gone on with."""
