"""All randomness of a run, as a function of its seed and of the place where it is needed."""

from hashlib import blake2b


def derive_seed(seed: int, *place: str | int) -> int:
    """Return a seed of 63 bits for one place, such as `derive_seed(seed, "crop", epoch, step)`.

    It doesn't depend on what was drawn before, so a run that was stopped and resumed draws the
    numbers of the run that never stopped.
    """
    digest = blake2b(repr((seed, *place)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
