"""Certificates that vouch for a workload: ENV-120 to ENV-122.

Parsing and single signatures are a public library's. What makes certificates a
chain, and a chain a workload's, is done here, as the rules say.
"""

import hashlib
from datetime import timezone

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from . import ed25519
from .refusal import Refused

MAX_CHAIN = 4
MAX_CHAIN_BYTES = 4 * 1024

# What a receiver understands, so that it may stand there as critical.
KNOWN = (
    x509.BasicConstraints,
    x509.KeyUsage,
    x509.ExtendedKeyUsage,
    x509.SubjectAlternativeName,
    x509.NameConstraints,
)


def read_chain(reader):
    """ENV-120."""
    count = reader.array()
    if count > MAX_CHAIN:
        raise Refused("too_long")
    chain, room = [], MAX_CHAIN_BYTES
    for _ in range(count):
        chain.append(reader.bytes(room))
        room -= len(chain[-1])
    if not chain:
        raise Refused("wrong_length")
    return chain


def authorities(text):
    """The certificates that a policy has under one name."""
    return x509.load_pem_x509_certificates(text.encode())


def verify(chain, signature, request, sets):
    """ENV-121 and ENV-122, in their order; gives when the chain ends."""
    if not sets:
        raise Refused("no_authority")
    parsed = [parse(der) for der in chain]
    leaf, issuers = parsed[0], parsed[1:]
    names = extension(leaf, x509.SubjectAlternativeName)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier) if names else []
    if len(uris) != 1:
        raise Refused("certificate_names")
    if uris[0] != request.workload:
        raise Refused("certificate_of_another")
    if not (
        is_leaf(leaf)
        and all(may_issue(issuer) for issuer in issuers)
        and all(for_clients(certificate) for certificate in parsed)
    ):
        raise Refused("certificate_usage")
    key = leaf_key(leaf)
    ends = []
    for certificate in parsed:
        begins, end = validity(certificate)
        if not begins <= request.requested_at <= end:
            raise Refused("certificate_not_valid")
        ends.append(end)
    if not any(leads_to(parsed, root, roots) for roots in sets for root in roots):
        raise Refused("certificate_untrusted")
    message = hashlib.sha256(chain[0]).digest() + request.statement
    if not key(message, signature):
        raise Refused("bad_countersignature")
    return min(ends)


def parse(der):
    try:
        certificate = x509.load_der_x509_certificate(der)
        list(certificate.extensions)
    except ValueError:
        raise Refused("certificate_malformed") from None
    if certificate.version != x509.Version.v3:
        raise Refused("certificate_malformed")
    return certificate


def extension(certificate, kind):
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def is_ca(certificate):
    constraints = extension(certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def is_leaf(certificate):
    usage = extension(certificate, x509.KeyUsage)
    return (
        not is_ca(certificate)
        and usage is not None
        and usage.digital_signature
        and not usage.key_cert_sign
        and not usage.crl_sign
    )


def may_issue(certificate):
    usage = extension(certificate, x509.KeyUsage)
    return is_ca(certificate) and (usage is None or usage.key_cert_sign)


def for_clients(certificate):
    purposes = extension(certificate, x509.ExtendedKeyUsage)
    return purposes is None or ExtendedKeyUsageOID.CLIENT_AUTH in purposes


def validity(certificate):
    def millis(moment):
        return max(0, int(moment.replace(tzinfo=timezone.utc).timestamp())) * 1000

    return (
        millis(certificate.not_valid_before_utc),
        millis(certificate.not_valid_after_utc),
    )


def leaf_key(certificate):
    """How the leaf's key verifies what it countersigned."""
    try:
        key = certificate.public_key()
    except ValueError:
        raise Refused("certificate_key") from None
    if isinstance(key, Ed25519PublicKey):
        raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        if not ed25519.is_sound(raw):
            raise Refused("certificate_key")
        name = "certificate-countersignature"
        return lambda message, signature: ed25519.verifies(raw, name, message, signature)
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1":
        return lambda message, signature: p256_verifies(key, message, signature)
    raise Refused("certificate_key")


def p256_verifies(key, message, signature):
    r, s = (int.from_bytes(half) for half in (signature[:32], signature[32:]))
    message = ed25519.tag("certificate-countersignature") + message
    try:
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def issued_by(certificate, issuer):
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def leads_to(chain, root, roots):
    """Each issued by the next, the last, and none before it, by the authority, as
    RFC 5280 says."""
    if any(issued_by(certificate, root) for certificate in chain[:-1] for root in roots):
        return False
    for below, (certificate, issuer) in enumerate(zip(chain, chain[1:] + [root])):
        if not issued_by(certificate, issuer):
            return False
        constraints = extension(certificate, x509.BasicConstraints)
        longest = constraints.path_length if constraints is not None else None
        # The leaf is no authority below one.
        if longest is not None and below - 1 > longest:
            return False
        for found in certificate.extensions:
            if found.critical and not isinstance(found.value, KNOWN):
                return False
    for certificate in chain[1:] + [root]:
        names = extension(certificate, x509.NameConstraints)
        if names is not None and not permits(names, chain):
            return False
    return True


def permits(constraints, chain):
    """Constraints of URIs and directory names are not evaluated, and refuse."""
    trees = (constraints.permitted_subtrees or []) + (constraints.excluded_subtrees or [])
    for tree in trees:
        if isinstance(tree, (x509.UniformResourceIdentifier, x509.DirectoryName)):
            return False
    assert not trees, "no vector constrains other names"
    return True
