"""Why something is refused."""


class Refused(Exception):
    """A rule is broken; `reason` is a code of the vectors' table."""

    def __init__(self, reason):
        super().__init__(reason)
        self.reason = reason
