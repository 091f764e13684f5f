"""What schemathesis has to know that no description says."""

import itertools
import re

import schemathesis

numbers = itertools.count()


@schemathesis.hook
def filter_case(context, case):
    # A header field that nobody knows is no mistake: who does not know it ignores it
    # (RFC 9110, section 5.1).
    return "x-schemathesis-unknown-property" not in (case.headers or {})


@schemathesis.hook
def map_body(context, body):
    return whole(body)


def whole(value):
    """30.0 is an integer to JSON Schema, and none to a service that reads integers."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: whole(member) for name, member in value.items()}
    if isinstance(value, list):
        return [whole(item) for item in value]
    return value


@schemathesis.hook
def before_call(context, case, kwargs):
    # A key names one request, and these are all different ones. What is no key stays none.
    key = (case.headers or {}).get("Idempotency-Key")
    if isinstance(key, str) and re.fullmatch(r"[!#-+\--:<-\[\]-~]{1,200}", key):
        case.headers["Idempotency-Key"] = f"{key}.{next(numbers)}"
