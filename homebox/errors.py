"""Every exception that homebox raises on purpose, in one place.

Each class owns the exit code of the command line and the HTTP status of the server, so that no
caller has to map errors by hand. The text of an error says what happened, where, and what to do.
"""


class HomeboxError(Exception):
    """Base of all errors that a person is meant to read."""

    exit_code = 1
    status = 500
    code = "internal_error"


class ConfigError(HomeboxError):
    """A configuration file, key or option is wrong."""

    exit_code = 2


class UsageError(HomeboxError):
    """A command was called with words it does not know."""

    exit_code = 2


class ModelFormatError(HomeboxError):
    """A model, tokenizer or adapter file is broken or not supported; names file and field."""

    exit_code = 3
    status = 400
    code = "model_format"


class ModelNotFoundError(HomeboxError):
    """No such model, checkpoint or directory."""

    exit_code = 3
    status = 404
    code = "model_not_found"


class RequestError(HomeboxError):
    """An API request is malformed; `param` names the field."""

    exit_code = 2
    status = 400
    code = "invalid_request_error"

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        if code is not None:
            self.code = code


class ContextLengthError(RequestError):
    """Prompt and answer do not fit into the context window."""

    def __init__(self, limit: int, asked: int) -> None:
        self.limit = limit
        self.asked = asked
        super().__init__(
            f"This model's maximum context length is {limit} tokens. However, your messages "
            f"resulted in {asked} tokens. Please reduce the length of the messages.",
            param="messages",
            code="context_length_exceeded",
        )


class UnknownResponseError(RequestError):
    """No response of that id was stored, or it is another owner's."""

    status = 404

    def __init__(self, id: str, param: str | None = None) -> None:
        super().__init__(
            f"Response with id {id[:100]!r} not found; send the whole conversation as input",
            param,
            "not_found" if param is None else "previous_response_not_found",
        )


class BusyError(HomeboxError):
    """The box is busy with the same thing already, or its queue is full; try again later."""

    exit_code = 4
    status = 429
    code = "busy"


class StateError(HomeboxError):
    """The state directory is missing, foreign, damaged or used by another daemon."""

    exit_code = 5


class DiskFullError(StateError):
    """There is no space on the state's disk; what was refused can be written later."""


class MissingObjectError(StateError):
    """The store has no object of that name."""


class DamagedObjectError(StateError):
    """An object's bytes no longer match its name."""


class DamagedPrefixError(HomeboxError):
    """A kept prefix's file is damaged, foreign or open to others; it is computed anew."""


class UnknownWeightsError(StateError):
    """No checkpoint has that name."""

    exit_code = 6
    status = 404
    code = "model_not_found"


class AmbiguousWeightsError(UnknownWeightsError):
    """A prefix fits several checkpoints."""


class LearningError(HomeboxError):
    """A learning run could not start or did not promote."""

    exit_code = 7


class DivergedError(LearningError):
    """The loss of a learning run stopped being a number; a gentler recipe may do better."""


class EngineError(HomeboxError):
    """The tensor engine was asked for something impossible, or its own invariant broke."""


class DeviceError(EngineError):
    """A compute device is missing, unsupported or out of memory."""

    status = 503
    code = "device"


class NoFreeSlotError(BusyError):
    """Every KV cache slot of the model is taken by a running answer."""

    status = 503


class UnauthorizedError(HomeboxError):
    """The request carries no token, or a wrong one."""

    status = 401
    code = "invalid_api_key"


class ForbiddenError(HomeboxError):
    """The request comes from where it must not come from: a foreign Host or Origin."""

    status = 403
    code = "forbidden"


class DaemonError(HomeboxError):
    """The daemon could not start, could not be reached, or broke off."""

    exit_code = 8
    status = 503
    code = "unavailable"


class PullError(HomeboxError):
    """A model could not be brought here: the net, the hub, the disk, or wrong bytes."""

    exit_code = 9
    status = 502
    code = "pull_failed"


class OutOfDeviceMemoryError(DeviceError):
    """A device has no room for what was asked; the text has the numbers."""

    code = "out_of_device_memory"


class DeviceLostError(DeviceError):
    """A device disappeared or its driver gave up; nothing works on it until it is opened again."""

    code = "device_lost"
