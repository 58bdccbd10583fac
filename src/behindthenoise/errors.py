"""What can go wrong, as a tree. Each message says what is wrong, what is allowed and what to do."""


class BehindTheNoiseError(Exception):
    """Any error that a user can cause and mend; the command line prints it and exits with status 2."""


class ConfigError(BehindTheNoiseError):
    """The configuration asks for something unknown, ill-typed or impossible."""


class SourceError(BehindTheNoiseError):
    """A source file is missing, unreadable, or its arrays do not fit together."""


class RemoteError(BehindTheNoiseError):
    """A URL cannot be reached, or holds something else than it should."""


class SplitError(BehindTheNoiseError):
    """Training, calibration and test data cannot be kept apart as asked."""


class GraphError(BehindTheNoiseError):
    """A network with the requested properties does not exist."""


class StoppedError(BehindTheNoiseError):
    """The process was asked to end and has saved its state."""


class TrainingError(BehindTheNoiseError):
    """A network cannot be trained with these settings on these data."""


class CalibrationError(BehindTheNoiseError):
    """The calibration data cannot carry the guarantee that was asked for."""


class MemoryLimitError(BehindTheNoiseError):
    """The work does not fit into the memory that was given."""


class StoreError(BehindTheNoiseError):
    """A store of this run is incomplete, damaged or does not belong to this run."""
