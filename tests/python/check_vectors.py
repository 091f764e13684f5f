"""Runs every vector of a vectors.json through the reader.

    python check_vectors.py ../../sdk/envelope/testdata/vectors.json

Prints what disagrees, then how many passed and failed; exit code 1 if any failed.
"""

import hashlib
import json
import sys
from functools import cache

from bulla_reader import certificates, credentials, envelope, kem, narrowing, trust
from bulla_reader.refusal import Refused
from bulla_reader.replay import Window


def octets(value):
    """Hexadecimal digits, or pieces of them and runs of one byte."""
    if isinstance(value, str):
        return bytes.fromhex(value)
    return b"".join(
        bytes.fromhex(piece)
        if isinstance(piece, str)
        else bytes.fromhex(piece["repeat"]) * piece["times"]
        for piece in value
    )


class Vectors:
    def __init__(self, file):
        self.file = file
        self.defaults = file["defaults"]

    def bundle(self, given):
        data = octets(given.get("bundle", self.file["bundle"]))
        return trust.open_bundle(data, self.defaults)

    @cache
    def credential(self, name):
        """The receiver found it, when it was good."""
        named = self.file["credentials"][name]
        credential = credentials.decode_credential(octets(named["bytes"]))
        credentials.verify_credential(
            credential,
            self.bundle({}),
            named["anchors"],
            [],
            self.defaults["now"],
            self.defaults["skew"],
        )
        return credential

    def authorities(self, given):
        """What the policy lists for the workload, each name as its certificates."""
        return [
            certificates.authorities(self.file["authorities"][name])
            for name in given.get("authorities") or []
        ]

    @cache
    def kem_keys(self, reader):
        keys = []
        for given in self.file["kem_keys"]:
            suite = kem.SUITES[given["suite"]]
            seed = bytes.fromhex(given["secret"])
            secret, public = kem.secret_key(suite, seed)
            identity = kem.key_id(suite, public)
            assert (public.hex(), identity.hex()) == (given["public"], given["id"])
            if "nkey" in given:
                nkey_seed = bytes.fromhex(self.file["keys"][given["nkey"]]["seed"])
                derived = kem.workload_secret(
                    nkey_seed, suite, given["version"], given["workload"]
                )
                assert derived == seed, given["reader"]
            if given["reader"] == reader:
                keys.append(kem.KemKey(suite, identity, given["workload"], secret))
        return keys

    def nkey_seed(self, public):
        """The seed and the text of an nkey of the file."""
        for key in self.file["keys"].values():
            if key["public"] == public.hex() and "nkey" in key:
                return bytes.fromhex(key["seed"]), key["nkey"]
        raise KeyError(public.hex())

    def code(self, given, responder):
        """Makes the code that a requester expects; nothing if it expects none."""
        if "requester" not in given:
            return None
        own = self.file["exchange_keys"][given["requester"]]
        key = kem.code_key(
            bytes.fromhex(own["seed"]),
            responder.request.process_keys[2],
            responder.hash,
            self.credential(given["requester"]).hash,
        )
        return lambda leaf: kem.code(key, leaf)

    def judge(self, vector):
        """Stage and reason of a refusal, or nothing and what is given."""
        given = self.defaults | vector.get("with", {})
        stage = ["decode"]
        try:
            return None, None, JUDGES[vector["what"]](self, vector, given, stage)
        except Refused as refused:
            return stage[0], refused.reason, None


def judge_envelope(vectors, vector, given, stage):
    credential = vectors.credential(given["credential"])
    opened = envelope.decode(octets(vector["bytes"]))
    stage[0] = "verify"
    envelope.verify(opened, credential, vectors.code(given, credential))
    stage[0] = "check"
    envelope.check(opened, given)
    stage[0] = "suite"
    used = opened.header[0]
    strength = {None: 0, kem.X25519: 1, kem.XWING: 2}
    asked = kem.SUITES.get(given.get("suite"))
    if strength[kem.KEM_OF.get(used)] < strength[asked]:
        raise Refused("weak_suite")
    if used and "cipher" in given and kem.CIPHER_OF[used] != kem.CIPHERS[given["cipher"]]:
        raise Refused("other_cipher")
    if opened.encrypted:
        wraps = opened.header.get(25)
        if wraps is None and "record" in given:
            stage[0] = "record"
            wraps = record_wraps(opened, credential, given)
        stage[0] = "open"
        if wraps is None:
            raise Refused("data_key_missing")
        open_encrypted(vectors, opened, wraps, given)
    if "chain" in given:
        stage[0] = "chain"
        chain = given["chain"]
        senders = [vectors.credential(name) for name in chain["senders"]]
        envelope.check_chain(
            opened, senders, chain["minter"], given["max_age"], given["skew"]
        )
    return envelope_gives(opened)


def record_wraps(opened, credential, given):
    """ENV-76: the wraps in a record of the same sender."""
    record = envelope.decode(octets(given["record"]))
    envelope.verify(record, credential)
    envelope.check(record, given | {"subject": record.header[6], "kinds": ["keywrap"]})
    if any(record.header[key] != opened.header[key] for key in (0, 3, 22, 23)):
        raise Refused("wrong_data_key")
    # $BULLA.KEYS.<sender's tag>.<data-key id>
    if record.header[6].split(".")[3:] != [opened.header[23].hex()]:
        raise Refused("wrong_subject")
    return record.body


def open_encrypted(vectors, opened, wraps, given):
    keys = vectors.kem_keys(given["reader"])
    data_key, expiry = kem.unwrap(
        opened.header, opened.sender, wraps, given["trust_domain"], keys
    )
    opened.token, content = kem.decrypt(opened, data_key, expiry, given["skew"])
    try:
        opened.bodies = envelope.decode_bodies(content, opened.messages)
    except Refused:
        raise Refused("malformed_content") from None


def envelope_gives(opened):
    header = opened.header
    gives = {
        "workload": opened.sender,
        "kind": opened.kind,
        "suite": envelope.SUITES[header[0]],
        "leaf": opened.leaf.hex(),
        "epoch": header[3].hex(),
        "subject": header[6],
        "issued_at": header[7],
        "expires_at": header[8],
        "messages": [
            {
                "id": header[5][16 * at : 16 * at + 16].hex(),
                "sequence": header[4] + at,
                "body": body,
            }
            for at, body in enumerate(opened.bodies)
        ],
    }
    names = {
        9: ("reply_to", None),
        10: ("content_type", None),
        12: ("limits", None),
        13: ("request", bytes.hex),
        14: ("reply_index", None),
        15: ("final", None),
        16: ("parent", bytes.hex),
        17: ("traceparent", trace_text),
        18: ("policy_revision", None),
        19: ("headers", None),
        20: ("error", envelope.ERRORS.get),
        21: ("decision", bytes.hex),
    }
    for key, (name, convert) in names.items():
        if key in header:
            gives[name] = convert(header[key]) if convert else header[key]
    if opened.token is not None:
        gives["token"] = opened.token
    if opened.original is not None:
        gives["original_token"] = opened.original
    if opened.ancestors:
        gives["ancestors"] = [
            {
                "leaf": ancestor.leaf.hex(),
                "key_id": ancestor.header[2].hex(),
                "kind": envelope.KINDS[ancestor.header[1]],
                "subject": ancestor.header[6],
                "issued_at": ancestor.header[7],
                "expires_at": ancestor.header[8],
            }
            for ancestor in opened.ancestors
        ]
    return gives


def trace_text(value):
    return f"00-{value[:16].hex()}-{value[16:24].hex()}-{value[24:].hex()}"


def judge_credential(vectors, vector, given, stage):
    credential = credentials.decode_credential(octets(vector["bytes"]))
    stage[0] = "verify"
    credentials.verify_credential(
        credential,
        vectors.bundle(given),
        given["anchors"],
        vectors.authorities(given),
        given["now"],
        given["skew"],
        given.get("brokers"),
    )
    request = credential.request
    return {
        "workload": credential.workload,
        "hash": credential.hash.hex(),
        "key_id": credential.key_id.hex(),
        "message_key": request.message_key.hex(),
        "token_key": request.token_key and request.token_key.hex(),
        "process_keys": process_keys(request),
        "instance": request.instance.hex(),
        "not_before": credential.not_before,
        "expires_at": credential.expires_at,
        "serial": credential.serial.hex(),
    }


def judge_request(vectors, vector, given, stage):
    request = credentials.decode_request(octets(vector["bytes"]))
    stage[0] = "verify"
    expected = {**given, "authorities": vectors.authorities(given)}
    credentials.verify_request(request, expected)
    return {
        "workload": request.workload,
        "message_key": request.message_key.hex(),
        "token_key": request.token_key and request.token_key.hex(),
        "process_keys": process_keys(request),
        "instance": request.instance.hex(),
        "requested_at": request.requested_at,
    }


def process_keys(request):
    if request.process_keys is None:
        return None
    xwing, x25519, exchange = request.process_keys
    return {
        "xwing_id": kem.key_id(kem.XWING, xwing).hex(),
        "x25519_id": kem.key_id(kem.X25519, x25519).hex(),
        "exchange": exchange.hex(),
    }


def judge_kem_record(vectors, vector, given, stage):
    statement, workload, version, xwing, x25519, countersignature = kem.decode_record(
        octets(vector["bytes"]),
        credentials.read_workload,
        credentials.read_nkey_signature,
    )
    stage[0] = "verify"
    if workload != given["workload"]:
        raise Refused("foreign_nkey")
    credentials.vouched(countersignature, "kem-record", statement, given["anchors"])
    # ENV-77: and these are the keys that the nkey's seed gives.
    seed, nkey = vectors.nkey_seed(countersignature[0])
    for suite, public in ((kem.XWING, xwing), (kem.X25519, x25519)):
        secret = kem.workload_secret(seed, suite, version, workload)
        if kem.secret_key(suite, secret)[1] != public:
            raise Refused(f"not derived: {suite}")
    return {
        "workload": workload,
        "version": version,
        "nkey": nkey,
        "xwing": xwing.hex(),
        "xwing_id": kem.key_id(kem.XWING, xwing).hex(),
        "x25519": x25519.hex(),
        "x25519_id": kem.key_id(kem.X25519, x25519).hex(),
    }


def judge_bundle(_, vector, given, stage):
    stage[0] = "open"
    bundle = trust.open_bundle(octets(vector["bytes"]), given)
    return {
        "trust_domain": bundle.trust_domain,
        "version": bundle.version,
        "issued_at": bundle.issued_at,
        "expires_at": bundle.expires_at,
        "root": bundle.root.hex(),
        "former_roots": [key.hex() for key in bundle.former_roots],
        "issuing": [
            {"key": key.hex(), "expires_at": end} for key, end in bundle.issuing.items()
        ],
        "policy_keys": [key.hex() for key in bundle.policy_keys],
    }


def judge_policy(vectors, vector, given, stage):
    stage[0] = "open"
    return policy_members(open_policy(vectors, vector["bytes"], given))


def judge_candidate(vectors, vector, given, stage):
    stage[0] = "open"
    candidate = open_policy(vectors, vector["bytes"], given, "policy-candidate")
    return policy_members(candidate)


def policy_members(policy):
    return {
        "trust_domain": policy.trust_domain,
        "revision": policy.revision,
        "issued_at": policy.issued_at,
        "comment": policy.comment,
        "text": policy.text,
    }


def open_policy(vectors, data, given, tag="policy"):
    return trust.open_policy(
        octets(data), vectors.bundle(given), given["now"], given["skew"], tag
    )


def judge_bundle_succession(_, vector, given, stage):
    held = trust.open_bundle(octets(given["held"]), given)
    offered = trust.open_bundle(octets(vector["bytes"]), given)
    stage[0] = "open"
    trust.follows(offered, held)
    trust.succeed(offered.version, held.version, offered == held)
    return {"version": offered.version}


def judge_policy_succession(vectors, vector, given, stage):
    held = open_policy(vectors, given["held"], given)
    offered = open_policy(vectors, vector["bytes"], given)
    stage[0] = "open"
    trust.succeed(offered.revision, held.revision, offered == held)
    return {"revision": offered.revision}


def judge_head(vectors, vector, given, stage):
    stage[0] = "open"
    head = trust.open_head(
        octets(vector["bytes"]), vectors.bundle(given), given["now"], given["skew"]
    )
    return {
        "trust_domain": head.trust_domain,
        "bundle": head.bundle,
        "policy": {"number": head.policy[0], "hash": head.policy[1].hex()},
        "revocations": {
            "number": head.revocations[0],
            "hash": head.revocations[1].hex(),
        },
        "time": head.time,
    }


def open_revocations(vectors, data, given):
    return trust.open_revocations(
        octets(data), vectors.bundle(given), given["now"], given["skew"]
    )


def judge_revocations(vectors, vector, given, stage):
    stage[0] = "open"
    revocations = open_revocations(vectors, vector["bytes"], given)
    kinds = "workload", "key", "user", "token"
    return {
        "trust_domain": revocations.trust_domain,
        "sequence": revocations.sequence,
        "issued_at": revocations.issued_at,
        "entries": [
            {
                "kind": kinds[kind],
                "value": value.hex() if kind == 1 else value,
                "since": since,
                "made_at": made_at,
                "reason": reason,
            }
            for kind, value, since, made_at, reason in revocations.entries
        ],
    }


def judge_revocations_succession(vectors, vector, given, stage):
    held = open_revocations(vectors, given["held"], given)
    offered = open_revocations(vectors, vector["bytes"], given)
    stage[0] = "open"
    trust.succeed(offered.sequence, held.sequence, offered == held)
    return {"sequence": offered.sequence}


def judge_head_about(vectors, vector, given, stage):
    """ENV-101 and ENV-105: a head, and what is held."""
    stage[0] = "open"
    head = trust.open_head(
        octets(vector["bytes"]), vectors.bundle(given), given["now"], given["skew"]
    )
    held = octets(given["held"])
    number = open_revocations(vectors, given["held"], given).sequence
    how = trust.compare(head.revocations, (number, hashlib.sha256(held).digest()))
    if how in ("ahead", "contradiction"):
        raise Refused(how)
    return {"revocations": how}


def judge_limits(_, vector, given, stage):
    limits = narrowing.decode(octets(vector["bytes"]))
    held = given.get("held")
    earlier = narrowing.decode(octets(held)) if held else {}
    both = narrowing.together(limits, earlier)
    return {
        # As sets: the encoding is checked by decoding it.
        "limits": both,
        "narrows": both == limits,
        "claims": narrowing.apply(both, given["claims"]),
    }


def judge_replay(vectors, vector, given, _):
    credential = vectors.credential(given["credential"])
    window = Window(given["skew"])
    for at, step in enumerate(vector["steps"]):
        opened = envelope.decode(octets(step["bytes"]))
        envelope.verify(opened, credential)
        envelope.check(opened, given)
        reason = None
        try:
            window.commit(opened, step["message"], step["now"])
        except Refused as refused:
            reason = refused.reason
        if reason != step.get("reason"):
            raise Refused(f"step {at}: {reason} instead of {step.get('reason')}")
    return None


JUDGES = {
    "envelope": judge_envelope,
    "credential": judge_credential,
    "credential-request": judge_request,
    "trust-bundle": judge_bundle,
    "trust-bundle-succession": judge_bundle_succession,
    "policy": judge_policy,
    "policy-candidate": judge_candidate,
    "policy-succession": judge_policy_succession,
    "kem-record": judge_kem_record,
    "head": judge_head,
    "head-about-revocations": judge_head_about,
    "revocations": judge_revocations,
    "revocations-succession": judge_revocations_succession,
    "limits": judge_limits,
    "replay": judge_replay,
}

# Bytes, in what a vector gives.
OCTETS = {"token", "original_token", "limits", "body"}


def plain(gives):
    """What a vector gives, with its octets as bytes."""
    if isinstance(gives, dict):
        return {
            name: octets(value) if name in OCTETS else plain(value)
            for name, value in gives.items()
        }
    if isinstance(gives, list):
        return [plain(value) for value in gives]
    return gives


def flipped_bits(vectors):
    """No bit of an accepted envelope can be another."""
    for vector in vectors.file["vectors"]:
        if vector["name"] not in (
            "event-with-every-field",
            "batch-of-5-place-4",
            "encrypted-x25519",
            "coded-reply",
            "chain-of-three",
        ):
            continue
        data = octets(vector["bytes"])
        for bit in range(8 * len(data)):
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            flipped = vector | {"bytes": bytes(changed).hex()}
            stage, _, _ = vectors.judge(flipped)
            if stage is None:
                yield f"{vector['name']}: bit {bit} can be flipped"


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        vectors = Vectors(json.load(file))
    passed, failed = 0, 0
    for vector in vectors.file["vectors"]:
        stage, reason, gives = vectors.judge(vector)
        expected = vector.get("stage"), vector.get("reason"), plain(vector.get("gives"))
        if vector["what"] == "limits":
            expected[2]["limits"] = narrowing.decode(expected[2]["limits"])
        if (stage, reason, gives) == expected:
            passed += 1
        else:
            failed += 1
            print(f"{vector['name']}: expected {expected}, got {(stage, reason, gives)}")
    for complaint in flipped_bits(vectors):
        failed += 1
        print(complaint)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
