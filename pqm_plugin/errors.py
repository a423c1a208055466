"""The error for users: a message without a traceback."""


class PqmError(ValueError):
    """Something in the user's hands is wrong: the message names the file and the remedy, on one line.

    The command line prints it without a traceback and exits with 1.
    """
