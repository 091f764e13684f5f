"""Requests for credentials, and credentials: ENV-50 to ENV-53, ENV-120 to ENV-122."""

import base64
import hashlib
import re
from dataclasses import dataclass

from . import certificates, ed25519, kem
from .encoding import Reader
from .refusal import Refused

MAX_CREDENTIAL = 8 * 1024
MAX_KEM_RECORD = 4 * 1024
MAX_WORKLOAD = 2048
DAY = 24 * 60 * 60 * 1000

# SPIFFE ID, section 2.
WORKLOAD = re.compile(r"spiffe://([a-z0-9._-]{1,255})((?:/[A-Za-z0-9._-]+)+)")


@dataclass
class Request:
    """What a process asks a broker to certify."""

    statement: bytes
    workload: str
    trust_domain: str
    message_key: bytes
    # X-Wing public, X25519 public, exchange public.
    process_keys: tuple | None
    token_key: bytes | None
    instance: bytes
    challenge: bytes
    requested_at: int
    proof: bytes | None = None
    token_proof: bytes | None = None
    countersignature: tuple | None = None


@dataclass
class Credential:
    """What a broker certified; believed after `verify_credential`."""

    hash: bytes
    claims: bytes
    request: Request
    issuer: bytes
    not_before: int
    expires_at: int
    serial: bytes
    signature: bytes

    @property
    def key_id(self):
        """ENV-53."""
        return self.hash[:16]

    @property
    def workload(self):
        return self.request.workload

    @property
    def message_key(self):
        return self.request.message_key


def nkey(text):
    """The public key in an nkey as NATS writes it."""
    raw = base64.b32decode(text + "=" * (-len(text) % 8))
    return raw[1:33]


def version(reader):
    if reader.uint() != 1:
        raise Refused("unsupported_version")


def read_workload(reader):
    text = reader.text(MAX_WORKLOAD)
    match = WORKLOAD.fullmatch(text)
    if not match or any(part in (".", "..") for part in match[2].split("/")):
        raise Refused("workload")
    return text, match[1]


def read_statement(data):
    reader = Reader(data)
    reader.array_of(8)
    version(reader)
    workload, trust_domain = read_workload(reader)
    message_key = ed25519.key(reader.bytes_of(32))
    process_keys = None if reader.nil() else read_process_keys(reader)
    token_key = None if reader.nil() else ed25519.key(reader.bytes_of(32))
    request = Request(
        statement=data,
        workload=workload,
        trust_domain=trust_domain,
        message_key=message_key,
        process_keys=process_keys,
        token_key=token_key,
        instance=reader.bytes_of(16),
        challenge=reader.bytes_of(32),
        requested_at=reader.uint(),
    )
    reader.finish()
    return request


def read_process_keys(reader):
    reader.array_of(3)
    return (
        kem.read_public(reader, kem.XWING),
        kem.read_public(reader, kem.X25519),
        kem.exchange_public(reader.bytes_of(32)),
    )


def read_countersignature(reader):
    """By an nkey or, where the first element is an array, by a certificate."""
    if reader.nil():
        return None
    reader.array_of(2)
    by = certificates.read_chain(reader) if reader.is_array() else reader.bytes_of(32)
    return by, reader.bytes_of(64)


def read_nkey_signature(reader):
    if reader.nil():
        return None
    reader.array_of(2)
    return reader.bytes_of(32), reader.bytes_of(64)


def bounded(data, limit=MAX_CREDENTIAL):
    if len(data) > limit:
        raise Refused("too_large")
    return Reader(data)


def decode_request(data):
    reader = bounded(data)
    reader.array_of(4)
    request = read_statement(reader.bytes())
    request.proof = reader.bytes_of(64)
    request.token_proof = None if reader.nil() else reader.bytes_of(64)
    request.countersignature = read_countersignature(reader)
    reader.finish()
    if (request.token_proof is None) != (request.token_key is None):
        raise Refused("token_proof_presence")
    return request


def verify_request(request, expected):
    """ENV-50, ENV-51."""
    if request.workload != expected["workload"]:
        raise Refused("wrong_workload")
    if request.challenge != bytes.fromhex(expected["challenge"]):
        raise Refused("wrong_challenge")
    oldest = expected["now"] - expected["max_age"] - expected["skew"]
    if not oldest <= request.requested_at <= expected["now"] + expected["skew"]:
        raise Refused("not_recent")
    statement = request.statement
    if not ed25519.verifies(
        request.message_key, "credential-request", statement, request.proof
    ):
        raise Refused("message_key_proof")
    if request.token_key is not None:
        if request.token_key == request.message_key:
            raise Refused("same_key")
        if not ed25519.verifies(
            request.token_key, "token-key", statement, request.token_proof
        ):
            raise Refused("token_key_proof")
    verify_countersignature(
        request, expected["anchors"], expected["authorities"], expected.get("brokers")
    )


def verify_countersignature(request, anchors, authorities, brokers):
    """By one of the nkeys that vouch, or by a certificate of an authority; gives
    when the certificate ends. Where a broker's word is enough there need be none."""
    if not anchors and not authorities and not brokers:
        raise Refused("no_anchor")
    if request.countersignature is None and brokers:
        return None
    if request.countersignature is None:
        raise Refused("countersignature_missing")
    by, signature = request.countersignature
    if isinstance(by, list):
        return certificates.verify(by, signature, request, authorities)
    by_nkey(request.countersignature, "countersignature", request.statement, anchors)
    return None


def vouched(countersignature, name, statement, anchors):
    """By one of the workload's nkeys in the policy."""
    if not anchors:
        raise Refused("no_anchor")
    by_nkey(countersignature, name, statement, anchors)


def by_nkey(countersignature, name, statement, anchors):
    key, signature = countersignature
    if key not in [nkey(text) for text in anchors]:
        raise Refused("foreign_nkey")
    if not ed25519.verifies(key, name, statement, signature):
        raise Refused("bad_countersignature")


def decode_credential(data):
    reader = bounded(data)
    reader.array_of(2)
    claims, signature = reader.bytes(), reader.bytes_of(64)
    reader.finish()
    reader = Reader(claims)
    reader.array_of(7)
    version(reader)
    request = read_statement(reader.bytes())
    request.countersignature = read_countersignature(reader)
    credential = Credential(
        hash=hashlib.sha256(data).digest(),
        claims=claims,
        request=request,
        issuer=ed25519.key(reader.bytes_of(32)),
        not_before=reader.uint(),
        expires_at=reader.uint(),
        serial=reader.bytes_of(16),
        signature=signature,
    )
    reader.finish()
    return credential


def verify_credential(
    credential, bundle, anchors, authorities, now, skew, brokers=False
):
    """ENV-52, in its order."""
    if now > bundle.expires_at + skew:
        raise Refused("bundle_expired")
    if credential.request.trust_domain != bundle.trust_domain:
        raise Refused("foreign_domain")
    issuer_ends = bundle.issuing.get(credential.issuer)
    if issuer_ends is None:
        raise Refused("unknown_issuer")
    if credential.expires_at > issuer_ends:
        raise Refused("outlives_issuer")
    if not ed25519.verifies(
        credential.issuer, "credential", credential.claims, credential.signature
    ):
        raise Refused("bad_issuer_signature")
    certified_until = verify_countersignature(
        credential.request, anchors, authorities, brokers
    )
    if credential.expires_at > credential.request.requested_at + DAY:
        raise Refused("credential_life_too_long")
    if certified_until is not None and credential.expires_at > certified_until:
        raise Refused("outlives_certificate")
    if now < credential.not_before - skew:
        raise Refused("credential_not_yet_valid")
    if now > credential.expires_at + skew:
        raise Refused("credential_expired")
