"""Takes credentials out of text before anybody sees it: messages, logs, records, the progress display.

Where a text can be read in two ways the safe one is taken: rather too much is hidden than a piece of a password shown.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

HIDDEN = "***"

# Behind "://": everything up to the last "@" before a slash or space. A password that is not percent-escaped may hold
# slashes and spaces too; "name:" in front that is no "host:port" gives those away.
_USERINFO = re.compile(
    r"""(?<=://)(?:
        [^\s/]*@ (?:\S{0,1000}[^\s/]@)?
      | [^\s/:@\[]* : (?!\d{0,5}(?:[\s/?#:,;.'")\]]|$)) (?:\S{0,1000}@ | [^\r\n@]{0,1000}@)
    )""",
    re.VERBOSE,
)
# The same inside a percent-escaped URL, as a query parameter holds it.
_ESCAPED_USERINFO = re.compile(r"(?<=%3A%2F%2F)[^\s&/]*(?:%40|@)", re.IGNORECASE)

_PARAMETER = re.compile(
    r"""(?P<name>(?<=[?&;\#])[^\s?&;\#=/]{1,100}) = (?P<value>[^\s&]*?) (?=['")\]}>,.:]*(?:[\s&]|$))""", re.VERBOSE
)
_SECRET_NAME = re.compile(
    r"""token | secret | passw | passphrase | pwd | signature | credential | session | jwt
      | ^(?:pass|sig|auth|authorization|policy)$ | ^x-(?:amz|goog)- | (?:^|[-_.]|api|access|account)key(?:$|[-_.]?id$)""",
    re.VERBOSE | re.IGNORECASE,
)


def redact(text: str) -> str:
    """The text without the credentials of the URLs in it.

    User names and passwords in front of a host become `***`, and so do the values of query parameters that are named
    like secrets (`token`, `key`, `password`, `signature`, `X-Amz-...`). Other text stays as it is.
    """
    text = _USERINFO.sub(f"{HIDDEN}@", text)
    text = _ESCAPED_USERINFO.sub(f"{HIDDEN}%40", text)
    return _PARAMETER.sub(_hide_secret, text)


def _hide_secret(parameter: re.Match[str]) -> str:
    name = unquote(parameter["name"])
    return f"{parameter['name']}={HIDDEN}" if _SECRET_NAME.search(name) else parameter[0]
