"""Questions about photos asked of a vision model behind an OpenAI-compatible endpoint.

An original photo is sent only where its owner has said so; the key is in no message and no representation.
"""

from __future__ import annotations

import base64
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import IO, Any, Final
from urllib.parse import urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from models.pictures import encode_picture
from training.audit.questions import UNANSWERED, Question

_LARGEST_REPLY: Final = 1 << 20
_LONGEST_SIDE: Final = 1024
_PASSING: Final = (408, 409, 429, 500, 502, 503, 504)
"""Statuses after which the same question may be answered."""
_LOCAL: Final = ("127.0.0.1", "::1", "localhost")


class VisionEndpointError(RuntimeError):
    """The endpoint cannot be asked, or does not answer as one of its kind."""


class OriginalsRefusedError(VisionEndpointError):
    """An original photo was to be sent without the setting that allows it."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture to ask about.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        is_original: Whether it shows a face that was not replaced.
    """

    pixels: NDArray[np.uint8]
    is_original: bool


@dataclass(frozen=True, slots=True)
class VisionEndpoint:
    """An endpoint and what may be sent to it.

    Attributes:
        url: Base address, as `https://host/v1`; plain http goes to this machine only.
        model: Name of the model.
        key: Sent as a bearer token; None where none is asked for.
        sends_originals: Whether original photos may be sent.
        timeout: Seconds for one answer.
        retries: Further tries after a passing failure.
        pause: Seconds before the first of them; each is twice as long as the one before.
        sleep: Waits.
    """

    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    sends_originals: bool = False
    timeout: float = 60.0
    retries: int = 3
    pause: float = 1.0
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        check_url(self.url)
        if self.key is not None and not re.fullmatch(r"[!-~]+", self.key):
            raise VisionEndpointError("the key of the endpoint must be printable characters without spaces")

    def ask(self, question: Question, pictures: Sequence[Shown]) -> int:
        """Ask a question about a picture, or about one and the numbered ones after it.

        Args:
            question: The question.
            pictures: The pictures in order, at least one.

        Returns:
            The chosen answer, or `UNANSWERED` where the reply is none of them.

        Raises:
            OriginalsRefusedError: A picture is an original and originals may not be sent; nothing was sent.
            VisionEndpointError: There is no answer after all tries, or the endpoint refuses.
        """
        if any(picture.is_original for picture in pictures) and not self.sends_originals:
            raise OriginalsRefusedError("an original photo is sent to an endpoint only with send_originals=true")
        body = json.dumps({"model": self.model, "temperature": 0, "messages": [_message(question, pictures)]})
        return parse_choice(self._reply(body.encode()), question.choices)

    def _reply(self, body: bytes) -> str:
        reason = ""
        for attempt in range(self.retries + 1):
            if attempt:
                self.sleep(self.pause * 2 ** (attempt - 1))
            try:
                return _content(self._post(body))
            except urllib.error.HTTPError as error:
                reason = f"status {error.code}"
                error.close()
                if error.code not in _PASSING:
                    raise VisionEndpointError(f"the endpoint refuses with {reason}") from None
            except (OSError, HTTPException) as error:
                reason = type(error).__name__
        raise VisionEndpointError(f"no answer from the endpoint after {self.retries + 1} tries: {reason}")

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, headers)
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if urlsplit(self.url).hostname in _LOCAL:
            handlers.append(urllib.request.ProxyHandler({}))
        with urllib.request.build_opener(*handlers).open(request, timeout=self.timeout) as response:
            data: bytes = response.read(_LARGEST_REPLY + 1)
        if len(data) > _LARGEST_REPLY:
            raise VisionEndpointError(f"the endpoint's reply is larger than {_LARGEST_REPLY} bytes")
        return data


def check_url(url: str) -> None:
    """Refuse addresses that photos or a key must not be sent to.

    Args:
        url: The base address.

    Raises:
        VisionEndpointError: It is not https (or http to this machine), or has a user, a query or a fragment in it.
    """
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError:
        raise VisionEndpointError("the address of the endpoint cannot be read") from None
    if not host or not (parts.scheme == "https" or (parts.scheme == "http" and host in _LOCAL)):
        raise VisionEndpointError("the address of the endpoint must be https, or http on this machine")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise VisionEndpointError("the address of the endpoint must have no user, no query and no fragment in it")


def parse_choice(reply: str, choices: Sequence[str]) -> int:
    """Read a reply as one of the offered choices.

    Args:
        reply: Letter of a choice, its words, or both, on the first line that says anything.
        choices: The choices; A is the first.

    Returns:
        The choice, or `UNANSWERED`.
    """
    lines = [line.strip() for line in reply.splitlines() if line.strip()]
    said = lines[0].strip("*_`'\"().: ").casefold() if lines else ""
    for place, choice in enumerate(choices):
        letter, words = chr(ord("a") + place), choice.casefold()
        if said in (letter, words) or re.fullmatch(rf"\(?{letter}[).: -]+{re.escape(words)}", said):
            return place
    return UNANSWERED


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: photos and key go to the address that was configured, or nowhere."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> None:
        return None


def _message(question: Question, pictures: Sequence[Shown]) -> dict[str, object]:
    offered = "\n".join(f"{chr(ord('A') + place)}) {choice}" for place, choice in enumerate(question.choices))
    text = f"{question.text}\n{offered}\nReply with the letter of one answer and nothing else."
    content: list[dict[str, object]] = [{"type": "text", "text": text}]
    for number, picture in enumerate(pictures):
        if number:
            content.append({"type": "text", "text": f"Picture {number}:"})
        content.append({"type": "image_url", "image_url": {"url": _data_url(picture.pixels)}})
    return {"role": "user", "content": content}


def _data_url(pixels: NDArray[np.uint8]) -> str:
    scale = _LONGEST_SIDE / max(pixels.shape[:2])
    if scale < 1:
        size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    return "data:image/jpeg;base64," + base64.b64encode(encode_picture(pixels)).decode()


def _content(data: bytes) -> str:
    try:
        content = json.loads(data)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        raise VisionEndpointError("the endpoint's reply is not a chat completion") from None
    return content if isinstance(content, str) else ""
