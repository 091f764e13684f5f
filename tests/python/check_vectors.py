"""Runs every vector of a vectors.json through the reader.

    python check_vectors.py ../../sdk/envelope/testdata/vectors.json

Prints what disagrees, then how many passed and failed; exit code 1 if any failed.
"""

import json
import sys
from functools import cache

from bulla_reader import credentials, envelope, trust
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
            self.defaults["now"],
            self.defaults["skew"],
        )
        return credential

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
    envelope.verify(opened, credential)
    stage[0] = "check"
    envelope.check(opened, given)
    return envelope_gives(opened)


def envelope_gives(opened):
    header = opened.header
    gives = {
        "workload": opened.sender,
        "kind": opened.kind,
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
    return gives


def trace_text(value):
    return f"00-{value[:16].hex()}-{value[16:24].hex()}-{value[24:].hex()}"


def judge_credential(vectors, vector, given, stage):
    credential = credentials.decode_credential(octets(vector["bytes"]))
    stage[0] = "verify"
    credentials.verify_credential(
        credential, vectors.bundle(given), given["anchors"], given["now"], given["skew"]
    )
    request = credential.request
    return {
        "workload": credential.workload,
        "hash": credential.hash.hex(),
        "key_id": credential.key_id.hex(),
        "message_key": request.message_key.hex(),
        "token_key": request.token_key and request.token_key.hex(),
        "instance": request.instance.hex(),
        "not_before": credential.not_before,
        "expires_at": credential.expires_at,
        "serial": credential.serial.hex(),
    }


def judge_request(_, vector, given, stage):
    request = credentials.decode_request(octets(vector["bytes"]))
    stage[0] = "verify"
    credentials.verify_request(request, given)
    return {
        "workload": request.workload,
        "message_key": request.message_key.hex(),
        "token_key": request.token_key and request.token_key.hex(),
        "instance": request.instance.hex(),
        "requested_at": request.requested_at,
    }


def judge_bundle(_, vector, given, stage):
    stage[0] = "open"
    bundle = trust.open_bundle(octets(vector["bytes"]), given)
    return {
        "trust_domain": bundle.trust_domain,
        "version": bundle.version,
        "issued_at": bundle.issued_at,
        "expires_at": bundle.expires_at,
        "issuing": [
            {"key": key.hex(), "expires_at": end} for key, end in bundle.issuing.items()
        ],
        "policy_keys": [key.hex() for key in bundle.policy_keys],
    }


def judge_policy(vectors, vector, given, stage):
    stage[0] = "open"
    policy = open_policy(vectors, vector["bytes"], given)
    return {
        "trust_domain": policy.trust_domain,
        "revision": policy.revision,
        "issued_at": policy.issued_at,
        "text": policy.text,
    }


def open_policy(vectors, data, given):
    return trust.open_policy(
        octets(data), vectors.bundle(given), given["now"], given["skew"]
    )


def judge_bundle_succession(_, vector, given, stage):
    held = trust.open_bundle(octets(given["held"]), given)
    offered = trust.open_bundle(octets(vector["bytes"]), given)
    stage[0] = "open"
    trust.succeed(offered.version, held.version, offered == held)
    return {"version": offered.version}


def judge_policy_succession(vectors, vector, given, stage):
    held = open_policy(vectors, given["held"], given)
    offered = open_policy(vectors, vector["bytes"], given)
    stage[0] = "open"
    trust.succeed(offered.revision, held.revision, offered == held)
    return {"revision": offered.revision}


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
    "policy-succession": judge_policy_succession,
    "replay": judge_replay,
}

# Bytes, in what a vector gives.
OCTETS = {"token", "limits", "body"}


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
        if vector["name"] not in ("event-with-every-field", "batch-of-5-place-4", "reply"):
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
