"""The error that a user can cause."""


class RequestError(ValueError):
    """What was asked for can't be done.

    Its message is one sentence that says what is wrong, with the value, and how to mend it.
    It is raised before anything is trained or written; the command line prints it and exits
    with status 2.
    """
