"""The replay window in its naive form: ENV-40 to ENV-44."""

from .refusal import Refused


class Window:
    def __init__(self, skew):
        self.skew = skew
        self.now = 0
        self.seen = {}

    def commit(self, envelope, message, now):
        """Takes one message of an envelope that passed everything else."""
        self.now = max(self.now, now)
        header = envelope.header
        if self.now > header[8] + self.skew:
            raise Refused("expired")
        place = (header[2], header[3], header[4] + message)
        if place in self.seen:
            raise Refused("replayed" if self.seen[place] == envelope.leaf else "cloned_key")
        self.seen[place] = envelope.leaf
