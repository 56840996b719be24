"""All randomness of a run, as a function of its seed and of the place where it is needed."""

from hashlib import blake2b


def derive_seed(seed: int, *place: str | int) -> int:
    """A seed for one place of a run, such as `derive_seed(seed, "crop", epoch, step)`.

    Being a function of the place and not of what was drawn before, it gives a run that was
    stopped and resumed the very numbers of the run that never stopped.

    Returns:
        An integer of 63 bits.
    """
    digest = blake2b(repr((seed, *place)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
