"""From a composed config to a run: check it, build what it names, carry it out."""
