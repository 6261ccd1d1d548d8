"""The one error of this package."""


class DataSetError(ValueError):
    """Data that is absent, malformed or not what was asked for; the message is one sentence for who asked."""
