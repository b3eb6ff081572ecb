"""How FFmpeg is asked for a live stream: its options, the user and password, and what ails a certificate."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from pipeline.config.sources import Source

# What each scheme may lead to: its own transports, and no file and no web server.
PROTOCOLS = {
    "rtsp": "rtsp,rtp,srtp,udp,tcp,crypto",
    "rtsps": "rtsps,rtsp,rtp,srtp,udp,tcp,tls,crypto",
    "udp": "udp",
    "rtp": "rtp,srtp,udp,crypto",
}
# Room for the key frames of a high-resolution camera; the kernel may grant less (net.core.rmem_max).
_SOCKET_BUFFER_BYTES = 4 * 2**20
_FIFO_PACKETS = 50_000  # of 188 bytes; FFmpeg's thread empties the socket into it
_RTSPS_PORT = 322  # FFmpeg's own default


def scheme_of(url: str) -> str:
    """The scheme of a URL, in lower case."""
    return url.partition("://")[0].lower()


def live_options(scheme: str, settings: Source) -> dict[str, str]:
    """Options of FFmpeg's demuxer and protocol for a live stream, for `settings.options` to override."""
    # By default FFmpeg reads 20 frames to guess a rate before it hands over the first: 0.74 s at 30 frames/s, 4.5 s at
    # 2. The parameter sets tell size, format and rate of H.264 and HEVC; with 0 the first frame comes after two or
    # three (measured: 0.07-0.14 s). Nothing is lost by it, unlike with `fflags=nobuffer`, which drops the packets that
    # were looked at, and with them the first key frame. `probesize` and `analyzeduration` keep their defaults: they are
    # upper limits for streams whose parameter sets come late.
    options = {"fpsprobesize": "0"}
    timeout_us = str(round(settings.timeout_s * 1e6))
    if scheme in ("rtsp", "rtsps"):
        # Packets that come out of order wait for 0.1 s at most, FFmpeg's default for RTSP over UDP.
        options |= {
            "rtsp_transport": settings.transport,
            "allowed_media_types": "video",
            "timeout": timeout_us,
        }
        if settings.transport == "udp":
            options["buffer_size"] = str(_SOCKET_BUFFER_BYTES)
    elif scheme in ("udp", "rtp"):
        options |= {"timeout": timeout_us, "buffer_size": str(_SOCKET_BUFFER_BYTES)}
        if scheme == "udp":
            # A reader that was late for once loses packets, not the stream.
            options |= {"fifo_size": str(_FIFO_PACKETS), "overrun_nonfatal": "1"}
    return options


def with_credentials(url: str, settings: Source) -> str:
    """The URL with the configured user and password in it, unless it names a user itself. For FFmpeg, never to show."""
    scheme, separator, rest = url.partition("://")
    authority = rest.partition("/")[0]
    if settings.username is None or "@" in authority:
        return url
    userinfo = quote(settings.username, safe="")
    if settings.password is not None:
        userinfo += f":{quote(settings.password.get_secret_value(), safe='')}"
    return f"{scheme}{separator}{userinfo}@{rest}"


def certificate_fault(url: str, settings: Source, timeout_s: float) -> str | None:
    """What is wrong with the certificate of a server whose handshake failed; None if nothing, or if nobody looks at it.

    FFmpeg reports an untrusted certificate like any broken connection. Trying again mends the one and not the other,
    so another handshake tells them apart.
    """
    options = settings.options
    if options.get("tls_verify", "0") in ("", "0"):
        return None
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        context = ssl.create_default_context(cafile=options.get("ca_file") or options.get("cafile"))
        address = (host, parts.port or _RTSPS_PORT)
        with socket.create_connection(address, timeout_s) as plain, context.wrap_socket(plain, server_hostname=host):
            return None
    except ssl.SSLCertVerificationError as e:
        return e.verify_message.rstrip(".")
    except FileNotFoundError:
        return "there is no such ca_file"
    except (OSError, ValueError):
        return None
