"""Strict Ed25519: canonical encodings only, no points of small order (ENV-23).

The signature equation is checked by a public library, which does not look at
the order of points; that is done here, on plain integers.
"""

from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from .refusal import Refused

P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
ROOT_OF_MINUS_ONE = pow(2, (P - 1) // 4, P)


def tag(name):
    """ENV-60."""
    return b"\xffbulla/v1/" + name.encode() + b"\x00"


def point(encoding):
    """The point that 32 bytes encode canonically; None if there is none."""
    y = int.from_bytes(encoding, "little")
    sign, y = y >> 255, y & (2**255 - 1)
    if y >= P:
        return None
    u, v = (y * y - 1) % P, (D * y * y + 1) % P
    x = u * pow(v, 3, P) * pow(u * pow(v, 7, P), (P - 5) // 8, P) % P
    if v * x * x % P != u:
        x = x * ROOT_OF_MINUS_ONE % P
    if v * x * x % P != u or (x == 0 and sign):
        return None
    return (P - x if x & 1 != sign else x, y)


def double(p):
    x, y = p
    xx, yy = x * x % P, y * y % P
    product = D * xx * yy % P
    return (
        2 * x * y * pow(1 + product, -1, P) % P,
        (yy + xx) * pow(1 - product, -1, P) % P,
    )


@lru_cache(maxsize=1024)
def is_sound(encoding):
    """Whether these 32 bytes are a canonical point that is not of small order."""
    p = point(encoding)
    if p is None:
        return False
    for _ in range(3):
        p = double(p)
    return p != (0, 1)


def key(encoding):
    """Refuses what is no sound key."""
    if not is_sound(encoding):
        raise Refused("key")
    return encoding


def verifies(public, name, message, signature):
    """Whether `signature` is by `public` over the tag and the message."""
    if not is_sound(public) or not is_sound(signature[:32]):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, tag(name) + message)
    except InvalidSignature:
        return False
    return True
