"""Exceptions of GaFi."""


class Error(Exception):
    """A failure of GaFi. The message says what was expected, what was found, and where."""


class UsageError(Error, ValueError):
    """An argument, a configuration or an input is invalid."""


class ExhaustedError(Error):
    """Too few samples of a class pass the filter, or do so under every setting of a search; the message names the classes."""


class LockedError(Error):
    """Another process writes the same artifact or run. The same call works once it has ended."""
