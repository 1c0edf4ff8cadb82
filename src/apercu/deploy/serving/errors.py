"""What a server may answer besides the statuses of the error tree.

ApercuError
├── InputError
│   ├── RequestError    400   the body is no form and no JSON object
│   ├── TokenError      401   the token is missing or wrong
│   ├── UnknownError    404   there is nothing at this address
│   ├── TooLargeError   413   the body is larger than is allowed
│   ├── MediaError      415   the body is of a kind that is not read
│   └── GoneError       499   the caller hung up; nobody reads it, but it is counted
└── RefusedError        503   nothing is wrong with the request; send it again
    ├── CrowdError      429   one address has as many images here as it may
    ├── BusyError       503   all places are taken
    ├── LostError       503   the worker that had the image stopped
    └── LateError       504   no answer within the deadline
"""

from __future__ import annotations

from apercu.errors import ApercuError, InputError


class RequestError(InputError):
    """The body is neither a form nor a JSON object."""

    status = 400


class TokenError(InputError):
    """The bearer token is missing or wrong."""

    status = 401


class UnknownError(InputError):
    """There is nothing at this address."""

    status = 404


class TooLargeError(InputError):
    """The body is larger, or holds more images, than is allowed."""

    status = 413


class MediaError(InputError):
    """The body is of a kind that is not read."""

    status = 415


class GoneError(InputError):
    """The caller hung up before there was an answer."""

    status = 499


class RefusedError(ApercuError):
    """Nothing is wrong with the request, but it is not answered now."""

    status = 503
    retry_after = 1
    """Seconds after which it makes sense to ask again."""


class CrowdError(RefusedError):
    """One address has as many images here as it may."""

    status = 429


class BusyError(RefusedError):
    """All places are taken."""


class LostError(RefusedError):
    """The worker that had the image stopped."""


class LateError(RefusedError):
    """No answer within the deadline."""

    status = 504
