"""Encryption: ENV-16, ENV-17 and ENV-70 to ENV-77.

HPKE, its KEMs, the AEAD and HKDF come from a public library; how they are put
together is what SPEC.md says.
"""

import hashlib
from dataclasses import dataclass

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    Suite,
)
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .ed25519 import P, tag
from .encoding import Reader
from .refusal import Refused

XWING, X25519 = 1, 2
SUITES = {"xwing": XWING, "x25519": X25519}
HPKE = {
    XWING: Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305),
    X25519: Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305),
}
ENC = {XWING: 1120, X25519: 32}
# ENV-11: what the suites of headers are made of.
KEM_OF = {1: XWING, 2: X25519, 3: XWING, 4: X25519}
CIPHER_OF = {1: ChaCha20Poly1305, 2: ChaCha20Poly1305, 3: AESGCM, 4: AESGCM}
CIPHERS = {"chacha20-poly1305": ChaCha20Poly1305, "aes-256-gcm": AESGCM}
MAX_RECIPIENTS = 512
MAX_TOKEN = 16 * 1024


@dataclass
class KemKey:
    """A secret key of the reader."""

    suite: int
    id: bytes
    workload: str
    secret: object


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def hkdf(salt_name, key, info):
    return HKDF(hashes.SHA256(), 32, tag(salt_name), info).derive(key)


def workload_secret(nkey_seed, suite, version, workload):
    """ENV-77: what a workload's key is derived from."""
    info = bytes([suite]) + version.to_bytes(8, "big") + workload.encode()
    return hkdf("workload-kem", nkey_seed, info)


def secret_key(suite, seed):
    """The key of 32 bytes, and its public half."""
    if suite == X25519:
        key = X25519PrivateKey.from_private_bytes(seed)
        return key, key.public_key().public_bytes_raw()
    # X-Wing, expandDecapsulationKey of its Internet-Draft.
    expanded = hashlib.shake_256(seed).digest(96)
    post_quantum = MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
    classical = X25519PrivateKey.from_private_bytes(expanded[64:])
    public = (
        post_quantum.public_key().public_bytes_raw()
        + classical.public_key().public_bytes_raw()
    )
    return MLKEM768X25519PrivateKey(post_quantum, classical), public


def key_id(suite, public):
    """ENV-72."""
    return sha256(tag("kem-key"), bytes([suite]), public)[:16]


def exchange_public(encoding):
    """An X25519 public key: canonical, and not of small order."""
    if int.from_bytes(encoding, "little") >= P:
        raise Refused("kem_key")
    try:
        # A product of zeroes is refused by the library (RFC 7748, section 6.1).
        X25519PrivateKey.from_private_bytes(bytes(range(32))).exchange(
            X25519PublicKey.from_public_bytes(encoding)
        )
    except ValueError:
        raise Refused("kem_key") from None
    return encoding


def read_public(reader, suite):
    """A public key of a suite."""
    value = reader.bytes()
    if len(value) != {XWING: 1216, X25519: 32}[suite]:
        raise Refused("kem_key")
    exchange_public(value[-32:])
    if suite == XWING:
        try:
            MLKEM768PublicKey.from_public_bytes(value[:-32])
        except ValueError:
            raise Refused("kem_key") from None
    return value


def read_wraps(data):
    """ENV-73: the key's expiry, and what is wrapped to whom."""
    try:
        reader = Reader(data)
        reader.array_of(2)
        expiry = reader.uint()
        count = reader.array()
        if count > MAX_RECIPIENTS:
            raise Refused("too_long")
        entries = []
        for _ in range(count):
            reader.array_of(2)
            entries.append((reader.bytes_of(16), reader.bytes(1120 + 48)))
        reader.finish()
    except Refused:
        raise Refused("wraps_malformed") from None
    ids = [entry for entry, _ in entries]
    if not ids or any(a >= b for a, b in zip(ids, ids[1:])):
        raise Refused("wraps_order")
    return expiry, entries


def unwrap(header, sender, wraps, trust_domain, keys):
    """ENV-71 to ENV-74: the data key and its expiry."""
    expiry, entries = read_wraps(wraps)
    ids = [entry for entry, _ in entries]
    if sha256(tag("recipient-set"), *ids) != header[22]:
        raise Refused("recipient_set_mismatch")
    for entry, wrapped in entries:
        for key in keys:
            if key.id == entry and key.suite == KEM_OF[header[0]]:
                data_key = open_wrap(header, sender, expiry, trust_domain, key, wrapped)
                check_id(header, sender, data_key)
                return data_key, expiry
    raise Refused("not_a_recipient")


def open_wrap(header, sender, expiry, trust_domain, key, wrapped):
    """ENV-74."""
    if len(wrapped) != ENC[key.suite] + 48:
        raise Refused("wrap_does_not_open")
    info = tag("wrap") + msgpack.packb(
        [
            header[0],
            trust_domain,
            sender,
            header[3],
            key.workload,
            key.id,
            header[23],
            header[22],
            expiry,
        ],
        use_bin_type=True,
    )
    try:
        return HPKE[key.suite].decrypt(wrapped, key.secret, info)
    except (InvalidTag, ValueError):
        raise Refused("wrap_does_not_open") from None


def check_id(header, sender, data_key):
    """ENV-71."""
    name = sender.encode()
    computed = sha256(
        tag("data-key"), data_key, len(name).to_bytes(2, "big"), name, header[3]
    )
    if computed != header[23]:
        raise Refused("data_key_mismatch")


def decrypt(envelope, data_key, expiry, skew):
    """ENV-16, ENV-17, ENV-70: the token and the content."""
    header = envelope.header
    if header[7] > expiry + skew:
        raise Refused("data_key_retired")
    try:
        plaintext = CIPHER_OF[header[0]](data_key).decrypt(
            header[24], envelope.body, envelope.until_header
        )
    except InvalidTag:
        raise Refused("bad_ciphertext") from None
    try:
        reader = Reader(plaintext)
        reader.array_of(3 if 26 in header else 2)
        token = None if reader.nil() else reader.bytes(MAX_TOKEN)
        content = reader.bytes()
        original = reader.bytes(MAX_TOKEN) if 26 in header else None
        reader.finish()
    except Refused:
        raise Refused("malformed_content") from None
    # ENV-114.
    if original is not None and sha256(original) != header[26]:
        raise Refused("original_mismatch")
    tokens = [t for t in (token, envelope.token) if t is not None]
    if len(tokens) != (11 in header):
        raise Refused("token_mismatch")
    if tokens and sha256(tokens[0]) != header[11]:
        raise Refused("token_mismatch")
    envelope.original = original
    return (tokens or [None])[0], content


def code_key(own_secret, peer_public, responder, requester):
    """ENV-26: the key that two processes agree on."""
    shared = X25519PrivateKey.from_private_bytes(own_secret).exchange(
        X25519PublicKey.from_public_bytes(peer_public)
    )
    return hkdf("mac-key", shared, responder + requester)


def code(key, leaf):
    mac = hmac.HMAC(key, hashes.SHA256())
    mac.update(tag("mac") + leaf)
    return mac.finalize()


def decode_record(data, read_workload, read_countersignature):
    """ENV-77: a workload's KEM record."""
    if len(data) > 4 * 1024:
        raise Refused("too_large")
    reader = Reader(data)
    reader.array_of(2)
    statement = reader.bytes()
    countersignature = read_countersignature(reader)
    if countersignature is None:
        raise Refused("countersignature_missing")
    reader.finish()
    reader = Reader(statement)
    reader.array_of(5)
    if reader.uint() != 1:
        raise Refused("unsupported_version")
    workload, _ = read_workload(reader)
    version = reader.uint()
    xwing, x25519 = read_public(reader, XWING), read_public(reader, X25519)
    reader.finish()
    return statement, workload, version, xwing, x25519, countersignature
