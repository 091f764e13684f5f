"""Envelopes: ENV-1 to ENV-35, and their chains, ENV-80 to ENV-86. What is encrypted in them is opened in kem.py."""

import hashlib
import hmac
from dataclasses import dataclass

from . import ed25519, narrowing
from .encoding import Reader
from .refusal import Refused

VERSION = 1
MAX_ENVELOPE = 64 * 1024 * 1024
MAX_HEADER = 16 * 1024
MAX_TOKEN = 16 * 1024
MAX_LIMITS = 4 * 1024
MAX_SUBJECT = 512
MAX_CONTENT_TYPE = 128
MAX_HEADERS = 32
MAX_HEADER_NAME = 64
MAX_HEADER_VALUE = 1024
MAX_HEADERS_LENGTH = 8 * 1024
MAX_FRAME = 64
MAX_BATCH = 1024
MAX_LIFE = 15 * 60 * 1000
MAX_ANCESTORS = 8
MAX_ANCESTRY = 32 * 1024

KINDS = {0: "event", 1: "request", 2: "reply", 3: "error", 4: "keywrap"}
SUITES = {
    0: "signed",
    1: "xwing",
    2: "x25519",
    3: "xwing-aes-256-gcm",
    4: "x25519-aes-256-gcm",
}
KEYWRAP = 4
ERRORS = {1: "refused", 2: "unavailable", 3: "failed", 4: "too_large", 5: "deadline"}

# The table of ENV-10 for the fields that not everything requires: event, request,
# reply, error, keywrap; r required, o optional, - refused, E required and e
# optional in the other suites and refused in suite 0.
TABLE = {
    9: "or---",
    10: "ooo--",
    11: "oo---",
    12: "oo---",
    13: "--rr-",
    14: "--rr-",
    15: "--rr-",
    16: "oooo-",
    17: "oooo-",
    18: "ooooo",
    19: "ooo--",
    20: "---r-",
    21: "---r-",
    22: "EEE-r",
    23: "EEE-r",
    24: "EEE--",
    25: "eee--",
    26: "ee---",
}


def rule(key, kind, suite):
    """What the table says about a field: r, o or -."""
    sign = TABLE[key][kind]
    if sign in "Ee":
        return "-" if suite == 0 else {"E": "r", "e": "o"}[sign]
    return sign


@dataclass
class Signed:
    """ENV-21."""

    index: int
    count: int
    path: list
    signature: bytes


@dataclass
class Coded:
    """ENV-26."""

    mac: bytes


@dataclass
class Ancestor:
    """ENV-80: what is shown of a message that led to another."""

    header: dict
    proof: Signed
    leaf: bytes


@dataclass
class Envelope:
    """A decoded envelope, not yet believed."""

    header_bytes: bytes
    header: dict
    token: bytes | None
    body: bytes
    proof: object
    # The nearest first.
    ancestors: list
    # The envelope's bytes from its first to the last of the header (ENV-16).
    until_header: bytes
    # Where nothing is encrypted, or once it is decrypted.
    bodies: list | None = None
    # The client's own token, once it is decrypted.
    original: bytes | None = None
    sender: str | None = None
    credential_expires_at: int | None = None

    @property
    def encrypted(self):
        return 24 in self.header

    @property
    def messages(self):
        return len(self.header[5]) // 16

    @property
    def kind(self):
        return KINDS[self.header[1]]

    @property
    def leaf(self):
        """ENV-20."""
        return leaf_of(self.header_bytes, hashlib.sha256(self.body).digest())


def leaf_of(header_bytes, body_hash):
    """ENV-20."""
    length = len(header_bytes).to_bytes(4, "big")
    return hashlib.sha256(
        b"\x00" + bytes([VERSION]) + length + header_bytes + body_hash
    ).digest()


def decode(data):
    """ENV-5: size, then version, then the rest."""
    if len(data) > MAX_ENVELOPE:
        raise Refused("too_large")
    reader = Reader(data)
    elements = reader.array()
    if reader.uint() != VERSION:
        raise Refused("unsupported_version")
    if elements not in (5, 6):
        raise Refused("wrong_length")
    header_bytes = reader.bytes(MAX_HEADER)
    header = decode_header(header_bytes)
    until_header = data[: reader.at]
    token = None if reader.nil() else reader.bytes(MAX_TOKEN)
    encrypted = 24 in header
    # ENV-15, ENV-17.
    if (token is None) != (11 not in header) and not (encrypted and token is None):
        raise Refused("token_presence")
    body = reader.bytes(MAX_ENVELOPE)
    if header[1] == 3 and body:
        raise Refused("error_with_body")
    if encrypted and len(body) < 16:
        raise Refused("body_too_short")
    bodies = None if encrypted else decode_bodies(body, len(header[5]) // 16)
    ancestors = []
    if elements == 6:
        ancestors = decode_ancestors(reader.bytes(MAX_ANCESTRY), header)
    proof = decode_proof(reader)
    if isinstance(proof, Coded) and KINDS[header[1]] not in ("reply", "error"):
        raise Refused("mac_kind")
    reader.finish()
    return Envelope(
        header_bytes, header, token, body, proof, ancestors, until_header, bodies
    )


def decode_ancestors(data, child):
    """ENV-80 to ENV-82."""
    if KINDS[child[1]] not in ("event", "request"):
        raise Refused("ancestry_kind")
    reader = Reader(data)
    count = reader.array()
    if count > MAX_ANCESTORS:
        raise Refused("too_long")
    if count == 0:
        raise Refused("ancestry_empty")
    ancestors = []
    for _ in range(count):
        if reader.array() != 3:
            raise Refused("wrong_length")
        header_bytes = reader.bytes(MAX_HEADER)
        header = decode_header(header_bytes)
        leaf = leaf_of(header_bytes, reader.bytes_of(32))
        proof = decode_proof(reader)
        if KINDS[header[1]] not in ("event", "request"):
            raise Refused("ancestor_kind")
        if isinstance(proof, Coded):
            raise Refused("ancestor_not_signed")
        if child.get(16) != leaf:
            raise Refused("ancestor_unlinked")
        ancestors.append(Ancestor(header, proof, leaf))
        child = header
    reader.finish()
    if 16 in child:
        raise Refused("ancestry_incomplete")
    return ancestors


def decode_header(data):
    """ENV-10 to ENV-13, ENV-15."""
    reader = Reader(data)
    header, last = {}, -1
    for _ in range(reader.map()):
        key = reader.uint()
        if key not in FIELDS:
            raise Refused("unknown_field")
        if key <= last:
            raise Refused("field_order")
        last = key
        header[key] = FIELDS[key](reader)
    reader.finish()

    for required in range(9):
        if required not in header:
            raise Refused("missing_field")
    if header[1] not in KINDS:
        raise Refused("unsupported_kind")
    kind, suite = header[1], header[0]
    if (kind == 3 and suite != 0) or (kind == KEYWRAP and suite == 0):
        raise Refused("suite_of_kind")
    for key in TABLE:
        if rule(key, kind, suite) == "r" and key not in header:
            raise Refused("missing_field")
        if rule(key, kind, suite) == "-" and key in header:
            raise Refused("unexpected_field")
    if (12 in header or 26 in header) and 11 not in header:
        raise Refused("unexpected_field")
    messages = len(header[5]) // 16
    if messages > 1 and (header[1] != 0 or 9 in header):
        raise Refused("not_framable")
    if header[4] + messages >= 2**64:
        raise Refused("invalid_field")
    if header[8] < header[7]:
        raise Refused("invalid_field")
    if header[1] == 3 and not header[15]:
        raise Refused("invalid_field")
    return header


def read_suite(reader):
    value = reader.uint()
    # ENV-11: before another field is looked at.
    if value not in SUITES:
        raise Refused("unsupported_suite")
    return value


def ids(reader):
    value = reader.bytes(MAX_FRAME * 16)
    if not value or len(value) % 16:
        raise Refused("invalid_field")
    return value


def subject(reader):
    value = reader.text(MAX_SUBJECT)
    if not value:
        raise Refused("invalid_field")
    return value


def content_type(reader):
    value = reader.text(MAX_CONTENT_TYPE)
    if not value or not all(" " <= c <= "~" for c in value):
        raise Refused("invalid_field")
    return value


def limits(reader):
    value = reader.bytes(MAX_LIMITS)
    narrowing.decode(value)
    return value


def reply_index(reader):
    value = reader.uint()
    if value >= 2**32:
        raise Refused("invalid_field")
    return value


def traceparent(reader):
    value = reader.bytes_of(25)
    if not any(value[:16]) or not any(value[16:24]):
        raise Refused("invalid_field")
    return value


def application_headers(reader):
    """ENV-15."""
    headers, last = {}, ""
    entries = reader.map()
    if entries > MAX_HEADERS:
        raise Refused("too_long")
    sound = entries > 0
    for _ in range(entries):
        name, value = reader.text(MAX_HEADER_NAME), reader.text(MAX_HEADER_VALUE)
        ordered = last.encode() < name.encode()
        plain = all(c.isascii() and (c.isalnum() or c in "-_.") for c in name)
        printable = not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in value)
        sound = sound and bool(name) and ordered and plain and printable
        headers[name] = value
        last = name
    length = sum(len(n.encode()) + len(v.encode()) for n, v in headers.items())
    if not sound or length > MAX_HEADERS_LENGTH:
        raise Refused("invalid_field")
    return headers


def error_code(reader):
    value = reader.uint()
    if value not in ERRORS:
        raise Refused("invalid_field")
    return value


FIELDS = {
    0: read_suite,
    1: Reader.uint,
    2: lambda reader: reader.bytes_of(16),
    3: lambda reader: reader.bytes_of(8),
    4: Reader.uint,
    5: ids,
    6: subject,
    7: Reader.uint,
    8: Reader.uint,
    9: subject,
    10: content_type,
    11: lambda reader: reader.bytes_of(32),
    12: limits,
    13: lambda reader: reader.bytes_of(32),
    14: reply_index,
    15: Reader.boolean,
    16: lambda reader: reader.bytes_of(32),
    17: traceparent,
    18: Reader.uint,
    19: application_headers,
    20: error_code,
    21: lambda reader: reader.bytes_of(16),
    22: lambda reader: reader.bytes_of(32),
    23: lambda reader: reader.bytes_of(32),
    24: lambda reader: reader.bytes_of(12),
    25: lambda reader: reader.bytes(MAX_HEADER),
    26: lambda reader: reader.bytes_of(32),
}


def decode_bodies(body, messages):
    """ENV-14."""
    if messages == 1:
        return [body]
    reader = Reader(body)
    if reader.array() != messages:
        raise Refused("frame_count")
    bodies = [reader.bytes() for _ in range(messages)]
    reader.finish()
    return bodies


def decode_proof(reader):
    """ENV-21, ENV-22, ENV-26."""
    elements = reader.array()
    if elements == 1:
        return Coded(reader.bytes_of(32))
    if elements != 4:
        raise Refused("wrong_length")
    index, count = reader.uint(), reader.uint()
    if not index < count <= MAX_BATCH:
        raise Refused("batch_place")
    path = reader.bytes()
    if len(path) != 24 * path_length(index, count):
        raise Refused("path_length")
    nodes = [path[at : at + 24] for at in range(0, len(path), 24)]
    return Signed(index, count, nodes, reader.bytes_of(64))


def path_length(index, count):
    """How many levels the node of this leaf has a neighbour on."""
    length = 0
    while count > 1:
        if index ^ 1 < count:
            length += 1
        index, count = index // 2, (count + 1) // 2
    return length


def root(leaf, index, count, path):
    """ENV-22: level by level; a last node without a neighbour moves up as it is."""
    node, path = leaf[:24], list(path)
    while count > 1:
        if index ^ 1 < count:
            neighbour = path.pop(0)
            pair = node + neighbour if index % 2 == 0 else neighbour + node
            node = hashlib.sha256(b"\x01" + pair).digest()[:24]
        index, count = index // 2, (count + 1) // 2
    return node


def verify(envelope, credential, code=None):
    """ENV-23 or ENV-26, and the token that the header's hash covers (ENV-20).

    `code` makes the code that is expected, where one is.
    """
    if envelope.header[2] != credential.key_id:
        raise Refused("wrong_credential")
    proof = envelope.proof
    if code is not None:
        if isinstance(proof, Signed):
            raise Refused("not_coded")
        if not hmac.compare_digest(code(envelope.leaf), proof.mac):
            raise Refused("bad_mac")
    else:
        if isinstance(proof, Coded):
            raise Refused("not_signed")
        if not is_signed(envelope.leaf, proof, credential):
            raise Refused("bad_signature")
    if envelope.token is not None:
        if hashlib.sha256(envelope.token).digest() != envelope.header[11]:
            raise Refused("token_mismatch")
    envelope.sender = credential.workload
    envelope.credential_expires_at = credential.expires_at


def is_signed(leaf, proof, credential):
    """ENV-22, ENV-23."""
    top = root(leaf, proof.index, proof.count, proof.path)
    message = credential.hash + proof.count.to_bytes(4, "big") + top
    return ed25519.verifies(credential.message_key, "batch", message, proof.signature)


def check_chain(envelope, senders, minter, max_age, skew):
    """ENV-83 to ENV-86; `senders` are the credentials of the ancestors' senders."""
    for ancestor, credential in zip(envelope.ancestors, senders):
        header = ancestor.header
        if header[2] != credential.key_id:
            raise Refused("chain_not_authentic")
        if not is_signed(ancestor.leaf, ancestor.proof, credential):
            raise Refused("chain_not_authentic")
        if header[8] > credential.expires_at or header[8] > header[7] + MAX_LIFE:
            raise Refused("chain_outlives")
    child = envelope.header
    if 11 not in child:
        raise Refused("chain_no_user")
    if 16 in child and not envelope.ancestors:
        raise Refused("chain_missing")
    token = child[11]
    for ancestor in envelope.ancestors:
        parent = ancestor.header
        if parent.get(11) != token:
            raise Refused("chain_token_changed")
        if 12 in parent:
            limits = narrowing.decode(child[12]) if 12 in child else {}
            both = narrowing.together(limits, narrowing.decode(parent[12]))
            if both != limits:
                raise Refused("chain_limits_widened")
        if parent[7] > child[7] + skew:
            raise Refused("chain_out_of_order")
        if child[7] > min(parent[8], parent[7] + max_age) + skew:
            raise Refused("chain_parent_over")
        child = parent
    first = senders[-1].workload if senders else envelope.sender
    if first != minter:
        raise Refused("chain_foreign_start")


def check(envelope, expected):
    """ENV-30 to ENV-34, after the proof."""
    header = envelope.header
    if envelope.kind not in expected["kinds"]:
        raise Refused("wrong_kind")
    if header[6] != expected["subject"]:
        raise Refused("wrong_subject")
    if header.get(9) != expected.get("reply_to"):
        raise Refused("wrong_reply_to")
    if 13 in header:
        asked = expected.get("request")
        if asked is None or header[13] != bytes.fromhex(asked):
            raise Refused("wrong_request")
    check_time(envelope, expected)


def check_time(envelope, expected):
    """ENV-33, ENV-34."""
    issued_at, expires_at = envelope.header[7], envelope.header[8]
    now, skew = expected["now"], expected["skew"]
    if expires_at > envelope.credential_expires_at:
        raise Refused("outlives_credential")
    if expires_at > issued_at + MAX_LIFE:
        raise Refused("lives_too_long")
    if issued_at > now + skew:
        raise Refused("future")
    if issued_at < expected["not_before"]:
        raise Refused("issued_before_start")
    if now > expires_at + skew:
        raise Refused("expired")
    if now > issued_at + expected["max_age"] + skew:
        raise Refused("too_old")
