"""Handler of Inference Endpoints (https://huggingface.co/docs/inference-endpoints/guides/custom_handler).

The toolkit puts this repository's folder in place, installs requirements.txt and calls `EndpointHandler(folder)` once,
then the handler for each request. The model's code is the installed cskd_hf, or else this repository's own.
"""

from __future__ import annotations

import base64
import binascii
import importlib.util
import os
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from PIL import Image
from transformers import pipeline

TASK = "image-aesthetics"
DOWNLOAD_SECONDS = 20
_PARAMETERS = {"distribution": True, "provenance": False}


class EndpointHandler:
    """Scores the image or images of a request.

    Environment variables of the endpoint:
        CSKD_MAX_IMAGES: images a request; 32 when not set.
        CSKD_MAX_BYTES: encoded bytes of an image; 20 MiB when not set.
        CSKD_MAX_PIXELS: width times height of an image; 50 million when not set.
        CSKD_URL_HOSTS: hosts, with commas between them, that images may be fetched from by http(s); none when not set,
            since whoever may call the endpoint could otherwise read what only the endpoint can reach.

    Args:
        path: folder of the repository.
    """

    def __init__(self, path: str = "") -> None:
        self.max_images = _limit("CSKD_MAX_IMAGES", 32)
        self.max_bytes = _limit("CSKD_MAX_BYTES", 20 * 2**20)
        self.max_pixels = _limit("CSKD_MAX_PIXELS", 50_000_000)
        hosts = os.environ.get("CSKD_URL_HOSTS", "")
        self.url_hosts = frozenset(host.strip().lower() for host in hosts.split(",") if host.strip())
        self.rate = _load_pipeline(path)
        code = sys.modules[type(self.rate).__module__]
        self._load_image, self._error = code.load_image, code.ImageLoadError

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
        """Answer one request.

        Args:
            data: `inputs`: a PIL image (what the toolkit makes of an image body), encoded bytes, a base64 string, a data
                URI, or a list of these; and optionally `parameters`: `distribution` (default true) and `provenance`
                (default false), whether the results hold them.

        Returns:
            For one image its `score`, `score_std`, `scale`, `distribution` and, of a model that has them, `attributes`;
            for a list, a list of these. `{"error": ...}` in the place of an image that cannot be scored, or alone where
            the request as a whole is refused.
        """
        try:
            inputs, wanted = self._checked(data)
        except ValueError as error:
            return {"error": str(error)}
        single = not isinstance(inputs, list)
        results = self.rate.score_many([inputs] if single else inputs, load=self._load)
        dropped = {name for name, kept in wanted.items() if not kept}
        results = [{key: value for key, value in result.items() if key not in dropped} for result in results]
        return results[0] if single else results

    def _checked(self, data: Mapping[str, Any]) -> tuple[Any, dict[str, bool]]:
        if not isinstance(data, Mapping) or "inputs" not in data:
            raise ValueError("the request has no 'inputs'; give an image, a base64 string or a list of these.")
        inputs, parameters = data["inputs"], data.get("parameters")
        if isinstance(inputs, tuple):
            inputs = list(inputs)
        if isinstance(inputs, list) and not 1 <= len(inputs) <= self.max_images:
            raise ValueError(f"'inputs' holds {len(inputs)} images; allowed: 1 to {self.max_images} a request.")
        parameters = {} if parameters is None else parameters
        if not isinstance(parameters, Mapping):
            raise ValueError(f"'parameters' is {type(parameters).__name__}; allowed: an object of names and values.")
        for name, value in parameters.items():
            if name not in _PARAMETERS:
                raise ValueError(f"unknown parameter {str(name)[:40]!r}; allowed: {', '.join(_PARAMETERS)}.")
            if not isinstance(value, bool):
                raise ValueError(f"parameter '{name}' is {str(value)[:40]!r}; allowed: true or false.")
        return inputs, _PARAMETERS | dict(parameters)

    def _load(self, source: Any) -> Image.Image:
        if not isinstance(source, Image.Image):
            # Bytes from here on: the loader takes text for a path or a URL, and both are the endpoint's own.
            source = self._encoded(source)
        return self._load_image(source, max_pixels=self.max_pixels)

    def _encoded(self, source: Any) -> bytes:
        if isinstance(source, str) and source[:8].lower().startswith(("http://", "https://")):
            encoded = self._download(source)
        elif isinstance(source, str):
            encoded = self._from_base64(source)
        elif isinstance(source, (bytes, bytearray)):
            encoded = bytes(source)
        else:
            raise self._error(
                f"<{type(source).__name__}>",
                "allowed: an image body, a base64 string or a data URI, or a list of these",
            )
        self._check_size(len(encoded))
        return encoded

    def _check_size(self, n_bytes: int) -> None:
        if n_bytes > self.max_bytes:
            raise self._error("<encoded image>", f"it is larger than {self.max_bytes} bytes, the limit")

    def _from_base64(self, text: str) -> bytes:
        if text[:5].lower() == "data:":
            header, comma, text = text.partition(",")
            if not comma or not header.lower().endswith(";base64"):
                raise self._error("<data URI>", "allowed: data:<type>;base64,<data>")
        self._check_size(len(text) * 3 // 4 - 2)
        try:
            return base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError) as error:
            raise self._error("<text>", f"it is no base64 ({error}); paths are not read") from error

    def _download(self, url: str) -> bytes:
        name = url.split("?")[0][:200]
        if not self.url_hosts:
            raise self._error(name, "this endpoint fetches no URLs; send the image itself, as a body or as base64")
        opener = urllib.request.build_opener(_AllowedHosts(self.url_hosts))
        deadline = time.monotonic() + DOWNLOAD_SECONDS
        body = bytearray()
        try:
            _check_host(url, self.url_hosts)
            with opener.open(url, timeout=DOWNLOAD_SECONDS) as response:
                while chunk := response.read1(2**16):
                    body += chunk
                    self._check_size(len(body))
                    if time.monotonic() > deadline:
                        raise self._error(name, f"the download took longer than {DOWNLOAD_SECONDS} s")
        except self._error:
            raise
        except Exception as error:  # URLError, HTTPException and socket errors, and ValueError for a malformed URL
            raise self._error(name, f"the download failed ({type(error).__name__}: {str(error)[:200]})") from error
        return bytes(body)


class _AllowedHosts(urllib.request.HTTPRedirectHandler):
    """Follows a redirect only to an allowed host."""

    def __init__(self, hosts: frozenset[str]) -> None:
        self._hosts = hosts

    def redirect_request(self, request: Any, file: Any, code: int, message: str, headers: Any, url: str) -> Any:
        _check_host(url, self._hosts)
        return super().redirect_request(request, file, code, message, headers, url)


def _check_host(url: str, hosts: frozenset[str]) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme.lower() not in ("http", "https") or (parts.hostname or "").lower() not in hosts:
        raise ValueError("its host is not among those that this endpoint fetches images from")


def _limit(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"the environment variable {name} is {text!r}; allowed: a whole number of at least 1.")
    return int(text)


def _load_pipeline(path: str) -> Any:
    if importlib.util.find_spec("cskd_hf") is None:
        return pipeline(TASK, model=path, trust_remote_code=True)  # code of the repository that this file is of
    from cskd_hf import ImageAestheticsPipeline

    # The class by name: a repository with code of its own is otherwise asked first, even beside the installed package.
    return pipeline(TASK, model=path, pipeline_class=ImageAestheticsPipeline)
