"""A second reader of the envelope format, written from SPEC.md alone.

It is not for use: it shows that SPEC.md says enough to write one, and that the
test vectors mean what they say. Slow, plain, and close to the rules' text.
"""
