"""`GET /files/…`: files behind signed links, for storage that cannot sign URLs of its own (a folder, the database).

Whoever holds a link may read that one file until the link's end; nothing else is served here. A link that was
changed or has ended is a 403, whether or not there is such a file.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response, StreamingResponse

from scalable_fastapi_system.infra.storage import InvalidKeyError, StoredFile
from scalable_fastapi_system.infra.storage.base import MAX_KEY_LENGTH
from scalable_fastapi_system.infra.storage.signing import FILES_PATH
from scalable_fastapi_system.kit.errors import APIException
from scalable_fastapi_system.web.conditional import has_current
from scalable_fastapi_system.web.dependencies import App
from scalable_fastapi_system.web.limits import carries_secrets, request_timeout

router = APIRouter(tags=["files"])

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_TOLD_BY_304 = ("Cache-Control", "ETag")
_FAILURES: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file, of the type that it was stored with", "content": {"*/*": {}}},
    206: {"description": "The part that Range asks for", "content": {"*/*": {}}},
    304: {"description": "The client has it already: If-None-Match names its ETag"},
    403: {"description": "The link is not one of ours, or has ended"},
    404: {"description": "The file is not there any more"},
    416: {"description": "The file has no such part"},
}


@router.get(f"{FILES_PATH}{{key:path}}", response_class=Response, responses=_FAILURES)
@router.head(f"{FILES_PATH}{{key:path}}", response_class=Response, include_in_schema=False)
@request_timeout(None)  # as long as the client goes on reading
@carries_secrets  # and a part of a file must not be compressed
async def get_file(
    request: Request,
    app: App,
    key: Annotated[str, Path(max_length=MAX_KEY_LENGTH)],
    expires: Annotated[int, Query(description="When the link ends, in seconds since 1970.", ge=0, le=2**53)],
    signature: Annotated[str, Query(max_length=100)],
    wanted: Annotated[str | None, Header(alias="Range")] = None,
    if_range: Annotated[str | None, Header(alias="If-Range")] = None,
    if_none_match: Annotated[str | None, Header(alias="If-None-Match")] = None,
) -> Response:
    """A file, or one range of its bytes, as it is; 304 for who has it already."""
    try:
        is_good = app.storage.accepts_link(key, expires=expires, signature=signature)
    except InvalidKeyError:
        is_good = False
    if not is_good:
        raise APIException("This link is not good, or not any more", 403, "LINK_NOT_VALID")
    found = await app.storage.get(key)
    file = found.file
    tag = f'"{file.sha256 or f"{file.size_bytes:x}-{file.modified_at.timestamp():.6f}"}"'
    headers = {
        "Accept-Ranges": "bytes",
        "Cache-Control": "private",
        # Never shown in the page's own origin, whatever it says it is.
        "Content-Disposition": f'attachment; filename="{key.rpartition("/")[2]}"',
        "Content-Type": file.content_type,
        "ETag": tag,
    }
    if has_current(if_none_match, tag):  # before a range is looked at: RFC 9110 section 13.2.2
        return Response(status_code=304, headers={name: headers[name] for name in _TOLD_BY_304})
    is_head = request.method == "HEAD"
    start, stop = 0, file.size_bytes
    # Ranges are for GET alone (section 14.2).
    part = _part(wanted, file) if not is_head and if_range in {None, tag} else None
    if part is not None:
        start, stop = part
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.size_bytes}"
    headers["Content-Length"] = str(stop - start)
    status_code = 200 if part is None else 206
    if is_head:
        return Response(status_code=status_code, headers=headers)
    return StreamingResponse(found.read(start, stop), status_code, headers)


def _part(wanted: str | None, file: StoredFile) -> tuple[int, int] | None:
    """First byte and the one after the last; None for the whole, also where several ranges are asked for.

    Raises APIException (416) for a range that begins after the end.
    """
    found = _RANGE.fullmatch(wanted or "")
    if found is None or found[0] == "bytes=-":
        return None
    first, last, size = found[1], found[2], file.size_bytes
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None  # no range at all: to be ignored (RFC 9110 section 14.1.1)
    if start >= stop:
        raise APIException(
            f"The file has {size} bytes",
            416,
            "RANGE_NOT_SATISFIABLE",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return start, stop
