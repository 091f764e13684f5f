"""Trust bundles and policies: ENV-55 to ENV-57."""

import re
from dataclasses import dataclass

from . import ed25519
from .credentials import version
from .encoding import Reader
from .refusal import Refused

MAX_BUNDLE = 16 * 1024
MAX_POLICY = 8 * 1024 * 1024
MAX_KEYS = 128
MAX_DOMAIN = 255
WEEK = 7 * 24 * 60 * 60 * 1000


@dataclass
class Bundle:
    trust_domain: str
    version: int
    issued_at: int
    expires_at: int
    issuing: dict
    policy_keys: list


@dataclass
class Policy:
    trust_domain: str
    revision: int
    issued_at: int
    text: str


def split(data, limit):
    """A statement and its signature."""
    if len(data) > limit:
        raise Refused("too_large")
    reader = Reader(data)
    reader.array_of(2)
    statement, signature = reader.bytes(), reader.bytes_of(64)
    reader.finish()
    return statement, signature


def trust_domain(reader):
    text = reader.text(MAX_DOMAIN)
    if not re.fullmatch(r"[a-z0-9._-]+", text):
        raise Refused("trust_domain")
    return text


def keys(reader, read):
    count = reader.array()
    if count > MAX_KEYS:
        raise Refused("too_long")
    return [read(reader) for _ in range(count)]


def issuing_key(reader):
    reader.array_of(2)
    return ed25519.key(reader.bytes_of(32)), reader.uint()


def ascend(keys):
    return all(a < b for a, b in zip(keys, keys[1:]))


def open_bundle(data, expected):
    """ENV-55."""
    statement, signature = split(data, MAX_BUNDLE)
    root = bytes.fromhex(expected["root"])
    if not ed25519.verifies(root, "trust-bundle", statement, signature):
        raise Refused("bad_signature")
    reader = Reader(statement)
    reader.array_of(7)
    version(reader)
    domain = trust_domain(reader)
    number, issued_at, expires_at = reader.uint(), reader.uint(), reader.uint()
    issuing = keys(reader, issuing_key)
    policy_keys = keys(reader, lambda reader: ed25519.key(reader.bytes_of(32)))
    reader.finish()
    if not ascend([key for key, _ in issuing]) or not ascend(policy_keys):
        raise Refused("key_order")
    if domain != expected["trust_domain"]:
        raise Refused("foreign_domain")
    if any(end > issued_at + WEEK for _, end in issuing):
        raise Refused("issuing_life_too_long")
    if issued_at > expected["now"] + expected["skew"]:
        raise Refused("future")
    if expected["now"] > expires_at + expected["skew"]:
        raise Refused("expired")
    return Bundle(domain, number, issued_at, expires_at, dict(issuing), policy_keys)


def open_policy(data, bundle, now, skew):
    """ENV-56."""
    if now > bundle.expires_at + skew:
        raise Refused("expired")
    statement, signature = split(data, MAX_POLICY)
    reader = Reader(statement)
    reader.array_of(6)
    version(reader)
    domain = trust_domain(reader)
    key = ed25519.key(reader.bytes_of(32))
    revision, issued_at = reader.uint(), reader.uint()
    text = reader.text(MAX_POLICY)
    reader.finish()
    if domain != bundle.trust_domain:
        raise Refused("foreign_domain")
    if key not in bundle.policy_keys:
        raise Refused("unknown_key")
    if not ed25519.verifies(key, "policy", statement, signature):
        raise Refused("bad_signature")
    if issued_at > now + skew:
        raise Refused("future")
    return Policy(domain, revision, issued_at, text)


def succeed(number, other, same):
    """ENV-57: whether `number` may replace `other`."""
    if number < other:
        raise Refused("rollback")
    if number == other and not same:
        raise Refused("equivocation")
