"""What a server may answer besides the statuses of the error tree.

ApercuError
├── InputError
│   ├── BadRequestError           400   the body is neither a form nor a JSON object
│   ├── TokenError                401   the token is missing or wrong
│   ├── ForbiddenError            403   the host or the origin of the request is a stranger
│   ├── NotFoundError             404   there is nothing at this address
│   ├── ConflictError             409   somebody else was faster, or the server started anew
│   ├── TooLargeError             413   the body is larger than is allowed
│   ├── UnsupportedMediaError     415   the body has a type that is not read
│   │   └── UnsupportedEncodingError 415 it is compressed in a way that is not read
│   └── ClientDisconnectedError   499   the client disconnected; it is counted, nobody reads it
└── UnavailableError              503   nothing is wrong with the request; send it again
    ├── TooManyRequestsError      429   one address has as many images here as it may
    ├── BusyError                 503   all places are taken
    ├── WorkerLostError           503   the worker that had the image stopped
    └── DeadlineExceededError     504   no answer within the deadline
"""

from __future__ import annotations

from apercu.errors import ApercuError, InputError


class BadRequestError(InputError):
    """The body is neither a form nor a JSON object."""

    status = 400


class TokenError(InputError):
    """The bearer token is missing or wrong."""

    status = 401


class ForbiddenError(InputError):
    """The host or the origin of the request is a stranger."""

    status = 403


class NotFoundError(InputError):
    """There is nothing at this address."""

    status = 404


class ConflictError(InputError):
    """Another page has changed what the request would change, or the server was started again."""

    status = 409


class TooLargeError(InputError):
    """The body is larger, or holds more images, than is allowed."""

    status = 413


class UnsupportedMediaError(InputError):
    """The body has a type that is not read."""

    status = 415


class UnsupportedEncodingError(UnsupportedMediaError):
    """The body is compressed in a way that is not read."""


class ClientDisconnectedError(InputError):
    """The client disconnected before there was an answer."""

    status = 499


class UnavailableError(ApercuError):
    """Nothing is wrong with the request, but it is not answered now."""

    status = 503
    retry_after = 1
    """Seconds after which it makes sense to send the request again."""


class TooManyRequestsError(UnavailableError):
    """One address has as many images here as it may."""

    status = 429


class BusyError(UnavailableError):
    """All places are taken."""


class WorkerLostError(UnavailableError):
    """The worker that had the image stopped."""


class DeadlineExceededError(UnavailableError):
    """There was no answer within the deadline."""

    status = 504
