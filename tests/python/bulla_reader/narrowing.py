"""Limits: ENV-110 to ENV-112."""

import copy

from .encoding import Reader
from .refusal import Refused

MAX_LIMITS = 4 * 1024
SCOPES, REACH, UNTIL, VALUES = range(4)


def decode(data):
    """ENV-110: a dict with the keys that are there."""
    if not data:
        raise Refused("invalid_field")
    reader = Reader(data)
    entries = reader.map()
    if entries > 4:
        raise Refused("too_long")
    limits, last = {}, -1
    for _ in range(entries):
        key = reader.uint()
        if key <= last or key > VALUES:
            raise Refused("invalid_field")
        last = key
        if key == SCOPES:
            limits[key] = texts(reader, is_scope)
        elif key == REACH:
            limits[key] = texts(reader, is_audience)
        elif key == UNTIL:
            limits[key] = reader.uint()
        else:
            limits[key] = values(reader)
    reader.finish()
    if not limits:
        raise Refused("invalid_field")
    return limits


def texts(reader, is_sound):
    out = []
    for _ in range(reader.array()):
        text = reader.text(MAX_LIMITS)
        if not is_sound(text) or (out and out[-1].encode() >= text.encode()):
            raise Refused("invalid_field")
        out.append(text)
    return set(out)


def values(reader):
    out, last = {}, None
    for _ in range(reader.map()):
        claim = reader.text(MAX_LIMITS)
        if claim in ("sub", "scope", "reach"):
            raise Refused("invalid_field")
        if last is not None and last.encode() >= claim.encode():
            raise Refused("invalid_field")
        last = claim
        out[claim] = texts(reader, lambda _: True)
    if not out:
        raise Refused("invalid_field")
    return out


def is_scope(text):
    return text != "" and all("!" <= c <= "~" and c not in '"\\' for c in text)


def is_audience(text):
    plain = "abcdefghijklmnopqrstuvwxyz0123456789"
    return (
        1 <= len(text) <= 63
        and text[0] in plain
        and all(c in plain + "-_" for c in text)
    )


def together(one, other):
    """ENV-112: what both keep."""
    out = dict(one)
    for key, kept in other.items():
        if key not in out:
            out[key] = kept
        elif key == UNTIL:
            out[key] = min(out[key], kept)
        elif key == VALUES:
            out[key] = {
                claim: kept.get(claim, own) & own for claim, own in out[key].items()
            } | {claim: new for claim, new in kept.items() if claim not in out[key]}
        else:
            out[key] = out[key] & kept
    return out


def apply(limits, claims):
    """ENV-111: what is left of a user's claims."""
    left = copy.deepcopy(claims)
    if SCOPES in limits and isinstance(left.get("scope"), str):
        words = left["scope"].split(" ")
        left["scope"] = " ".join(word for word in words if word in limits[SCOPES])
    kept = dict(limits.get(VALUES, {}))
    if REACH in limits:
        kept["reach"] = limits[REACH]
    for claim, texts_kept in kept.items():
        if claim not in left or left[claim] is None:
            continue
        value = left[claim]
        if isinstance(value, list):
            left[claim] = [v for v in value if isinstance(v, str) and v in texts_kept]
        elif not (isinstance(value, str) and value in texts_kept):
            left[claim] = []
    return left
