"""The errors that end a run, or keep it from beginning."""


class RequestError(ValueError):
    """What was asked for can't be done.

    Its message is one sentence that says what is wrong, with the value, and how to mend it.
    It is raised before anything of a run is trained or written. The command line prints it and
    exits with status 2; a sweep that is under way goes on without the run, and exits with 1.
    """


class WrongJobs(RequestError):
    """Some jobs of a sweep can't be carried out; the message has lines for each."""


class RunFailed(Exception):
    """A run ended by an error, which its record and its log tell."""


class JobFailed(Exception):
    """A job of a sweep ended in another process, by an error that the message names."""
