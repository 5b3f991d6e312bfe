"""What can go wrong in a search, said so that the reader knows what to do."""


class SearchError(RuntimeError):
    """The search cannot go on; the message says why, and what to do. What is on disk stays valid."""


class RunDirectoryError(SearchError):
    """The run directory cannot be written, is in use, or does not belong to this configuration or version."""


class TooManyFailuresError(SearchError):
    """More candidates of one generation failed than the configuration allows."""


class MissingExtraError(SearchError):
    """An optional package is needed; the message names the extra to install."""
