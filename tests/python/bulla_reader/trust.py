"""Trust bundles, policies, heads and revocation lists: ENV-55 to ENV-57, ENV-100 to ENV-103."""

import re
import unicodedata
from dataclasses import dataclass

from . import ed25519
from .credentials import version
from .encoding import Reader, pack
from .refusal import Refused

MAX_BUNDLE = 16 * 1024
MAX_POLICY = 8 * 1024 * 1024
MAX_COMMENT = 1024
MAX_KEYS = 128
MAX_HEAD = 1024
MAX_REVOCATION_LIST = 512 * 1024
MAX_REVOCATIONS = 8192
MAX_WORKLOAD = 2048
MAX_NAME = 512
MAX_REASON = 256
MAX_FORMER_ROOTS = 8
MAX_DOMAIN = 255
WEEK = 7 * 24 * 60 * 60 * 1000


@dataclass
class Bundle:
    trust_domain: str
    version: int
    issued_at: int
    expires_at: int
    root: bytes
    former_roots: list
    issuing: dict
    policy_keys: list


@dataclass
class Policy:
    trust_domain: str
    revision: int
    issued_at: int
    comment: str
    text: str


@dataclass
class Head:
    trust_domain: str
    bundle: int
    policy: tuple
    revocations: tuple
    time: int


@dataclass
class Revocations:
    trust_domain: str
    sequence: int
    issued_at: int
    entries: list


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


def keys(reader, read, most=MAX_KEYS):
    count = reader.array()
    if count > most:
        raise Refused("too_long")
    return [read(reader) for _ in range(count)]


def issuing_key(reader):
    reader.array_of(2)
    return ed25519.key(reader.bytes_of(32)), reader.uint()


def former_root(reader):
    reader.array_of(2)
    return ed25519.key(reader.bytes_of(32)), reader.bytes_of(64)


def succession(domain, former, following):
    """What `former` signs so that `following` takes its place: ENV-58."""
    return pack([1, domain, former, following])


def ascend(keys):
    return all(a < b for a, b in zip(keys, keys[1:]))


def open_bundle(data, expected):
    """ENV-55."""
    statement, signature = split(data, MAX_BUNDLE)
    reader = Reader(statement)
    reader.array_of(9)
    version(reader)
    domain = trust_domain(reader)
    number, issued_at, expires_at = reader.uint(), reader.uint(), reader.uint()
    root = ed25519.key(reader.bytes_of(32))
    former = keys(reader, former_root, MAX_FORMER_ROOTS)
    issuing = keys(reader, issuing_key)
    policy_keys = keys(reader, lambda reader: ed25519.key(reader.bytes_of(32)))
    reader.finish()
    if not ascend([key for key, _ in issuing]) or not ascend(policy_keys):
        raise Refused("key_order")
    roots = [key for key, _ in former] + [root]
    if len(set(roots)) != len(roots):
        raise Refused("root_twice")
    if not any(bytes.fromhex(pinned) in roots for pinned in expected["roots"]):
        raise Refused("unknown_root")
    if not ed25519.verifies(root, "trust-bundle", statement, signature):
        raise Refused("bad_signature")
    if domain != expected["trust_domain"]:
        raise Refused("foreign_domain")
    for (key, vouches), following in zip(former, roots[1:]):
        said = succession(domain, key, following)
        if not ed25519.verifies(key, "root-succession", said, vouches):
            raise Refused("root_succession")
    if any(end > issued_at + WEEK for _, end in issuing):
        raise Refused("issuing_life_too_long")
    if issued_at > expected["now"] + expected["skew"]:
        raise Refused("future")
    if expected["now"] > expires_at + expected["skew"]:
        raise Refused("expired")
    return Bundle(
        domain, number, issued_at, expires_at, root, roots[:-1], dict(issuing), policy_keys
    )


def open_policy(data, bundle, now, skew, tag="policy"):
    """ENV-56, and ENV-59 with the tag of candidates."""
    if now > bundle.expires_at + skew:
        raise Refused("expired")
    statement, signature = split(data, MAX_POLICY)
    reader = Reader(statement)
    reader.array_of(7)
    version(reader)
    domain = trust_domain(reader)
    key = ed25519.key(reader.bytes_of(32))
    revision, issued_at = reader.uint(), reader.uint()
    comment = reader.text(MAX_COMMENT)
    text = reader.text(MAX_POLICY)
    reader.finish()
    if domain != bundle.trust_domain:
        raise Refused("foreign_domain")
    if key not in bundle.policy_keys:
        raise Refused("unknown_key")
    if not ed25519.verifies(key, tag, statement, signature):
        raise Refused("bad_signature")
    if issued_at > now + skew:
        raise Refused("future")
    return Policy(domain, revision, issued_at, comment, text)


def open_head(data, bundle, now, skew):
    """ENV-100."""
    if now > bundle.expires_at + skew:
        raise Refused("expired")
    statement, signature = split(data, MAX_HEAD)
    reader = Reader(statement)
    reader.array_of(9)
    version(reader)
    domain = trust_domain(reader)
    key = ed25519.key(reader.bytes_of(32))
    bundle_version = reader.uint()
    policy = reader.uint(), reader.bytes_of(32)
    revocations = reader.uint(), reader.bytes_of(32)
    time = reader.uint()
    reader.finish()
    if domain != bundle.trust_domain:
        raise Refused("foreign_domain")
    if key not in bundle.issuing:
        raise Refused("unknown_issuer")
    if now > bundle.issuing[key] + skew:
        raise Refused("issuer_expired")
    if not ed25519.verifies(key, "head", statement, signature):
        raise Refused("bad_signature")
    if time > now + skew:
        raise Refused("future")
    return Head(domain, bundle_version, policy, revocations, time)


def open_revocations(data, bundle, now, skew):
    """ENV-102."""
    if now > bundle.expires_at + skew:
        raise Refused("expired")
    statement, signature = split(data, MAX_REVOCATION_LIST)
    reader = Reader(statement)
    reader.array_of(6)
    version(reader)
    domain = trust_domain(reader)
    key = ed25519.key(reader.bytes_of(32))
    if domain != bundle.trust_domain:
        raise Refused("foreign_domain")
    if key not in bundle.policy_keys:
        raise Refused("unknown_key")
    if not ed25519.verifies(key, "revocations", statement, signature):
        raise Refused("bad_signature")
    sequence, issued_at = reader.uint(), reader.uint()
    count = reader.array()
    if count > MAX_REVOCATIONS:
        raise Refused("too_long")
    entries, last = [], None
    for _ in range(count):
        kind, value, since, made_at, reason = entry(reader, domain)
        place = kind, value if kind == 1 else value.encode()
        if last is not None and last >= place:
            raise Refused("entry_order")
        if not since <= made_at <= issued_at:
            raise Refused("entry_times")
        last = place
        entries.append((kind, value, since, made_at, reason))
    reader.finish()
    if sequence == 0:
        raise Refused("sequence")
    if issued_at > now + skew:
        raise Refused("future")
    return Revocations(domain, sequence, issued_at, entries)


def entry(reader, domain):
    reader.array_of(5)
    kind = reader.uint()
    if kind == 0:
        value = reader.text(MAX_WORKLOAD)
        if not re.fullmatch(rf"spiffe://{re.escape(domain)}(/[a-zA-Z0-9._-]+)+", value):
            raise Refused("entry_name")
        if any(part in (".", "..") for part in value.split("/")[3:]):
            raise Refused("entry_name")
    elif kind == 1:
        value = reader.bytes_of(16)
    elif kind in (2, 3):
        value = reader.text(MAX_NAME)
        if not clean(value):
            raise Refused("entry_name")
    else:
        raise Refused("unknown_entry")
    since, made_at = reader.uint(), reader.uint()
    reason = None
    if not reader.nil():
        reason = reader.text(MAX_REASON)
        if not clean(reason):
            raise Refused("entry_reason")
    return kind, value, since, made_at, reason


def clean(text):
    return text != "" and not any(unicodedata.category(c) == "Cc" for c in text)


def compare(named, held):
    """ENV-101, of numbers with their hashes."""
    if named[0] != held[0]:
        return "behind" if named[0] < held[0] else "ahead"
    return "same" if named[1] == held[1] else "contradiction"


def follows(offered, held):
    """ENV-58: whether a bundle is by the root of the one held, or one after it."""
    if held.root != offered.root and held.root not in offered.former_roots:
        raise Refused("root_rollback")


def succeed(number, other, same):
    """ENV-57: whether `number` may replace `other`."""
    if number < other:
        raise Refused("rollback")
    if number == other and not same:
        raise Refused("equivocation")
