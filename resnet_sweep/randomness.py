"""Seeds for all random numbers of a run."""

from hashlib import blake2b


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose, such as `derive_seed(seed, "crop", epoch, step)`.

    The result doesn't depend on earlier draws, so a resumed run draws the same numbers as an
    uninterrupted one.
    """
    digest = blake2b(repr((seed, *purpose)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
