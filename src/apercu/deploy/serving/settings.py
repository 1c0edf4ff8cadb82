"""The settings of a server."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from urllib.parse import urlsplit

from apercu.errors import ConfigError

MEGA = 1_000_000
HOSTS = ("127.0.0.1", "0.0.0.0", "::")
"""This machine alone, all its IPv4 addresses, all its addresses."""
MIN_TOKEN = 16
"""Letters of a token."""
EVERY = "*"
"""Stands for every host, or for every origin."""
KEEP_ALIVE = 5.0
"""Seconds that a connection stays open without a request, unless another number is set."""


@dataclass(frozen=True)
class Limits:
    """What one client, and all of them together, may ask for.

    Args:
        body: bytes of a request.
        pixels: pixels of one picture.
        queue: images that may wait.
        per_client: images that one address may have here at a time; None sets no limit.
        deadline: seconds from the first byte of a request to its answer.
    """

    body: int = 32 * MEGA
    pixels: int = 50 * MEGA
    queue: int = 64
    per_client: int | None = None
    deadline: float = 30.0


@dataclass(frozen=True)
class WorkerConfig:
    """The processes that explain.

    Args:
        workers: processes, each with the whole explainer; on a machine with GPUs, on each of them.
        batch: images that a worker takes together, at most.
        device: `cpu` or `cuda`.
    """

    workers: int = 1
    batch: int = 8
    device: str = "cpu"


@dataclass(frozen=True)
class AccessPolicy:
    """Which names a server without a token answers to, and which pages may use it.

    A page of a stranger can let its own name point to this machine (DNS rebinding); its requests
    then carry that name as the host, and its address as the origin.

    Args:
        hosts: names beside loopback names and the address of the connection itself; `*` for all.
        origins: addresses of pages, `https://lab.example`, which browsers let read the answers
            (CORS); `*` for all.

    Raises:
        ConfigError: an origin or a host is none.
    """

    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for host in self.hosts:
            name = host.lower().strip("[]")
            if host != EVERY and (not name or _read_host(f"//{host}") != name):
                raise ConfigError(f"host: expected a name such as lab.example, got {host[:80]}")
        for origin in self.origins:
            parts = _split_origin(origin)
            if origin not in (EVERY, "null") and (not parts or parts != origin.lower()):
                raise ConfigError(
                    f"origin: expected an address such as https://lab.example, got {origin[:80]}"
                )

    def is_host_allowed(self, host: str, own: str | None) -> bool:
        """Return whether the server answers to a host.

        Args:
            host: the header `Host`; empty where a client sends none, as no browser does.
            own: the address of this machine that the client is connected to.

        Returns:
            Whether it is a loopback name, named, or the address itself.
        """
        return not host or self._is_name_allowed(_read_host(f"//{host}"), own)

    def is_origin_allowed(self, origin: str, own: str | None) -> bool:
        """Return whether the server answers to a page.

        Args:
            origin: the header `Origin`; empty where a client sends none.
            own: the address of this machine that the client is connected to.

        Returns:
            Whether it is named, or a page of a host that is allowed.
        """
        if not origin or self.allows_reading(origin):
            return True
        return self._is_name_allowed(_read_host(origin), own)

    def allows_reading(self, origin: str) -> bool:
        """Return whether browsers let a page of an origin read the responses."""
        return EVERY in self.origins or origin.lower() in map(str.lower, self.origins)

    def _is_name_allowed(self, name: str, own: str | None) -> bool:
        if EVERY in self.hosts or name in (host.lower().strip("[]") for host in self.hosts):
            return True
        if name == "localhost" or name.endswith(".localhost"):
            return True
        address = _parse_address(name)
        return address is not None and (address.is_loopback or address == _parse_address(own or ""))


def _read_host(address: str) -> str:
    """Return the name or number of the host of an address in lower case; empty if it has none."""
    try:
        return (urlsplit(address).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _split_origin(address: str) -> str:
    """Return an address without its path, as browsers send it; empty if it is none."""
    try:
        parts = urlsplit(address.lower())
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme and parts.netloc else ""


def _parse_address(name: str) -> IPv4Address | IPv6Address | None:
    """Return an IP address, an IPv4 address in IPv6 as itself; None for a name."""
    try:
        address = ip_address(name.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


@dataclass(frozen=True)
class CaseSettings:
    """The folders of images that a server knows besides the explainer.

    Args:
        among: images among which similar ones are found; None for none.
        label: folder of images that are labelled on the page; None for none.
        labels: table to which labels are written, and whose labels similar images have; None for
            `labels.csv` in that folder, and for labels that the images have themselves.
        index: folder where the features of these images are kept; None keeps them until the end.
    """

    among: str | None = None
    label: Path | None = None
    labels: Path | None = None
    index: Path | None = None


@dataclass(frozen=True)
class CaseFolders:
    """Where a worker finds the images among which similar ones are found, and their features.

    Args:
        among: the images.
        index: folder of their features.
        labels: table of their labels; None for those that they have themselves.
    """

    among: str
    index: Path
    labels: Path | None = None


@dataclass(frozen=True)
class ServeSettings:
    """All settings of a server.

    Args:
        run: folder of a trained explainer, or of its export.
        classifier: SPEC of the explained classifier, if it is to predict itself.
        host: one of `HOSTS`.
        port: port to listen on, from 1024 on.
        token: bearer token that clients must send; None lets everyone in.
        limits: limits of requests.
        workers: the processes that explain.
        access: which names and pages are answered.
        keep_alive: seconds that a connection stays open without a request.
        cases: folders of images that the server knows.
        guard: folder of a guard, which judges the predictions; `none` for none, None for the one
            that the classifier's card names.

    Raises:
        ConfigError: the host is none of `HOSTS`, or labels could be written by strangers.
    """

    run: Path
    classifier: str | None = None
    host: str = HOSTS[0]
    port: int = 8000
    token: bytes | None = field(default=None, repr=False)
    limits: Limits = field(default_factory=Limits)
    workers: WorkerConfig = field(default_factory=WorkerConfig)
    access: AccessPolicy = field(default_factory=AccessPolicy)
    keep_alive: float = KEEP_ALIVE
    cases: CaseSettings = field(default_factory=CaseSettings)
    guard: str | None = None

    def __post_init__(self) -> None:
        if self.host not in HOSTS:
            raise ConfigError(f"host: expected one of {', '.join(HOSTS)}, got {self.host}")
        is_open = self.host != HOSTS[0] or self.access.hosts or self.access.origins
        if self.cases.label is not None and self.token is None and is_open:
            raise ConfigError(
                "label: labels are written from this machine only, unless a token is asked for; "
                "set --token-file, or leave --host, --allow-host and --allow-origin out"
            )
        has_images = self.cases.among is not None or self.cases.label is not None
        if self.cases.labels is not None and not has_images:
            raise ConfigError("labels: names the table of --label or --among; give one of them")
        if self.cases.index is not None and not has_images:
            raise ConfigError("index: keeps features for --among or --label; give one of them")


def read_token(path: Path) -> bytes:
    """Read a bearer token: the first line of a file.

    Raises:
        ConfigError: the file cannot be read, or its first line is too short to be a secret.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    token = lines[0].strip() if lines else b""
    if len(token) < MIN_TOKEN or not token.isascii() or b" " in token:
        raise ConfigError(
            f"{path}: expected a token of at least {MIN_TOKEN} ASCII letters without spaces "
            "on the first line"
        )
    return token
